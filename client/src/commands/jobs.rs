//! `client jobs`, `client jobs delete`, `client show`, `client cancel`, `client pause`, `client resume`.

use hone::v1;

use super::{client, get_job, hint_at_jobs, kept_epoch, watch};
use crate::cli::{Global, JobsCommand};
use crate::connect::Daemon;
use crate::error::Error;
use crate::output::table::{Column, Table};
use crate::output::{Output, Paint, epochs, format, json, spec, unreadable};
use crate::{pages, plot};

pub(super) async fn run(
    global: &Global,
    command: Option<&JobsCommand>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    match command {
        None | Some(JobsCommand::List) => list(global, output).await,
        Some(JobsCommand::Delete { job }) => delete(global, job, output).await,
    }
}

async fn delete(global: &Global, id: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = v1::DeleteJobRequest { job_id: id.to_owned() };
    daemon.call(daemon.training().delete(request)).await.map_err(hint_at_jobs)?;
    if output.is_json() {
        return output.json(&serde_json::json!({"deleted": id}));
    }
    output.text(&format!("deleted job {}", format::one_line(id)))
}

async fn list(global: &Global, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let without_labels = !output.is_json();
    let ask = async |page_token| {
        let request = v1::ListJobsRequest { page_token, without_labels, ..Default::default() };
        let mut page = daemon.call(daemon.training().list(request)).await?;
        let next = std::mem::take(&mut page.next_page_token);
        Ok((page, next))
    };
    let found = pages::all(ask, |all, page| {
        all.jobs.extend(page.jobs);
        all.unreadable.extend(page.unreadable);
    });
    let found = found.await?;
    let jobs = found.jobs;
    if output.is_json() {
        jobs.iter().try_for_each(|job| output.json(&json::job(job)))?;
        return unreadable::tell(&found.unreadable, output);
    }
    unreadable::tell(&found.unreadable, output)?;
    if jobs.is_empty() {
        output.note("no jobs yet; `client train` starts one");
        return Ok(());
    }
    let mut table = Table::new([
        Column::left("job"),
        Column::left("state"),
        Column::left("model").shrink(8).spare(1),
        Column::left("started (UTC)").spare(3),
        Column::right("epochs").spare(4),
        Column::right("val acc").spare(2),
        Column::right("test acc"),
    ]);
    for job in &jobs {
        table.row([
            format::one_line(&job.id),
            paint_state(job.state(), output.paint()),
            model_name(job),
            format::minute(job.started_at.as_ref()),
            epochs_done(job),
            accuracy(kept_epoch(job).and_then(|epoch| epoch.validation.as_ref())),
            accuracy(job.test.as_ref().and_then(|test| test.metrics.as_ref())),
        ]);
    }
    output.text(&table.lines(output.width()).join("\n"))
}

pub(super) async fn show(global: &Global, id: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let job = get_job(&daemon, id).await?;
    if output.is_json() {
        return output.json(&json::job(&job));
    }
    let text = describe(&job, &client(global, &daemon), output.width(), output.paint());
    output.text(&text)
}

pub(super) async fn cancel(global: &Global, id: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = v1::CancelJobRequest { job_id: id.to_owned() };
    let job = daemon.call(daemon.training().cancel(request)).await.map_err(hint_at_jobs)?;
    if output.is_json() {
        return output.json(&json::job(&job));
    }
    output.text(&match job.state() {
        v1::JobState::Running => format!("job {id} stops at its next step"),
        v1::JobState::Cancelled => format!("job {id} is cancelled"),
        state => format!("job {id} had ended before: {}", json::state(state.into())),
    })
}

pub(super) async fn pause(global: &Global, id: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = v1::PauseJobRequest { job_id: id.to_owned() };
    let job = daemon.call(daemon.training().pause(request)).await.map_err(hint_at_jobs)?;
    if output.is_json() {
        return output.json(&json::job(&job));
    }
    let way = format!("`{} resume {id}` continues it", client(global, &daemon));
    output.text(&match job.state() {
        v1::JobState::Running => format!("job {id} pauses at its next step; {way}"),
        state => format!("job {id} is {}; {way}", json::state(state.into())),
    })
}

