//! A job's events in order, each once, across lost connections.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use hone::v1;
use tonic::{Code, Status, Streaming};

use crate::connect::Daemon;
use crate::error::{Error, Kind, is_transport, root_cause};
use crate::fields::with_flags;
use crate::interrupt::Interrupt;
use crate::output::format::duration;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that held this long was a good one: the next failure starts a new count.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// After the job's last state the daemon ends the stream; it is not waited for much longer than that.
const AFTER_THE_END: Duration = Duration::from_secs(5);
/// A new connection that holds this long is told of, even if it has brought no event yet.
const SETTLED: Duration = Duration::from_secs(5);
/// Between two notes about the same lost connection.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// Who wants to know.
pub(crate) trait Listener {
    /// A new event, with the next number.
    fn event(&mut self, event: v1::Event) -> Result<(), Error>;
    /// Something about the connection.
    fn note(&mut self, text: &str);
}

/// How following ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The job reached its last state.
    Job(v1::JobState),
    /// The user went away; the job goes on.
    Detached,
}

/// Where a reader is in a job's log.
#[derive(Debug)]
struct Cursor {
    job_id: String,
    after: u64,
    state: v1::JobState,
}

impl Cursor {
    /// Hands an event on unless it was shown before.
    fn take(&mut self, event: v1::Event, listener: &mut impl Listener) -> Result<(), Error> {
        if event.number <= self.after {
            return Ok(());
        }
        if self.after > 0 && event.number > self.after + 1 {
            let (first, last) = (self.after + 1, event.number - 1);
            listener.note(&format!("the daemon left out the events {first} to {last}"));
        }
        self.after = event.number;
        if let Some(v1::event::Kind::StateChanged(change)) = &event.kind {
            self.state = change.state();
        }
        listener.event(event)
    }

    fn ended(&self) -> bool {
        has_ended(self.state)
    }
}

/// True for the states that a job does not leave.
pub(crate) fn has_ended(state: v1::JobState) -> bool {
    use v1::JobState::{Cancelled, Failed, Succeeded};
    matches!(state, Succeeded | Failed | Cancelled)
}

