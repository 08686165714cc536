//! Tests: what becomes of jobs, without a thread that runs them.

use super::*;
use crate::jobs::testing::{Home, spec, version};
use hone_storage::data_dir;

/// A registry on a data folder.
struct Bench {
    registry: Registry,
    store: Arc<dyn Catalog>,
    data: DataDir,
}

impl Bench {
    fn open(home: &Home) -> Self {
        Self::open_with(home, ResumeJobs::Auto)
    }

    fn open_with(home: &Home, resume: ResumeJobs) -> Self {
        let (store, data) = (home.store(), home.data());
        let policy = Policy { bound: 3, resume };
        let registry = Registry::open(store.clone(), Log::new(store.clone()), data.clone(), policy).unwrap();
        Self { registry, store, data }
    }

    fn submit(&self, name: &str) -> String {
        self.registry.submit(&spec(name)).unwrap().job.id
    }

    /// The next job as the runner takes it, with a folder.
    fn take(&self) -> (String, Cancel) {
        let (job, cancel) = self.registry.take().unwrap();
        data_dir::create(&self.data.workspace(&job.id)).unwrap();
        (job.id, cancel)
    }

    fn stop(&self, id: &str, reason: Reason) {
        self.registry.finish(id, &End::Stopped(reason)).unwrap();
    }

    fn state(&self, id: &str) -> State {
        self.registry.get(id).unwrap().job.state
    }

    /// The states that the log of a job tells, in order.
    fn states(&self, id: &str) -> Vec<State> {
        let entries = self.store.events_after(id, 0, 99).unwrap().unwrap().entries;
        let state = |event| if let JobEvent::StateChanged { state, .. } = event { Some(state) } else { None };
        entries.into_iter().filter_map(|entry| state(entry.event)).collect()
    }

    fn has_folder(&self, id: &str) -> bool {
        self.data.workspace(id).exists()
    }
}

#[test]
fn jobs_run_in_the_order_in_which_they_came() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let ids: Vec<String> = (0..3).map(|_| bench.submit("a")).collect();
    assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 26 && *id == id.to_lowercase()));
    assert_eq!(bench.registry.get(&ids[2]).unwrap().ahead, 2);
    let (first, _) = bench.registry.take().unwrap();
    assert_eq!((first.id.as_str(), first.state), (ids[0].as_str(), State::Running));
    assert_eq!(bench.registry.get(&ids[2]).unwrap().ahead, 2);
    bench.stop(&first.id, Reason::Cancelled);
    assert_eq!(bench.registry.get(&ids[2]).unwrap().ahead, 1);
    assert_eq!(bench.take().0, ids[1]);
    let rows = bench.registry.page(None, 9).unwrap();
    assert_eq!(rows.iter().map(JobRow::id).collect::<Vec<_>>(), [&ids[2], &ids[1], &ids[0]]);
}

#[test]
fn a_queued_job_is_cancelled_at_once_and_a_running_one_is_asked() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let (running, queued) = (bench.submit("a"), bench.submit("a"));
    let (_, cancel) = bench.take();
    assert_eq!(bench.registry.cancel(&queued).unwrap().job.state, State::Cancelled);
    assert_eq!(bench.registry.cancel(&running).unwrap().job.state, State::Running);
    assert_eq!(cancel.reason(), Some(Reason::Cancelled));
    bench.stop(&running, Reason::Cancelled);
    assert!(!bench.has_folder(&running));
    let events = bench.registry.get(&queued).unwrap().job.last_event;
    assert_eq!(bench.registry.cancel(&queued).unwrap().job.last_event, events);
    assert_eq!(bench.registry.cancel("01x").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_paused_job_leaves_the_device_keeps_its_folder_and_waits_again_when_it_is_resumed() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let (first, second) = (bench.submit("a"), bench.submit("b"));
    let (_, cancel) = bench.take();
    assert_eq!(bench.registry.pause(&first).unwrap().job.state, State::Running);
    assert_eq!(cancel.reason(), Some(Reason::Paused));
    bench.stop(&first, Reason::Paused);
    assert_eq!(bench.state(&first), State::Paused);
    assert!(bench.registry.get(&first).unwrap().job.ended.is_none() && bench.has_folder(&first));
    assert_eq!(bench.take().0, second);
    assert_eq!(bench.registry.pause(&first).unwrap().job.state, State::Paused);
    assert_eq!(bench.registry.resume(&first).unwrap().ahead, 1);
    bench.stop(&second, Reason::Cancelled);
    assert_eq!(bench.take().0, first);
    let all = [State::Queued, State::Running, State::Paused, State::Queued, State::Running];
    assert_eq!(bench.states(&first), all);
}

