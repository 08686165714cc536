//! Connections that read. Each is one reader's at a time; the lock here is held only while one comes or goes.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use hone_base::panic::lock;
use rusqlite::Connection;

use super::connect;
use super::fault::Fault;

/// Connections of a database at most: reads that go on at once. A further one waits until one of these is done.
pub(super) const READERS: usize = 8;

/// All of them.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    most: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    opened: usize,
}

/// One of the connections that may be open, until it is dropped.
struct Place<'a>(&'a Readers);

impl Readers {
    /// Connections to the database there, each of which is opened when it is first needed.
    pub(super) fn new(path: &Path, most: usize) -> Self {
        Self { path: path.to_owned(), most, state: Mutex::default(), returned: Condvar::new() }
    }

    /// Reads with a connection; waits while all are in use.
    pub(super) fn with<T>(&self, read: impl FnOnce(&mut Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let (place, idle) = self.take();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.open()?,
        };
        let read = read(&mut connection);
        place.keep(connection);
        read
    }

    /// A place, and its connection if it has been opened.
    fn take(&self) -> (Place<'_>, Option<Connection>) {
        let mut state = lock(&self.state);
        loop {
            if let Some(connection) = state.idle.pop() {
                return (Place(self), Some(connection));
            }
            if state.opened < self.most {
                state.opened += 1;
                return (Place(self), None);
            }
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) -> Result<Connection, Fault> {
        let connection = connect(&self.path)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }

    /// How many have been opened.
    #[cfg(test)]
    pub(super) fn opened(&self) -> usize {
        lock(&self.state).opened
    }
}

impl Place<'_> {
    /// Gives the connection to the next one.
    fn keep(self, connection: Connection) {
        let mut state = lock(&self.0.state);
        // Counted out when the place is dropped.
        state.opened += 1;
        state.idle.push(connection);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).opened -= 1;
        self.0.returned.notify_one();
    }
}
