//! `client watch`: a job's events as they come, from the first or from a number on.

use std::time::{Duration, Instant};

use hone::v1;
use hone::v1::event::Kind as Event;

use super::{client, get_job};
use crate::cli::{Global, WatchArgs};
use crate::connect::Daemon;
use crate::error::{Error, Kind};
use crate::fields::with_flags;
use crate::follow::{self, End, Listener};
use crate::interrupt::Interrupt;
use crate::output::{Output, data, epochs, format, json};
use crate::plot;
use crate::progress::{self, StepProgress, Throttle};

/// Whether a job in this state neither waits nor runs, and may continue.
pub(super) fn is_stopped(state: v1::JobState) -> bool {
    matches!(state, v1::JobState::Paused | v1::JobState::Interrupted)
}

/// What can be done about a job that is stopped.
pub(super) fn way_on(client: &str, id: &str) -> String {
    format!("`{client} resume {id}` continues it from where it stopped, `{client} cancel {id}` ends it")
}

pub(super) async fn run(
    global: &Global,
    args: &WatchArgs,
    output: &mut Output<'_>,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let (daemon, job) = interrupt
        .or_stop(async {
            let daemon = Daemon::connect(global).await?;
            let job = get_job(&daemon, &args.job).await?;
            Ok((daemon, job))
        })
        .await?;
    attach(global, &daemon, job, args.after, args.retry.retry_for, output, interrupt).await
}

/// Shows a job's events after `after` until it ends or the user goes.
pub(super) async fn attach(
    global: &Global,
    daemon: &Daemon,
    job: v1::Job,
    after: u64,
    retry_for: Duration,
    output: &mut Output<'_>,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    if job.jobs_ahead > 0 {
        let ahead = format::plural(job.jobs_ahead.into(), "job is", "jobs are");
        output.note(&format!("job {} is queued: {ahead} ahead of it", job.id));
    }
    let id = job.id.clone();
    let client = client(global, daemon);
    let mut view = View::new(output, job, after, &client);
    let end = follow::follow(daemon, &id, after, retry_for, interrupt, &mut view).await;
    view.output.end_progress();
    match end? {
        End::Detached => {
            view.output.note(&format!("detached; job {id} goes on. Come back with `{client} watch {id}`"));
            Ok(())
        }
        End::Job(v1::JobState::Succeeded) => view.succeeded(&client),
        End::Job(v1::JobState::Failed) => {
            let failure = match view.failure {
                Some(failure) => failure.message,
                // The event may stand before the number that the user asked for.
                None => get_job(daemon, &id).await?.failure.unwrap_or_default().message,
            };
            Err(Error::new(Kind::JobFailed, format!("job {id} failed: {}", with_flags(&failure)))
                .hint(format!("`{client} show {id}` shows what it was given and how far it came")))
        }
        End::Job(v1::JobState::Cancelled) => {
            Err(Error::new(Kind::JobStopped, format!("job {id} was cancelled")))
        }
        // Of a daemon that is older than this client.
        End::Job(state) => Err(Error::new(
            Kind::JobStopped,
            format!("job {id} was {}: the daemon stopped while it ran", json::state(state.into())),
        )
        .hint("this daemon cannot continue it; run the same `client train` again")),
    }
}

/// What the user sees of a job, event by event.
struct View<'v, 'o> {
    output: &'v mut Output<'o>,
    epochs: Vec<v1::EpochMetrics>,
    model: Option<v1::PublishedModel>,
    failure: Option<v1::Failure>,
    steps: StepProgress,
    throttle: Throttle,
    id: String,
    /// How the user calls this client.
    client: &'v str,
    /// Whether the job is paused or interrupted, as far as the events tell.
    stopped: bool,
}

impl<'v, 'o> View<'v, 'o> {
    /// `after` tells what the user has seen: those epochs are known, the others come as events.
    fn new(output: &'v mut Output<'o>, job: v1::Job, after: u64, client: &'v str) -> Self {
        let stopped = is_stopped(job.state()) && job.last_event <= after;
        if stopped {
            let state = json::state(job.state);
            output.note(&format!("job {} is {state}; {}", job.id, way_on(client, &job.id)));
        }
        let mut steps = StepProgress::default();
        let known = if after > 0 { job.epochs } else { Vec::new() };
        if after > 0 {
            steps.begin(job.started_at.as_ref());
        }
        Self {
            output,
            epochs: known,
            model: job.model,
            failure: job.failure,
            steps,
            throttle: Throttle::default(),
            id: job.id,
            client,
            stopped,
        }
    }

