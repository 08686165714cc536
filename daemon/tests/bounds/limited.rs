//! A daemon in a process of its own that may not have more than so much address space.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use hone::v1::dataset_service_client::DatasetServiceClient;
use hone::v1::inference_service_client::InferenceServiceClient;
use hone::v1::training_service_client::TrainingServiceClient;
use hone::v1::upload_dataset_request::Part;
use hone::v1::{
    ClassifyRequest, DataSource, Dataset, DryRunResponse, Hyperparameters, Input, Job, JobSpec,
    StartJobRequest, UploadDatasetRequest, UploadHeader, WatchJobRequest,
};
use hone_engine::model::config::Config;
use hone_engine::model::declaration::{Declaration, Place};
use tonic::Status;
use tonic::transport::Channel;

/// The address space of the daemons: what they have from the start, and some hundred MiB.
pub(crate) const KIB: u64 = 1 << 20;

/// A daemon that ends with this.
pub(crate) struct Limited {
    child: Child,
    pub(crate) address: String,
    pub(crate) channel: Channel,
    _data: tempfile::TempDir,
}

impl Limited {
    /// Starts a daemon with more arguments, and trains a model that answers from then on.
    pub(crate) async fn start(more: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v \"$0\" && exec \"$@\"", &KIB.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_daemon"));
        command.args(["--listen", "127.0.0.1:0", "--device", "cpu", "--threads", "2", "--log", "warn"]);
        command.arg("--model").arg(fixture()).arg("--data-dir").arg(data.path()).args(more);
        // Address space that is only set aside, for arenas and threads, would make the limit that of the machine's cores.
        command.envs([("MALLOC_ARENA_MAX", "2"), ("TOKIO_WORKER_THREADS", "2")]).env_remove("HONE_ISA");
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a daemon");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        let daemon = Self { child, address, channel, _data: data };
        let rows: String =
            (0..40).map(|row| if row % 2 == 0 { "a fine film,good\n" } else { "so dull,bad\n" }).collect();
        let dataset =
            daemon.upload("toy.csv", format!("text,label\n{rows}").into_bytes()).await.expect("an upload");
        let job = daemon.start_job(spec(&dataset, Hyperparameters::default())).await.expect("a job");
        let request = WatchJobRequest { job_id: job.id, after: 0 };
        let mut events = daemon.training().watch(request).await.expect("events").into_inner();
        while events.message().await.expect("an event").is_some() {}
        daemon.answers().await;
        daemon
    }

    /// Shows that the daemon lives and serves.
    pub(crate) async fn answers(&self) {
        let request = ClassifyRequest {
            model: "toy".into(),
            inputs: vec![Input { text: "a fine film".into(), ..Input::default() }],
            ..ClassifyRequest::default()
        };
        let answer = InferenceServiceClient::new(self.channel.clone()).classify(request).await;
        assert_eq!(answer.expect("an answer").into_inner().predictions.len(), 1);
    }

    /// A number that the kernel has of the daemon's process, such as `VmHWM`, in KiB, or `Threads`.
    pub(crate) fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a status");
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
        line.split_whitespace().next().expect("a number").parse().expect("a number")
    }

    pub(crate) fn training(&self) -> TrainingServiceClient<Channel> {
        TrainingServiceClient::new(self.channel.clone())
    }

    pub(crate) fn datasets(&self) -> DatasetServiceClient<Channel> {
        DatasetServiceClient::new(self.channel.clone())
    }

    /// Uploads bytes under a name.
    pub(crate) async fn upload(&self, name: &str, bytes: Vec<u8>) -> Result<Dataset, Status> {
        let mut parts = vec![header(name)];
        parts.extend(bytes.chunks(1 << 20).map(chunk));
        Ok(self.datasets().upload(tokio_stream::iter(parts)).await?.into_inner())
    }

    pub(crate) async fn start_job(&self, spec: JobSpec) -> Result<Job, Status> {
        Ok(self.training().start(StartJobRequest { spec: Some(spec), request_id: None }).await?.into_inner())
    }

    pub(crate) async fn dry_run(&self, spec: JobSpec) -> Result<DryRunResponse, Status> {
        Ok(self
            .training()
            .dry_run(StartJobRequest { spec: Some(spec), request_id: None })
            .await?
            .into_inner())
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn header(name: &str) -> UploadDatasetRequest {
    let header = UploadHeader { name: name.into(), ..UploadHeader::default() };
    UploadDatasetRequest { part: Some(Part::Header(header)) }
}

pub(crate) fn chunk(bytes: &[u8]) -> UploadDatasetRequest {
    UploadDatasetRequest { part: Some(Part::Chunk(bytes.to_vec())) }
}

/// A job on a data set.
pub(crate) fn spec(train: &Dataset, hyperparameters: Hyperparameters) -> JobSpec {
    let train = DataSource { dataset_id: train.id.clone(), name: None };
    let hyperparameters = Hyperparameters { epochs: Some(1), ..hyperparameters };
    JobSpec { train: Some(train), hyperparameters: Some(hyperparameters), ..JobSpec::default() }
}

/// A CSV whose rows are two, over and over, packed: so many times a thousand rows, with texts of so many characters.
pub(crate) fn packed(thousands: usize, characters: usize) -> Vec<u8> {
    let member = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).expect("packed");
        encoder.finish().expect("packed")
    };
    let text = "many a word ".repeat(characters.div_ceil(12));
    let rows = format!("{0},good\n{0},bad\n", &text[..characters]).repeat(500);
    let mut bytes = member("text,label\n");
    bytes.extend(member(&rows).repeat(thousands));
    bytes
}

/// A folder with an encoder that takes 512 tokens of a text; its weights are zeros.
pub(crate) fn long_encoder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture().join(name), folder.path().join(name)).expect("a copy");
    }
    let text = std::fs::read_to_string(fixture().join("config.json")).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("json");
    let sizes = [("hidden_size", 64), ("intermediate_size", 256), ("num_hidden_layers", 4)];
    for (name, size) in sizes.into_iter().chain([("max_position_embeddings", 514)]) {
        config[name] = size.into();
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let architecture = Config::parse(&config.to_string()).expect("a configuration").architecture;
    let (mut header, mut length) = (serde_json::Map::new(), 0);
    let declared = Declaration::new(&architecture, 2).parameters;
    for declared in declared.into_iter().filter(|declared| declared.place != Place::Head) {
        let shape = declared.part_shape();
        for name in &declared.parts {
            let end = length + 4 * shape.iter().product::<usize>();
            let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [length, end]});
            header.insert(name.split_once('.').expect("a prefix").1.to_owned(), entry);
            length = end;
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.resize(bytes.len() + length, 0);
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("written");
    folder
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny_roberta")
}
