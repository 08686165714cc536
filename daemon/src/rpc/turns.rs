//! Turns at what only a few calls may do at once, and a bounded queue before it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use hone_base::error::{Error, Kind, Result};

/// A few turns, and a few callers that wait for one.
#[derive(Clone, Debug)]
pub struct Turns {
    what: &'static str,
    at_once: usize,
    running: Arc<Semaphore>,
    /// Of those that run and those that wait.
    places: Arc<Semaphore>,
    waiting: usize,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _running: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Turns {
    /// So many turns at once, and so many that wait at most. Messages call them `what`, in the plural.
    pub fn new(what: &'static str, at_once: usize, waiting: usize) -> Self {
        let (running, places) = (Semaphore::new(at_once), Semaphore::new(at_once + waiting));
        Self { what, at_once, running: running.into(), places: places.into(), waiting }
    }

    /// Waits for a turn. Whoever goes away while it waits leaves its place to others.
    ///
    /// # Errors
    /// `Exhausted` at once where as many wait as may.
    pub async fn take(&self) -> Result<Turn> {
        let full = || {
            let Self { what, at_once, waiting, .. } = self;
            let waits = match waiting {
                0 => String::new(),
                waiting => format!(" and {waiting} more wait"),
            };
            Error::new(
                Kind::Exhausted,
                format!(
                    "the daemon has as many {what} as it can: {at_once} go on at once{waits}; try again later"
                ),
            )
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| full())?;
        let running = self.running.clone().acquire_owned().await;
        let running = running.map_err(|error| Error::internal(format!("a queue is closed: {error}")))?;
        Ok(Turn { _running: running, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_few_go_on_a_few_wait_and_the_others_are_refused() {
        let turns = Turns::new("files to read", 2, 1);
        let first = turns.take().await.unwrap();
        let _second = turns.take().await.unwrap();
        let waits = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take().await.map(drop) }
        });
        while turns.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let error = turns.take().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (
                Kind::Exhausted,
                "the daemon has as many files to read as it can: 2 go on at once and 1 more wait; try again later"
            )
        );
        drop(first);
        waits.await.unwrap().unwrap();
        turns.take().await.unwrap();
    }

    #[tokio::test]
    async fn whoever_goes_away_leaves_its_place() {
        let turns = Turns::new("files to read", 1, 1);
        let first = turns.take().await.unwrap();
        {
            let mut waits = std::pin::pin!(turns.take());
            assert!(futures::poll!(&mut waits).is_pending());
            assert!(turns.take().await.is_err());
        }
        let mut waits = std::pin::pin!(turns.take());
        assert!(futures::poll!(&mut waits).is_pending());
        drop(first);
        waits.await.unwrap();
    }
}
