//! `client train`: sends what the daemon lacks, starts the job, and watches it; or asks what it would need.

use std::path::PathBuf;
use std::time::Duration;

use hone::v1;
use ulid::Ulid;

use super::{client, watch};
use crate::cli::{Global, TrainArgs};
use crate::connect::{self, Daemon};
use crate::error::{Doubt, Error, Kind};
use crate::files::{Known, LocalFile, Sender};
use crate::follow::Outage;
use crate::interrupt::Interrupt;
use crate::output::{Output, data, dry_run, format, json};

pub(super) async fn run(
    global: &Global,
    args: &TrainArgs,
    output: &mut Output<'_>,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let files = Files::check(args)?;
    let (daemon, request) = interrupt
        .or_stop(async {
            let daemon = Daemon::connect(global).await?;
            let request = files.send(&daemon, args, output).await?;
            Ok((daemon, request))
        })
        .await?;
    if args.dry_run {
        return dry_run(&daemon, request, output, interrupt).await;
    }
    let job =
        interrupt.or_stop(start(&daemon, request, args.retry.retry_for, output)).await.map_err(|error| {
            error.hint_if(Kind::Interrupted, "`client jobs` tells whether the job was queued")
        })?;

    let client = client(global, &daemon);
    if args.detach {
        output.note(&format!("watch it with `{client} watch {}`", job.id));
        return if output.is_json() { output.json(&json::job(&job)) } else { output.text(&job.id) };
    }
    output.note(&format!("job {}; Ctrl-C detaches, `{client} cancel {}` stops it", job.id, job.id));
    watch::attach(global, &daemon, job, 0, args.retry.retry_for, output, interrupt).await
}

/// Starts a job. Where the answer may have been lost, the same request is sent again, for `retry_for` at most: its id
/// tells the daemon that it is the same job.
async fn start(
    daemon: &Daemon,
    mut request: v1::StartJobRequest,
    retry_for: Duration,
    output: &mut Output<'_>,
) -> Result<v1::Job, Error> {
    request.request_id = Some(Ulid::generate().to_string().to_ascii_lowercase());
    let mut outage: Option<Outage> = None;
    loop {
        let error = match daemon.call_start(daemon.training().start(request.clone())).await {
            Err(error) if matches!(error.doubt(), Some((Doubt::Connection | Doubt::Silence, _))) => {
                connect::explain(error).await
            }
            answer => return answer,
        };
        if error.doubt().is_none() {
            // It is no daemon that is there.
            return Err(error);
        }
        if outage.is_none() {
            output.note(&format!("{}; asking again, which starts no second job", error.message()));
        }
        let outage = outage.get_or_insert_with(Outage::begin);
        if outage.since.elapsed() >= retry_for {
            return Err(error.hint("`client jobs` tells whether the job was queued"));
        }
        tokio::time::sleep(outage.next_pause().min(retry_for.saturating_sub(outage.since.elapsed()))).await;
    }
}

/// What the job would need; nothing is queued.
async fn dry_run(
    daemon: &Daemon,
    request: v1::StartJobRequest,
    output: &mut Output<'_>,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    output.note("the daemon reads the data and tries a few steps …");
    let report = interrupt.or_stop(daemon.call_start(daemon.training().dry_run(request))).await?;
    if output.is_json() {
        return output.json(&dry_run::json(&report));
    }
    output.text(&dry_run::describe(&report, output.width(), output.paint()))
}

/// The local files of a job, each of them usable.
struct Files {
    train: Option<LocalFile>,
    validation: Option<LocalFile>,
    test: Option<LocalFile>,
}

impl Files {
    fn check(args: &TrainArgs) -> Result<Self, Error> {
        let check = |flag: &str, path: &Option<PathBuf>| {
            path.as_deref().map(|path| LocalFile::check(flag, path)).transpose()
        };
        Ok(Self {
            train: check("--train", &args.train)?,
            validation: check("--validation", &args.validation)?,
            test: check("--test", &args.test)?,
        })
    }

    /// Sends the files and returns the job on them. Columns that the training file lets guess hold for all.
    async fn send(
        &self,
        daemon: &Daemon,
        args: &TrainArgs,
        output: &mut Output<'_>,
    ) -> Result<v1::StartJobRequest, Error> {
        let mut sender = Sender::default();
        let mut columns = args.columns.to_proto();
        let mut send = async |flag: &str, file: &Option<LocalFile>, columns: &Option<v1::Columns>| {
            let Some(file) = file else { return Ok((None, None)) };
            let Known { dataset, sent } = sender.ensure(daemon, file, columns.as_ref(), output).await?;
            tell(flag, &dataset, sent, output);
            let source = v1::DataSource { dataset_id: dataset.id, name: Some(file.name.clone()) };
            Ok::<_, Error>((Some(source), dataset.summary.and_then(|summary| summary.used)))
        };
        let (train, used) = send("train", &self.train, &columns).await?;
        columns = used.or(columns);
        let (validation, _) = send("validation", &self.validation, &columns).await?;
        let (test, _) = send("test", &self.test, &columns).await?;
        Ok(args.to_proto(train, validation, test))
    }
}

fn tell(flag: &str, dataset: &v1::Dataset, sent: bool, output: &mut Output<'_>) {
    let how = if sent { "sent" } else { "the daemon has it already" };
    output.note(&format!("{flag}: {} ({how})", data::summary_line(dataset)));
    if let Some(summary) =
        dataset.summary.as_ref().filter(|summary| flag == "train" && !summary.guess.is_empty())
    {
        output.note(&format!("{flag}: {}", format::told(&summary.guess)));
    }
}
