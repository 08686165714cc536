//! The lanes of a daemon: training, answers and files each have threads of their own, and answers go first.

use std::num::NonZeroUsize;
use std::sync::Arc;

use hone_base::error::Result;
use hone_engine::kernels::calls::Calls;
use hone_engine::kernels::lane::Lane;

use crate::workers::Workers;

/// The threads that compute. Clones are the same lanes.
///
/// What is not here runs on threads of its own: a model is loaded by the thread that owns it; a file is read by
/// [`hone_engine::kernels::lane::aside`]. What waits for the disk runs on the runtime's blocking threads.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// The calls that wait or run; the other lanes give way to them.
    pub calls: Calls,
    /// Texts of requests become tokens, a few texts at a time.
    pub tokens: Workers,
    /// Batches of requests.
    pub serving: Arc<Lane>,
    /// The job that has the device, or the steps of a dry run.
    pub training: Arc<Lane>,
    /// Tokenizing of files before a job has the device.
    pub files: Arc<Lane>,
    /// Checks of models before they answer, and answers that are only compared.
    pub checks: Arc<Lane>,
}

impl Lanes {
    /// Lanes of so many threads each.
    ///
    /// # Errors
    ///
    /// When the threads cannot be started.
    pub fn new(threads: NonZeroUsize) -> Result<Self> {
        let calls = Calls::default();
        Ok(Self {
            tokens: Workers::new("tokens", threads)?,
            serving: Arc::new(Lane::new("serving", threads)?),
            training: Arc::new(Lane::behind(&calls, "training", threads)?),
            files: Arc::new(Lane::behind(&calls, "files", threads)?),
            checks: Arc::new(Lane::behind(&calls, "checks", threads)?),
            calls,
        })
    }
}
