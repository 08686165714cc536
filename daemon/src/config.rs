//! What the operator decides: flags, each also an environment variable.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use candle_core::Device;
use clap::Parser;

use crate::jobs::restart::ResumeJobs;
use crate::serve::load;
use crate::serve::queue::Policy;
use crate::telemetry::LogFormat;
use hone_base::error::{Error, Result};
use hone_data::Limits;
use hone_storage::ServePrecision;
use hone_train::host::{HostMemory, MemoryLimit, Room};

/// The daemon of Hone: fine-tunes text classifiers and serves them over gRPC.
#[derive(Clone, Debug, Parser)]
#[command(name = "daemon", version, max_term_width = 100)]
#[command(
    after_help = "When it is ready, the daemon prints one line on standard output: `listening on ADDRESS`. Logs \
                        go to standard error. The first Ctrl-C or SIGTERM stops it gracefully, the second at once.\n\n\
                        Exit codes: 0 after a graceful stop, 2 for a wrong option or an encoder (--model) that cannot \
                        be used, 130 after a second signal, 1 for any other failure."
)]
pub struct Config {
    /// Address to listen on; port 0 takes any free port
    #[arg(long, env = "HONE_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    pub listen: String,

    /// Folder of everything that the daemon keeps: data sets, jobs, models [default:
    /// $XDG_DATA_HOME/hone or ~/.local/share/hone]
    #[arg(long, env = "HONE_DATA_DIR", value_name = "FOLDER", default_value_os_t = default_data_dir(), hide_default_value = true)]
    pub data_dir: PathBuf,

    /// Where to compute: auto (a GPU when there is one), cpu, cuda or cuda:N
    #[arg(long, env = "HONE_DEVICE", value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,

    /// Encoder that a job without one starts from: a folder, or a Hugging Face id with an optional
    /// revision after '@'
    #[arg(
        long,
        env = "HONE_MODEL",
        value_name = "ID_OR_FOLDER",
        default_value = "sentence-transformers/all-MiniLM-L6-v2"
    )]
    pub model: String,

    /// Threads that compute: so many for training, as many for answers, which go first, and as many for
    /// the tokens of files [default: as many as the machine has]
    #[arg(long, env = "HONE_THREADS", value_name = "N", default_value_t = default_threads(), hide_default_value = true)]
    pub threads: NonZeroUsize,

    /// Jobs that ran when the daemon stopped: auto (they continue by themselves) or manual (they wait for `client
    /// resume`)
    #[arg(
        long,
        env = "HONE_RESUME_JOBS",
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub resume_jobs: ResumeJobs,

    /// Jobs that wait at most
    #[arg(long, env = "HONE_MAX_JOBS", value_name = "N", default_value = "64")]
    pub max_jobs: NonZeroUsize,

    /// Size of an uploaded file at most, in bytes or with K, M or G
    #[arg(long, env = "HONE_MAX_UPLOAD", value_name = "SIZE", default_value = "2G")]
    pub max_upload: Size,

    /// Size of a file at most when it is unpacked, in bytes or with K, M or G
    #[arg(long, env = "HONE_MAX_UNPACKED", value_name = "SIZE", default_value = "8G")]
    pub max_unpacked: Size,

    /// Rows of a file at most
    #[arg(long, env = "HONE_MAX_ROWS", value_name = "N", default_value = "20000000")]
    pub max_rows: NonZeroU64,

    /// Memory that the daemon takes at most: a size, `auto` (what the machine or its container has), or `none`; what
    /// would take more is refused
    #[arg(long, env = "HONE_MEMORY_LIMIT", value_name = "SIZE", default_value = "auto", value_parser = memory_limit)]
    pub memory_limit: MemoryLimit,

    /// Memory of all loaded models together, in bytes or with K, M or G; the one that was not used for longest makes room
    /// [default: a quarter of what the daemon may take]
    #[arg(long, env = "HONE_MODEL_MEMORY", value_name = "SIZE")]
    pub model_memory: Option<Size>,

    /// What models answer in: auto (bf16 where the processor multiplies it faster, else fp32), fp32, bf16 or int8; a model's own setting
    /// goes first
    #[arg(long, env = "HONE_SERVE_PRECISION", value_name = "PRECISION", default_value = "auto")]
    pub serve_precision: ServePrecision,

    /// Points of accuracy that less than fp32 may cost on a version's validation sample; one that loses more answers in
    /// the next better precision. 100 allows any loss, and what cannot be checked
    #[arg(long, env = "HONE_MAX_ACCURACY_LOSS", value_name = "POINTS", default_value = "0.5", value_parser = points)]
    pub max_accuracy_loss: f64,

    /// Connections at once at most; others are closed
    #[arg(long, env = "HONE_MAX_CONNECTIONS", value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Seconds after which a request, an upload or a download that does not go on is given up
    #[arg(long, env = "HONE_IDLE_TIMEOUT", value_name = "SECONDS", default_value = "60")]
    pub idle_timeout: NonZeroU32,

    /// Milliseconds that a text waits at most before it is computed; calls that would wait longer are refused
    #[arg(long, env = "HONE_MAX_QUEUE_MS", value_name = "MS", default_value = "750", value_parser = clap::value_parser!(u32).range(1..=600_000))]
    pub max_queue_ms: u32,

    /// Milliseconds that a batch which is not full waits for more, while batches follow one another
    #[arg(long, env = "HONE_MAX_BATCH_DELAY", value_name = "MS", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub max_batch_delay: u32,

    /// Memory for answers to texts that come again, in bytes or with K, M or G [default: none is kept]
    #[arg(long, env = "HONE_ANSWER_CACHE", value_name = "SIZE")]
    pub answer_cache: Option<Size>,

    /// Address at which Prometheus reads the metrics (`/metrics`, plain HTTP) [default: none]
    #[arg(long, env = "HONE_METRICS_LISTEN", value_name = "HOST:PORT")]
    pub metrics_listen: Option<String>,

    /// Collector that traces are sent to, by OTLP over gRPC, for example http://127.0.0.1:4317; further
    /// settings are OpenTelemetry's variables of the environment [default: none]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Seconds after which a connection is closed, when its calls are done, so that clients spread over new daemons
    /// [default: never]
    #[arg(long, env = "HONE_MAX_CONNECTION_AGE", value_name = "SECONDS")]
    pub max_connection_age: Option<NonZeroU32>,

    /// Seconds that calls may go on when the daemon stops; new ones are refused
    #[arg(long, env = "HONE_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "30")]
    pub drain_timeout: u32,

    /// What to log: error, warn, info, debug or trace, or a filter such as `info,hone_daemon=debug`
    #[arg(long, env = "HONE_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How to log: text (lines for people) or json (an object a line)
    #[arg(
        long,
        env = "HONE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
}

