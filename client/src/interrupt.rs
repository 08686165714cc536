//! Ctrl-C as a value, so that a test can press it too.

use std::future::Future;

use tokio::sync::watch;

use crate::error::Error;

/// Tells when the user wants to stop.
#[derive(Debug, Clone)]
pub struct Interrupt {
    pressed: watch::Receiver<bool>,
}

impl Interrupt {
    /// Listens for Ctrl-C. Must be called within a tokio runtime.
    pub fn on_ctrl_c() -> Self {
        let (press, interrupt) = Self::by_hand();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                let _ = press.send(true);
            }
            // Kept alive, so that a listener that could not be set up does not look like a key that was pressed.
            std::future::pending::<()>().await;
        });
        interrupt
    }

    /// Nobody will want to stop.
    pub fn never() -> Self {
        Self::by_hand().1
    }

    /// Sending `true` is pressing Ctrl-C.
    pub fn by_hand() -> (watch::Sender<bool>, Self) {
        let (press, pressed) = watch::channel(false);
        (press, Self { pressed })
    }

    /// Returns when the user wants to stop.
    pub async fn wait(&self) {
        let mut pressed = self.pressed.clone();
        if pressed.wait_for(|pressed| *pressed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Does the work unless the user stops it.
    pub(crate) async fn or_stop<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.wait() => Err(Error::interrupted()),
            result = work => result,
        }
    }
}