pub(super) async fn resume(global: &Global, id: &str, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let request = v1::ResumeJobRequest { job_id: id.to_owned() };
    let job = daemon.call(daemon.training().resume(request)).await.map_err(hint_at_jobs)?;
    if output.is_json() {
        return output.json(&json::job(&job));
    }
    let state = match job.state() {
        v1::JobState::Running => "runs".to_owned(),
        state => format!("is {}", json::state(state.into())) + &ahead(&job),
    };
    output.text(&format!("job {id} {state}; `{} watch {id}` shows it", client(global, &daemon)))
}

/// ", 2 jobs ahead" of a job that waits, else nothing.
fn ahead(job: &v1::Job) -> String {
    match job.jobs_ahead {
        0 => String::new(),
        jobs => format!(", {} ahead", format::plural(jobs.into(), "job", "jobs")),
    }
}

/// What is known of a job; `client` is how the user calls this client.
fn describe(job: &v1::Job, client: &str, width: Option<usize>, paint: Paint) -> String {
    let mut facts = Table::new([Column::left(""), Column::left("").shrink(10)]);
    let mut fact = |name: &str, value: String| facts.row([paint.dim(name), value]);
    fact("job", format::one_line(&job.id));
    fact("state", paint_state(job.state(), paint) + &ahead(job));
    if let Some(model) = &job.model {
        fact("result", watch::published(model));
    }
    fact("created", format!("{} UTC", format::minute(job.created_at.as_ref())));
    if job.started_at.is_some() {
        fact("started", format!("{} UTC", format::minute(job.started_at.as_ref())));
    }
    if let Some(ended) = &job.ended_at {
        let took = job.started_at.as_ref().map_or_else(String::new, |started| {
            format!(", after {}", format::duration(format::seconds_between(started, ended)))
        });
        fact("ended", format!("{} UTC{took}", format::minute(Some(ended))));
    }
    if let Some(failure) = &job.failure {
        fact("failure", paint.red(&format::told(&failure.message)));
    }
    if watch::is_stopped(job.state()) {
        fact("way on", watch::way_on(client, &job.id));
    }
    for (name, value) in job.spec.as_ref().map(spec::entries).unwrap_or_default() {
        fact(&name, value);
    }
    let mut blocks = vec![facts.lines(width).join("\n")];
    let table = epochs::table(&job.epochs, job.model.as_ref().map(|model| model.epoch), paint);
    if !table.is_empty() {
        blocks.push(table.lines(width).join("\n"));
    }
    if let (Some(_), Some(plot)) = (width, plot::losses(&job.epochs)) {
        blocks.push(plot);
    }
    if let Some(test) = &job.test {
        blocks.push(epochs::test_block(test, width, paint));
    }
    blocks.join("\n\n")
}

fn paint_state(state: v1::JobState, paint: Paint) -> String {
    let word = json::state(state.into());
    match state {
        v1::JobState::Succeeded => paint.green(&word),
        v1::JobState::Failed => paint.red(&word),
        v1::JobState::Cancelled | v1::JobState::Interrupted | v1::JobState::Paused => paint.yellow(&word),
        v1::JobState::Running => paint.bold(&word),
        _ => word,
    }
}

/// What the job became, else what it shall become.
pub(super) fn model_name(job: &v1::Job) -> String {
    let name = match &job.model {
        Some(model) => format!("{}@{}", model.name, model.version),
        None => job.spec.as_ref().and_then(|spec| spec.name.clone()).unwrap_or_else(|| "-".to_owned()),
    };
    format::one_line(&name)
}

pub(super) fn epochs_done(job: &v1::Job) -> String {
    let planned = job.epochs.last().map(|epoch| epoch.epochs).or_else(|| {
        job.spec.as_ref().and_then(|spec| spec.hyperparameters.as_ref()).and_then(|given| given.epochs)
    });
    match planned {
        Some(planned) => format!("{}/{planned}", job.epochs.len()),
        None => job.epochs.len().to_string(),
    }
}

pub(super) fn accuracy(metrics: Option<&v1::Metrics>) -> String {
    metrics.map_or_else(|| "-".to_owned(), |metrics| format::metric(metrics.accuracy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_waits_has_no_empty_tables() {
        let job = v1::Job {
            id: "01J".into(),
            state: v1::JobState::Queued.into(),
            jobs_ahead: 2,
            spec: Some(v1::JobSpec::default()),
            ..Default::default()
        };
        assert_eq!(
            describe(&job, "client", Some(60), Paint::default()),
            "job            01J\n\
             state          queued, 2 jobs ahead\n\
             created        - UTC\n\
             training data  demonstration data"
        );
    }
}
