//! Threads for short pieces of computation that async tasks wait for.

use std::num::NonZeroUsize;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, oneshot};

use hone_base::error::{Error, Result};
use hone_base::panic::{guarded, lock};

type Piece = Box<dyn FnOnce() + Send>;

/// Threads of one kind of work. Clones are the same threads, which end with the last of them.
///
/// They are not the runtime's blocking threads: those may all wait for a disk. Nor are they rayon's, which look for work
/// for a while before they sleep, and take the core from others meanwhile.
#[derive(Clone, Debug)]
pub struct Workers {
    threads: Arc<Threads>,
    /// One permit a thread, so that what waits is a task that can be dropped.
    free: Arc<Semaphore>,
}

#[derive(Debug)]
struct Threads {
    /// Until the threads shall end.
    work: Option<SyncSender<Piece>>,
    handles: Vec<JoinHandle<()>>,
}

impl Workers {
    /// So many threads.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(name: &'static str, threads: NonZeroUsize) -> Result<Self> {
        let (work, pieces) = sync_channel::<Piece>(threads.get());
        let pieces = Arc::new(Mutex::new(pieces));
        let start = |number: usize| {
            let pieces = pieces.clone();
            let run = move || {
                // One thread waits for work, the others for its place.
                while let Ok(piece) = { lock(&pieces).recv() } {
                    piece();
                }
            };
            let thread = std::thread::Builder::new().name(format!("{name}-{number}")).spawn(run);
            thread.map_err(|error| Error::internal(format!("cannot start {threads} threads: {error}")))
        };
        let handles = (0..threads.get()).map(start).collect::<Result<_>>()?;
        let free = Arc::new(Semaphore::new(threads.get()));
        Ok(Self { threads: Arc::new(Threads { work: Some(work), handles }), free })
    }

    /// Waits until a thread is free, and begins the work on it; its result comes by [`Work::result`].
    ///
    /// # Errors
    /// `Internal` if the threads have ended, which they do not as long as `self` exists.
    pub async fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Work<T>> {
        let permit = self.free.clone().acquire_owned().await;
        let permit = permit.map_err(|error| Error::internal(format!("a pool is closed: {error}")))?;
        let (done, result) = oneshot::channel();
        let piece = move || {
            let outcome = guarded(work);
            drop(permit);
            // Nobody may be waiting any more.
            let _ = done.send(outcome);
        };
        // There is room: no more pieces are under way than there are threads.
        let sent = self.threads.work.as_ref().is_some_and(|work| work.try_send(Box::new(piece)).is_ok());
        if sent { Ok(Work(result)) } else { Err(Error::internal("the threads of a pool have ended")) }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.work = None;
        for handle in self.handles.drain(..) {
            // The work's panics have been caught.
            let _ = handle.join();
        }
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