#[test]
fn a_queued_job_that_is_paused_leaves_the_queue_and_a_cancelled_one_its_folder() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let (first, second) = (bench.submit("a"), bench.submit("b"));
    data_dir::create(&bench.data.workspace(&first)).unwrap();
    assert_eq!(bench.registry.pause(&first).unwrap().job.state, State::Paused);
    assert_eq!(bench.take().0, second);
    assert_eq!(bench.registry.cancel(&first).unwrap().job.state, State::Cancelled);
    assert!(!bench.has_folder(&first));
}

#[test]
fn a_job_that_has_ended_can_neither_be_paused_nor_resumed() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let id = bench.submit("a");
    bench.registry.cancel(&id).unwrap();
    for error in [bench.registry.pause(&id).unwrap_err(), bench.registry.resume(&id).unwrap_err()] {
        assert_eq!(error.kind(), Kind::Precondition);
        assert!(error.message().contains("it was cancelled"), "{error}");
    }
}

#[test]
fn a_job_that_is_resumed_before_it_has_paused_waits_again_once_it_has() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let id = bench.submit("a");
    bench.take();
    bench.registry.pause(&id).unwrap();
    bench.registry.resume(&id).unwrap();
    bench.stop(&id, Reason::Paused);
    assert_eq!(bench.state(&id), State::Queued);
    assert!(bench.has_folder(&id));
    bench.take();
    bench.registry.pause(&id).unwrap();
    bench.registry.resume(&id).unwrap();
    bench.registry.pause(&id).unwrap();
    bench.stop(&id, Reason::Paused);
    assert_eq!(bench.state(&id), State::Paused);
}

#[test]
fn a_wish_that_a_run_did_not_hear_any_more_is_granted_at_its_end() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let id = bench.submit("a");
    bench.take();
    bench.registry.pause(&id).unwrap();
    // The run has stopped, and its end is not logged yet.
    bench.registry.cancel(&id).unwrap();
    bench.stop(&id, Reason::Paused);
    assert_eq!(bench.state(&id), State::Cancelled);
    assert!(!bench.has_folder(&id));
}

#[test]
fn after_a_restart_a_running_job_was_interrupted_and_goes_on_before_those_behind_it() {
    let home = Home::new();
    let (running, queued) = {
        let bench = Bench::open(&home);
        let ids = (bench.submit("a"), bench.submit("b"));
        bench.take();
        ids
    };
    let bench = Bench::open(&home);
    assert_eq!(bench.states(&running), [State::Queued, State::Running, State::Interrupted, State::Queued]);
    assert!(bench.has_folder(&running));
    assert_eq!(bench.take().0, running);
    assert_eq!(bench.registry.get(&queued).unwrap().ahead, 1);
}

#[test]
fn by_hand_an_interrupted_job_waits_to_be_resumed_paused_or_cancelled() {
    let home = Home::new();
    let id = {
        let bench = Bench::open(&home);
        let id = bench.submit("a");
        bench.take();
        bench.stop(&id, Reason::Shutdown);
        id
    };
    let bench = Bench::open_with(&home, ResumeJobs::Manual);
    assert_eq!(bench.state(&id), State::Interrupted);
    assert!(bench.registry.get(&id).unwrap().job.ended.is_none());
    bench.registry.resume(&id).unwrap();
    assert_eq!(bench.take().0, id);
}