    /// Tells of a job that stops for a while, and of its return.
    fn state(&mut self, state: v1::JobState) {
        match state {
            v1::JobState::Paused => {
                self.output.end_progress();
                self.output.note(&format!("job {} is paused; {}", self.id, way_on(self.client, &self.id)));
            }
            v1::JobState::Interrupted => {
                self.output.end_progress();
                self.output.note(&format!(
                    "job {id} was interrupted: the daemon stopped while it ran; it continues when the daemon is back, or \
                     with `{client} resume {id}`",
                    id = self.id,
                    client = self.client
                ));
            }
            v1::JobState::Running if self.stopped => {
                // The time until now is no time of training.
                self.steps = StepProgress::default();
                self.output.note(&format!("job {} continues from where it stopped", self.id));
            }
            _ => {}
        }
        self.stopped = is_stopped(state) || self.stopped && state == v1::JobState::Queued;
    }

    fn epoch(&mut self, epoch: v1::EpochMetrics) -> Result<(), Error> {
        self.output.end_progress();
        let before = self.epochs.iter().find(|known| known.epoch + 1 == epoch.epoch);
        let block = epochs::block(&epoch, before, self.output.width(), self.output.paint());
        self.epochs.retain(|known| known.epoch != epoch.epoch);
        self.epochs.push(epoch);
        self.output.text(&block)
    }

    /// A line that moves on a terminal, a line now and then elsewhere.
    fn moving(&mut self, line: String) {
        if self.output.has_bar() {
            self.output.progress(line);
        } else if self.throttle.passes(Instant::now()) {
            self.output.note(&line);
        }
    }

    /// The room of a bar; none in a log.
    fn line_width(&self) -> Option<usize> {
        self.output.has_bar().then(|| self.output.bar_width())
    }

    fn succeeded(self, client: &str) -> Result<(), Error> {
        if self.output.is_json() {
            return Ok(());
        }
        if self.output.width().is_some()
            && let Some(plot) = plot::losses(&self.epochs)
        {
            self.output.text(&plot)?;
        }
        if let Some(model) = &self.model {
            self.output.text(&format!("use it: {client} classify --model {} \"some text\"", model.name))?;
        }
        Ok(())
    }
}

impl Listener for View<'_, '_> {
    fn event(&mut self, event: v1::Event) -> Result<(), Error> {
        let time = event.time;
        if self.output.is_json() {
            let line = json::event(&event);
            self.remember(event.kind);
            return self.output.json(&line);
        }
        match event.kind {
            Some(Event::Prepared(report)) => {
                self.steps.begin(time.as_ref());
                let text = data::prepared(&report, self.output.width(), self.output.paint());
                self.output.text(&text)
            }
            Some(Event::Step(step)) => {
                if !self.steps.has_begun() {
                    self.steps.begin(time.as_ref());
                }
                let line = self.steps.line(&step, time.as_ref(), self.line_width());
                self.moving(line);
                Ok(())
            }
            Some(Event::Evaluation(progress)) => {
                self.moving(progress::evaluation(&progress, self.line_width()));
                Ok(())
            }
            Some(Event::Epoch(epoch)) => self.epoch(epoch),
            Some(Event::Test(test)) => {
                self.output.end_progress();
                self.output.text(&epochs::test_block(&test, self.output.width(), self.output.paint()))
            }
            Some(Event::Published(model)) => {
                self.output.end_progress();
                let text = published(&model);
                self.model = Some(model);
                self.output.text(&text)
            }
            Some(Event::Notice(notice)) => {
                self.output.note(&format!("note: {}", format::told(&notice.message)));
                Ok(())
            }
            Some(Event::StateChanged(change)) => {
                self.state(change.state());
                self.remember(Some(Event::StateChanged(change)));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn note(&mut self, text: &str) {
        self.output.note(text);
    }
}

impl View<'_, '_> {
    /// Keeps what the end of the job needs, whatever is shown.
    fn remember(&mut self, kind: Option<Event>) {
        match kind {
            Some(Event::StateChanged(change)) if change.failure.is_some() => self.failure = change.failure,
            Some(Event::Published(model)) => self.model = Some(model),
            _ => {}
        }
    }
}

/// The version that a job became: "model reviews@3 (epoch 2, weights 0123456789ab)".
pub(super) fn published(model: &v1::PublishedModel) -> String {
    format!(
        "model {}@{} (epoch {}, weights {})",
        format::one_line(&model.name),
        model.version,
        model.epoch,
        format::short_digest(&model.weights_sha256)
    )
}