/// Where to compute, as the operator says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU when this program can use one and there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, by its number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(number)) => Ok(Self::Cuda(number)),
                _ => Err("expected auto, cpu, cuda or cuda:N".to_owned()),
            },
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(Error::precondition(
                "this daemon was built without CUDA; build it with `cargo build --release --features cuda`, or use \
                 --device cpu",
            )),
            Self::Cuda(number) => Device::new_cuda(number).map_err(|error| {
                Error::precondition(format!("cannot use the GPU cuda:{number} (--device): {error}"))
            }),
            Self::Auto if cfg!(feature = "cuda") => Ok(Device::new_cuda(0).unwrap_or_else(|error| {
                tracing::warn!(%error, "no GPU can be used; computing on the CPU");
                Device::Cpu
            })),
            Self::Auto => Ok(Device::Cpu),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "expected a number of bytes from 1, for example 500M or 2G".to_owned();
        let text = text.trim_end_matches('B').trim_end_matches('i');
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (text.get(..text.len() - 1), 10),
            Some(b'M' | b'm') => (text.get(..text.len() - 1), 20),
            Some(b'G' | b'g') => (text.get(..text.len() - 1), 30),
            _ => (Some(text), 0),
        };
        let number: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
        let bytes = number.checked_mul(1 << shift).filter(|&bytes| bytes > 0);
        bytes.map(Self).ok_or_else(wrong)
    }
}

fn points(text: &str) -> std::result::Result<f64, String> {
    let points = text.parse().ok().filter(|points| (0.0..=100.0).contains(points));
    points.ok_or_else(|| "expected a number from 0 to 100".to_owned())
}

fn memory_limit(text: &str) -> std::result::Result<MemoryLimit, String> {
    match text {
        "auto" => Ok(MemoryLimit::Auto),
        "none" => Ok(MemoryLimit::None),
        _ => match text.parse() {
            Ok(Size(bytes)) => Ok(MemoryLimit::Bytes(bytes)),
            Err(why) => Err(format!("{why}, or auto, or none")),
        },
    }
}

impl Config {
    /// In what models answer.
    pub fn precision_policy(&self) -> load::Policy {
        load::Policy { precision: self.serve_precision, max_accuracy_loss: self.max_accuracy_loss }
    }

