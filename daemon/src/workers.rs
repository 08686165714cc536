//! Threads for short pieces of computation that async tasks wait for.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use hone_base::error::{Error, Result};
use hone_base::panic::guarded;

/// Threads of one kind of work. Clones are the same threads.
///
/// They are not the runtime's blocking threads: those may all wait for a disk.
#[derive(Clone, Debug)]
pub struct Workers {
    pool: Arc<rayon::ThreadPool>,
    /// One permit a thread, so that what waits is a task that can be dropped.
    free: Arc<Semaphore>,
}

impl Workers {
    /// So many threads.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(name: &'static str, threads: NonZeroUsize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(move |number| format!("{name}-{number}"))
            .build()
            .map_err(|error| Error::internal(format!("cannot start {threads} threads: {error}")))?;
        Ok(Self { pool: pool.into(), free: Arc::new(Semaphore::new(threads.get())) })
    }

    /// Waits until a thread is free, and begins the work on it; its result comes by [`Work::result`].
    ///
    /// # Errors
    /// Never, as long as `self` exists.
    pub async fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Work<T>> {
        let permit = self.free.clone().acquire_owned().await;
        let permit = permit.map_err(|error| Error::internal(format!("a pool is closed: {error}")))?;
        let (done, result) = oneshot::channel();
        self.pool.spawn(move || {
            let outcome = guarded(work);
            drop(permit);
            // Nobody may be waiting any more.
            let _ = done.send(outcome);
        });
        Ok(Work(result))
    }
}

/// Work that was begun. It ends also when this is dropped.
#[derive(Debug)]
pub struct Work<T>(oneshot::Receiver<Result<T>>);

impl<T> Work<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// Those of the work, and `Internal` when it panicked.
    pub async fn result(self) -> Result<T> {
        self.0.await.unwrap_or_else(|_| Err(Error::internal("a thread ended before its work")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_beyond_the_threads_waits_and_a_panic_is_an_error_of_its_own() {
        let workers = Workers::new("test", NonZeroUsize::MIN).unwrap();
        let (release, released) = mpsc::channel::<()>();
        let blocked = workers.start(move || Ok(released.recv().is_err())).await.unwrap();
        {
            let mut waits = std::pin::pin!(workers.start(|| Ok(())));
            assert!(futures::poll!(&mut waits).is_pending());
        }
        drop(release);
        assert!(blocked.result().await.unwrap());
        let broken = workers.start(|| -> Result<()> { panic!("out of ideas") }).await.unwrap();
        assert!(broken.result().await.unwrap_err().message().contains("out of ideas"));
        let fine = workers.start(|| Ok(7)).await.unwrap();
        assert_eq!(fine.result().await.unwrap(), 7);
    }
}
