//! What becomes of the jobs of the daemon that was there before.

use super::log::Log;
use super::registry::change;
use hone_base::error::{Kind, Result};
use hone_storage::{Catalog, Entry, JobEvent, State};

/// Whether interrupted jobs continue by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ResumeJobs {
    /// They wait for the device as soon as the daemon is there.
    #[default]
    Auto,
    /// They wait until somebody resumes them.
    Manual,
}

/// A job that is interrupted this often without a step forward may be what stops the daemon; it is not resumed again.
const FRUITLESS_RUNS: usize = 3;

/// Entries of a log that are looked at. A run without a step forward has a handful.
const LOOK_BACK: u64 = 64;

/// Logs that the jobs that ran were interrupted, and queues those that shall continue.
pub(super) fn settle(store: &dyn Catalog, log: &Log, resume: ResumeJobs) -> Result<()> {
    for job in store.ids_in(State::Running)? {
        tracing::warn!(%job, "the daemon stopped while this job ran");
        log.append(&job, &[change(State::Interrupted)])?;
    }
    if resume == ResumeJobs::Manual {
        return Ok(());
    }
    for job in store.ids_in(State::Interrupted)? {
        match may_resume(store, log, &job) {
            Ok(true) => {
                tracing::info!(%job, "resuming");
                log.append_when(&job, State::Interrupted, &[change(State::Queued)])?;
            }
            Ok(false) => tracing::info!(%job, "this interrupted job waits to be resumed by hand"),
            // It is listed among the records that cannot be read.
            Err(error) if error.kind() == Kind::Corrupt => {
                tracing::warn!(%job, %error, "an interrupted job is not resumed");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn may_resume(store: &dyn Catalog, log: &Log, id: &str) -> Result<bool> {
    let Some(job) = store.job(id)? else { return Ok(false) };
    if job.ended.is_some() {
        // Interrupted under a version that could not resume: its user may have started it again long ago.
        return Ok(false);
    }
    let page = store.events_after(id, job.last_event.saturating_sub(LOOK_BACK), LOOK_BACK as usize)?;
    let entries = page.map(|page| page.entries).unwrap_or_default();
    if fruitless_runs(&entries) < FRUITLESS_RUNS {
        return Ok(true);
    }
    // Told once, not at every start.
    if matches!(entries.last(), Some(Entry { event: JobEvent::StateChanged { .. }, .. })) {
        let message = format!(
            "the daemon stopped {FRUITLESS_RUNS} times while this job ran, without a step forward between; it does not \
             continue by itself any more, but can be resumed or cancelled"
        );
        log.append(id, &[JobEvent::Notice { message }])?;
    }
    Ok(false)
}

/// How often in a row, up to now, a job was interrupted without having done anything before.
fn fruitless_runs(entries: &[Entry]) -> usize {
    let is_fruit =
        |entry: &&Entry| !matches!(entry.event, JobEvent::StateChanged { .. } | JobEvent::Notice { .. });
    let since = entries.iter().rev().take_while(|entry| !is_fruit(entry));
    let interrupted = since
        .filter(|entry| matches!(entry.event, JobEvent::StateChanged { state: State::Interrupted, .. }))
        .count();
    // The run that did something was interrupted too, where there was one.
    match entries.iter().any(|entry| is_fruit(&entry)) {
        true => interrupted.saturating_sub(1),
        false => interrupted,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::jobs::testing::{Home, spec, step};

    /// A job that ran, in a store.
    struct Bench {
        store: Arc<dyn Catalog>,
        log: Log,
        _home: Home,
    }

    impl Bench {
        fn new() -> Self {
            let home = Home::new();
            let store = home.store();
            store.insert_job("01a", &spec("a"), 8).unwrap();
            store.claim("01a", "me").unwrap().unwrap();
            Self { log: Log::new(store.clone()), store, _home: home }
        }

        /// A restart after a crash, and the state that it leaves the job in. A job that is queued runs again.
        fn crash(&self) -> State {
            settle(&*self.store, &self.log, ResumeJobs::Auto).unwrap();
            let state = self.store.job("01a").unwrap().unwrap().state;
            if state == State::Queued {
                self.store.claim("01a", "me").unwrap();
            }
            state
        }

        fn last_event(&self) -> u64 {
            self.store.job("01a").unwrap().unwrap().last_event
        }
    }

    #[test]
    fn a_job_that_ran_is_interrupted_and_waits_again() {
        let bench = Bench::new();
        bench.log.append("01a", &[step(1)]).unwrap();
        assert_eq!(bench.crash(), State::Queued);
        let page = bench.store.events_after("01a", 3, 9).unwrap().unwrap();
        let states: Vec<JobEvent> = page.entries.into_iter().map(|entry| entry.event).collect();
        assert_eq!(states, [State::Interrupted, State::Queued, State::Running].map(change));
    }

    #[test]
    fn by_hand_means_that_it_stays_interrupted_until_a_daemon_that_resumes() {
        let bench = Bench::new();
        settle(&*bench.store, &bench.log, ResumeJobs::Manual).unwrap();
        assert_eq!(bench.store.job("01a").unwrap().unwrap().state, State::Interrupted);
        assert_eq!(bench.crash(), State::Queued);
    }

    #[test]
    fn a_job_that_stops_the_daemon_again_and_again_is_left_alone_and_says_so_once() {
        let bench = Bench::new();
        bench.log.append("01a", &[step(1)]).unwrap();
        for _ in 0..3 {
            assert_eq!(bench.crash(), State::Queued);
        }
        assert_eq!(bench.crash(), State::Interrupted);
        let page = bench.store.events_after("01a", bench.last_event() - 1, 9).unwrap().unwrap();
        let JobEvent::Notice { message } = &page.entries[0].event else { panic!("{page:?}") };
        assert!(message.contains("3 times"), "{message}");
        let events = bench.last_event();
        assert_eq!(bench.crash(), State::Interrupted);
        assert_eq!(bench.last_event(), events);
    }

    #[test]
    fn a_job_that_goes_forward_between_interruptions_is_resumed_for_ever() {
        let bench = Bench::new();
        for number in 1..9 {
            bench.log.append("01a", &[step(number)]).unwrap();
            assert_eq!(bench.crash(), State::Queued);
        }
    }

    #[test]
    fn a_job_that_an_earlier_version_interrupted_waits_for_its_user() {
        let bench = Bench::new();
        bench.log.append("01a", &[change(State::Interrupted)]).unwrap();
        let database = rusqlite::Connection::open(bench._home.path().join("hone.db")).unwrap();
        database.execute("UPDATE jobs SET ended = 1", []).unwrap();
        assert_eq!(bench.crash(), State::Interrupted);
    }
}