/// Hands every event after `after` to the listener until the job ends or the user stops.
///
/// A connection that breaks is made again from the last number, with growing pauses, for `retry_for` at most.
/// The very first attempt is not repeated: a wrong address or job should be told at once.
pub(crate) async fn follow(
    daemon: &Daemon,
    job_id: &str,
    after: u64,
    retry_for: Duration,
    interrupt: &Interrupt,
    listener: &mut impl Listener,
) -> Result<End, Error> {
    let mut cursor = Cursor { job_id: job_id.to_owned(), after, state: v1::JobState::Unspecified };
    let mut outage: Option<Outage> = None;
    let mut connected_once = false;
    loop {
        let opened = Instant::now();
        let lost = tokio::select! {
            biased;
            () = interrupt.wait() => return Ok(End::Detached),
            lost = read(daemon, &mut cursor, &mut outage, &mut connected_once, listener) => match lost? {
                ControlFlow::Break(state) => return Ok(End::Job(state)),
                ControlFlow::Continue(status) => status,
            },
        };
        if !connected_once {
            return Err(daemon.error(&lost));
        }
        if opened.elapsed() >= GOOD_CONNECTION {
            outage = None;
        }
        let outage = outage.get_or_insert_with(Outage::begin);
        if outage.since.elapsed() >= retry_for {
            return Err(given_up(daemon, &cursor, &lost, retry_for));
        }
        let pause = outage.next_pause().min(retry_for.saturating_sub(outage.since.elapsed()));
        if outage.is_worth_a_note() {
            let reason = reason(&lost);
            listener.note(&format!("the connection to {} is lost ({reason}); trying again", daemon.url()));
        }
        tokio::select! {
            biased;
            () = interrupt.wait() => return Ok(End::Detached),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Reads one connection to its end. Breaks with the job's last state, continues with what broke the connection.
async fn read(
    daemon: &Daemon,
    cursor: &mut Cursor,
    outage: &mut Option<Outage>,
    connected_once: &mut bool,
    listener: &mut impl Listener,
) -> Result<ControlFlow<v1::JobState, Status>, Error> {
    let request = v1::WatchJobRequest { job_id: cursor.job_id.clone(), after: cursor.after };
    let mut events: Streaming<v1::Event> = match daemon.training().watch(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return retry_or_fail(daemon, status),
    };
    *connected_once = true;
    loop {
        let limit = match outage {
            _ if cursor.ended() => AFTER_THE_END,
            Some(outage) if outage.noted.is_some() => SETTLED,
            _ => Duration::MAX,
        };
        let Ok(next) = tokio::time::timeout(limit, events.message()).await else {
            if cursor.ended() {
                return Ok(ControlFlow::Break(cursor.state));
            }
            if let Some(outage) = outage {
                outage.tell_the_end(listener);
            }
            continue;
        };
        match next {
            Ok(Some(event)) => {
                // Only what is new shows that the connection works; a daemon may repeat itself.
                if event.number > cursor.after
                    && let Some(mut outage) = outage.take()
                {
                    outage.tell_the_end(listener);
                }
                cursor.take(event, listener)?;
            }
            Ok(None) => return Ok(after_stream(daemon, cursor).await),
            Err(_) if cursor.ended() => return Ok(ControlFlow::Break(cursor.state)),
            Err(status) => return retry_or_fail(daemon, status),
        }
    }
}

/// The daemon ended the stream: because the job ended, or because the daemon itself stops.
async fn after_stream(daemon: &Daemon, cursor: &Cursor) -> ControlFlow<v1::JobState, Status> {
    if cursor.ended() {
        return ControlFlow::Break(cursor.state);
    }
    let request = v1::GetJobRequest { job_id: cursor.job_id.clone() };
    match daemon.training().get(request).await.map(tonic::Response::into_inner) {
        // A daemon that cannot continue a job ends the stream of one that was interrupted.
        Ok(job)
            if (has_ended(job.state()) || job.state() == v1::JobState::Interrupted)
                && job.last_event <= cursor.after =>
        {
            ControlFlow::Break(job.state())
        }
        Ok(_) => ControlFlow::Continue(Status::unavailable("the daemon ended the stream")),
        Err(status) => ControlFlow::Continue(status),
    }
}

fn retry_or_fail(daemon: &Daemon, status: Status) -> Result<ControlFlow<v1::JobState, Status>, Error> {
    if may_pass(&status) { Ok(ControlFlow::Continue(status)) } else { Err(daemon.error(&status)) }
}

/// Whether the same call may go well later.
fn may_pass(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable, Unknown};
    is_transport(status)
        || matches!(
            status.code(),
            Unavailable | Unknown | Cancelled | DeadlineExceeded | ResourceExhausted | Aborted
        )
}

fn reason(status: &Status) -> String {
    if is_transport(status) { root_cause(status) } else { with_flags(status.message()) }
}

fn given_up(daemon: &Daemon, cursor: &Cursor, lost: &Status, retry_for: Duration) -> Error {
    let message = format!(
        "the connection to {} was lost ({}) and did not come back within {} s",
        daemon.url(),
        reason(lost),
        retry_for.as_secs_f64()
    );
    Error::new(Kind::ConnectionLost, message).hint(format!(
        "the job may go on without you: `client watch {} --after {}` comes back to it",
        cursor.job_id, cursor.after
    ))
}

/// The time without a connection that gave an event.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    attempts: u32,
    noted: Option<Instant>,
}

impl Outage {
    pub(crate) fn begin() -> Self {
        Self { since: Instant::now(), attempts: 0, noted: None }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.attempts.min(10)).min(LONGEST_PAUSE);
        self.attempts += 1;
        pause
    }

    /// Tells that the connection is back, if it was told that it was lost.
    fn tell_the_end(&mut self, listener: &mut impl Listener) {
        if self.noted.take().is_some() {
            let lasted = duration(self.since.elapsed().as_secs_f64());
            listener.note(&format!("connected again after {lasted}"));
        }
    }

    fn is_worth_a_note(&mut self) -> bool {
        let worth = self.noted.is_none_or(|noted| noted.elapsed() >= NOTE_INTERVAL);
        if worth {
            self.noted = Some(Instant::now());
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen {
        numbers: Vec<u64>,
        notes: Vec<String>,
    }

    impl Listener for Seen {
        fn event(&mut self, event: v1::Event) -> Result<(), Error> {
            self.numbers.push(event.number);
            Ok(())
        }

        fn note(&mut self, text: &str) {
            self.notes.push(text.to_owned());
        }
    }

    #[test]
    fn the_cursor_shows_each_event_once_and_tells_of_gaps() {
        let mut cursor = Cursor { job_id: "j".into(), after: 1, state: v1::JobState::Unspecified };
        let mut seen = Seen::default();
        for number in [1, 2, 2, 3, 1, 6] {
            cursor.take(v1::Event { number, ..Default::default() }, &mut seen).expect("shown");
        }
        assert_eq!(seen.numbers, [2, 3, 6]);
        assert_eq!(seen.notes, ["the daemon left out the events 4 to 5"]);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut outage = Outage::begin();
        let pauses: Vec<u64> = (0..7).map(|_| outage.next_pause().as_millis() as u64).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(may_pass(&Status::unavailable("shutting down")));
        assert!(!may_pass(&Status::not_found("there is no job x")));
        assert!(!may_pass(&Status::data_loss("the log is damaged")));
    }
}