#[test]
fn a_paused_job_stays_paused_over_a_restart() {
    let home = Home::new();
    let id = {
        let bench = Bench::open(&home);
        let id = bench.submit("a");
        bench.registry.pause(&id).unwrap();
        id
    };
    assert_eq!(Bench::open(&home).state(&id), State::Paused);
}

#[test]
fn a_job_whose_end_could_not_be_logged_counts_as_interrupted() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let id = bench.submit("a");
    bench.take();
    bench.registry.abandon(&id);
    assert_eq!(bench.registry.resume(&id).unwrap().job.state, State::Queued);
    let all = [State::Queued, State::Running, State::Interrupted, State::Queued];
    assert_eq!(bench.states(&id), all);
}

#[test]
fn a_full_queue_refuses_and_takes_again_when_a_job_has_left_it() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let ids: Vec<String> = (0..3).map(|_| bench.submit("a")).collect();
    assert_eq!(bench.registry.submit(&spec("a")).unwrap_err().kind(), Kind::Exhausted);
    bench.registry.pause(&ids[1]).unwrap();
    bench.submit("a");
    assert_eq!(bench.registry.resume(&ids[1]).unwrap_err().kind(), Kind::Exhausted);
    bench.take();
    bench.registry.resume(&ids[1]).unwrap();
}

#[test]
fn closing_asks_the_running_job_and_hands_out_no_other() {
    let home = Home::new();
    let bench = Bench::open(&home);
    bench.submit("a");
    bench.submit("b");
    let (_, cancel) = bench.take();
    bench.registry.close();
    assert_eq!(cancel.reason(), Some(Reason::Shutdown));
    assert!(bench.registry.take().is_none());
    assert_eq!(bench.registry.submit(&spec("a")).unwrap_err().kind(), Kind::Unavailable);
}

#[test]
fn a_job_that_comes_wakes_whoever_waits_for_one() {
    let home = Home::new();
    let bench = Bench::open(&home);
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| bench.registry.take().map(|(job, _)| job.id));
        let id = bench.submit("a");
        assert_eq!(taken.join().unwrap(), Some(id));
        let none = scope.spawn(|| bench.registry.take().is_none());
        bench.registry.close();
        assert!(none.join().unwrap());
    });
}

#[test]
fn a_request_that_comes_again_queues_no_second_job() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let request = StartRequest { id: "r1".into(), digest: "aa".into() };
    assert!(bench.registry.of_request(&request).unwrap().is_none());
    let first = bench.registry.submit_once(&spec("a"), Some(&request)).unwrap().job;
    assert_eq!(bench.registry.submit_once(&spec("a"), Some(&request)).unwrap().job, first);
    assert_eq!(bench.registry.of_request(&request).unwrap().unwrap().job, first);
    assert_eq!(bench.registry.page(None, 9).unwrap().len(), 1);
}

#[test]
fn deleting_removes_the_record_the_log_and_the_folder_of_a_job_that_neither_waits_nor_runs() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let (first, second) = (bench.submit("a"), bench.submit("b"));
    bench.take();
    for busy in [&first, &second] {
        let error = bench.registry.delete(busy).unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition);
        assert!(error.message().contains(busy.as_str()), "{error}");
    }
    bench.stop(&first, Reason::Paused);
    assert!(bench.has_folder(&first));
    bench.registry.delete(&first).unwrap();
    assert!(!bench.has_folder(&first));
    assert!(bench.store.events_after(&first, 0, 9).unwrap().is_none());
    assert_eq!(bench.registry.get(&first).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_published_job_has_succeeded_and_keeps_no_folder() {
    let home = Home::new();
    let bench = Bench::open(&home);
    let id = bench.submit("reviews");
    bench.take();
    let number = bench.store.reserve_version("reviews").unwrap();
    let publication = Publication { version: version("reviews", number, &id), alias: None, notice: None };
    bench.registry.finish(&id, &End::Published(&publication)).unwrap();
    assert_eq!(bench.state(&id), State::Succeeded);
    assert_eq!(bench.registry.get(&id).unwrap().results.published.unwrap().version, number);
    assert!(!bench.has_folder(&id));
}
