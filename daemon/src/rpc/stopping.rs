//! Whether the daemon is going down: said once, heard by every open stream.

use std::sync::Arc;

use tokio::sync::watch;

use hone_base::error::{Error, Kind};

/// Hears that the daemon goes down.
#[derive(Clone, Debug)]
pub struct Stopping(Arc<watch::Sender<bool>>);

impl Default for Stopping {
    fn default() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }
}

impl Stopping {
    /// Says that the daemon goes down.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether it does.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it does.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.0.subscribe();
        async move {
            // The sender cannot go away before it has said so without the whole daemon being gone.
            let _ = receiver.wait_for(|stopping| *stopping).await;
        }
    }

    /// What a stream that is cut off ends with.
    pub fn error() -> Error {
        Error::new(Kind::Unavailable, "the daemon is going down; connect again when it is back")
    }
}
