//! The life of a job: which states follow which, and what a wish of a user makes of each.
//!
//! ```text
//!            +--> Paused ------+
//!            |       ^         v
//! submit -> Queued --+---> Running -> Succeeded | Failed
//!            ^       |         |
//!            +-- Interrupted <-+          (any of them but the ends) -> Cancelled
//! ```

use hone_base::error::Error;
use hone_storage::State;

/// The states that may follow a state. No other change is ever logged.
pub fn next(state: State) -> &'static [State] {
    use State::{Cancelled, Failed, Interrupted, Paused, Queued, Running, Succeeded};
    match state {
        // A queued job fails when its record turns out to be damaged.
        Queued => &[Running, Paused, Cancelled, Failed],
        Running => &[Succeeded, Failed, Cancelled, Paused, Interrupted],
        Paused => &[Queued, Cancelled],
        Interrupted => &[Queued, Paused, Cancelled],
        Succeeded | Failed | Cancelled => &[],
    }
}

/// What a user wants of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It shall leave the device to others until it is resumed.
    Pause,
    /// It shall go on.
    Resume,
    /// It shall end.
    Cancel,
}

/// What becomes of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The job is as it was wished already.
    Stays,
    /// The job is in this state from now on.
    Becomes(State),
    /// The job runs; it hears of the wish at its next step.
    IsTold,
    /// The job has ended and cannot do what is wished.
    Refused,
}

impl Wish {
    /// What becomes of the wish for a job in a state.
    pub fn of(self, state: State) -> Answer {
        let wished = match self {
            Self::Pause => State::Paused,
            Self::Resume => State::Queued,
            Self::Cancel => State::Cancelled,
        };
        match state {
            State::Running => Answer::IsTold,
            _ if state == wished => Answer::Stays,
            _ if next(state).contains(&wished) => Answer::Becomes(wished),
            // Whoever wants no more of a job has got that.
            _ if self == Self::Cancel => Answer::Stays,
            _ => Answer::Refused,
        }
    }

    /// The error for a job that has ended in `state` and cannot be what is wished.
    pub fn refusal(self, job: &str, state: State) -> Error {
        let wished = match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Cancel => "cancelled",
        };
        let how = match state {
            State::Succeeded => "it has succeeded",
            State::Failed => "it has failed",
            _ => "it was cancelled",
        };
        Error::precondition(format!("the job {job} cannot be {wished} any more: {how}; start a new one"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_an_end_and_every_other_state_can_be_cancelled() {
        for state in State::ALL {
            assert_eq!(next(state).is_empty(), state.is_final(), "{state:?}");
            assert_eq!(next(state).contains(&State::Cancelled), !state.is_final(), "{state:?}");
            assert!(!next(state).contains(&state), "{state:?}");
        }
    }

    #[test]
    fn a_job_runs_only_from_the_queue() {
        let before = |to: State| State::ALL.into_iter().filter(move |&from| next(from).contains(&to));
        assert!(before(State::Running).eq([State::Queued]));
        assert!(before(State::Interrupted).eq([State::Running]));
        assert!(before(State::Succeeded).eq([State::Running]));
    }

    #[test]
    fn wishes_are_answered_by_one_table() {
        use Answer::{Becomes, IsTold, Refused, Stays};
        use State::{Cancelled, Failed, Interrupted, Paused, Queued, Running, Succeeded};
        for (state, pause, resume, cancel) in [
            (Queued, Becomes(Paused), Stays, Becomes(Cancelled)),
            (Running, IsTold, IsTold, IsTold),
            (Paused, Stays, Becomes(Queued), Becomes(Cancelled)),
            (Interrupted, Becomes(Paused), Becomes(Queued), Becomes(Cancelled)),
            (Succeeded, Refused, Refused, Stays),
            (Failed, Refused, Refused, Stays),
            (Cancelled, Refused, Refused, Stays),
        ] {
            let answers = [Wish::Pause, Wish::Resume, Wish::Cancel].map(|wish| wish.of(state));
            assert_eq!(answers, [pause, resume, cancel], "{state:?}");
        }
    }
}
