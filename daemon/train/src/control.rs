//! How a run is driven from outside: when it shall end, and what of it was told before.

use std::time::Duration;

use super::seen::Seen;
use hone_base::cancel::Cancel;

/// Events of one sort are this far apart at least.
const THROTTLE: Duration = Duration::from_millis(250);

/// What a run is given besides its plan. The default is a new run that nobody ends.
#[derive(Clone, Debug)]
pub struct Control {
    /// Ends the run between two micro-batches, batches of an evaluation, rows or texts.
    pub cancel: Cancel,
    /// What the log of the job holds; the run leaves it out.
    pub seen: Seen,
    /// Time between two events of the same sort, steps or evaluations, at least; 0 tells each of them.
    pub throttle: Duration,
}

impl Default for Control {
    fn default() -> Self {
        Self { cancel: Cancel::default(), seen: Seen::default(), throttle: THROTTLE }
    }
}