    /// Bytes that all loaded models together may take.
    pub fn model_memory(&self) -> u64 {
        self.model_memory.map_or_else(|| self.room().host.available() / 4, |size| size.0)
    }

    /// How long requests may wait.
    pub fn queue_policy(&self) -> Policy {
        let ms = |of: u32| Duration::from_millis(of.into());
        Policy { max_wait: ms(self.max_queue_ms), max_batch_delay: ms(self.max_batch_delay) }
    }

    /// What reading a file and training may take.
    pub fn room(&self) -> Room {
        let files = Limits { unpacked: self.max_unpacked.0, rows: self.max_rows.get(), ..Limits::default() };
        Room { host: HostMemory::new(self.memory_limit), files }
    }
}

fn default_threads() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn default_data_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    base.map_or_else(|| PathBuf::from(".hone"), |base| base.join("hone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> std::result::Result<Config, clap::Error> {
        Config::try_parse_from([&["daemon"], arguments].concat())
    }

    #[test]
    fn every_flag_has_a_default() {
        let config = parse(&[]).unwrap();
        assert_eq!((config.device, config.resume_jobs), (DeviceChoice::Auto, ResumeJobs::Auto));
        assert_eq!((config.max_jobs.get(), config.max_upload), (64, Size(2 << 30)));
        assert!(config.data_dir.ends_with("hone"), "{:?}", config.data_dir);
    }

    #[test]
    fn values_that_cannot_be_right_are_usage_errors() {
        for bad in [
            ["--device", "gpu"],
            ["--device", "cuda:x"],
            ["--threads", "0"],
            ["--max-jobs", "0"],
            ["--resume-jobs", "never"],
            ["--max-upload", "0"],
            ["--max-upload", "2X"],
            ["--max-upload", "99999999999G"],
            ["--max-unpacked", "0"],
            ["--max-rows", "0"],
            ["--memory-limit", "some"],
            ["--idle-timeout", "0"],
            ["--model-memory", "0"],
            ["--serve-precision", "fp16"],
            ["--max-accuracy-loss", "-1"],
            ["--max-accuracy-loss", "nan"],
            ["--max-queue-ms", "0"],
            ["--max-batch-delay", "1001"],
            ["--max-connection-age", "0"],
            ["--drain-timeout", "-1"],
        ] {
            assert_eq!(parse(&bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
        assert_eq!(parse(&["--device", "cuda:1"]).unwrap().device, DeviceChoice::Cuda(1));
        assert_eq!(parse(&["--memory-limit", "none"]).unwrap().memory_limit, MemoryLimit::None);
        assert_eq!(parse(&["--memory-limit", "4G"]).unwrap().memory_limit, MemoryLimit::Bytes(4 << 30));
        assert_eq!(parse(&["--max-upload", "500MiB"]).unwrap().max_upload, Size(500 << 20));
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn asking_for_a_gpu_without_cuda_says_how_to_build_it() {
        let error = DeviceChoice::Cuda(0).open().unwrap_err();
        assert!(error.message().contains("--features cuda"), "{error}");
        assert!(DeviceChoice::Auto.open().unwrap().is_cpu());
    }

    /// The flags that the text names, tests and comments left out.
    fn flags(text: &str) -> Vec<String> {
        let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
        let code = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
        let mut found = Vec::new();
        for (line, at) in code.flat_map(|line| line.match_indices("--").map(move |(at, _)| (line, at))) {
            let starts = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-');
            let name: String =
                line[at + 2..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            if starts && name.starts_with(|c: char| c.is_ascii_lowercase()) {
                found.push(name);
            }
        }
        found
    }

    fn sources(folder: &std::path::Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["tests", "target"].contains(&name.as_str()) {
                sources(&path, found);
            } else if name.ends_with(".rs")
                && !["tests.rs", "testing.rs", "build.rs"].contains(&name.as_str())
            {
                found.push(path);
            }
        }
    }

    #[test]
    fn messages_name_fields_and_no_flag_but_the_daemons_own() {
        let command = <Config as clap::CommandFactory>::command();
        let own: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        let cargo = ["release", "features"];
        let mut files = Vec::new();
        sources(std::path::Path::new(env!("CARGO_MANIFEST_DIR")), &mut files);
        assert!(files.len() > 50, "{}", files.len());
        for path in files {
            let text = std::fs::read_to_string(&path).unwrap();
            for flag in flags(&text) {
                let known = own.contains(&flag.as_str()) || cargo.contains(&flag.as_str());
                assert!(known, "{}: --{flag}: name the field, as in `learning_rate`", path.display());
            }
        }
    }
}
