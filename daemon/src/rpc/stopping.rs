//! Whether the daemon is going down: said once, heard by every open stream and by work that takes long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use hone_base::cancel::{Cancel, Reason};
use hone_base::error::{Error, Kind};

/// How long a daemon may take to come back.
const RETRY: Duration = Duration::from_secs(5);

/// Hears that the daemon goes down.
#[derive(Clone, Debug)]
pub struct Stopping {
    said: Arc<watch::Sender<bool>>,
    cancel: Cancel,
}

impl Default for Stopping {
    fn default() -> Self {
        Self { said: Arc::new(watch::channel(false).0), cancel: Cancel::default() }
    }
}

impl Stopping {
    /// Says that the daemon goes down.
    pub fn begin(&self) {
        self.cancel.ask(Reason::Shutdown);
        self.said.send_replace(true);
    }

    /// The token of work for a call, which ends when the daemon goes down.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether it does.
    pub fn has_begun(&self) -> bool {
        *self.said.borrow()
    }

    /// Waits until it does.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.said.subscribe();
        async move {
            // The sender cannot go away before it has said so without the whole daemon being gone.
            let _ = receiver.wait_for(|stopping| *stopping).await;
        }
    }

    /// What a stream that is cut off ends with.
    pub fn error() -> Error {
        let why = "the daemon is going down; connect again when it is back";
        Error::new(Kind::Unavailable, why).retry_after(RETRY)
    }
}
