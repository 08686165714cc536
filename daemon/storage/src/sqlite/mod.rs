//! The embedded database. Nothing outside this folder knows that it is SQLite.
//!
//! A write is on the disk when its function returns. Readers have connections of their own (`readers`), so that they
//! wait neither for a writer's disk nor for each other. One daemon has the file (the data folder's lock sees to it), so
//! that whoever writes and whoever is woken are in one process.

mod aliases;
#[cfg(test)]
mod damaged;
mod datasets;
mod events;
mod fault;
mod jobs;
mod models;
mod pages;
mod readers;
mod requests;
mod schema;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use hone_base::error::{Error, Result};
use hone_base::panic::lock;
use rusqlite::{Connection, Row, Transaction, TransactionBehavior};

use crate::catalog::Catalog;
use crate::changes::{Changes, Topic, Watchers};
use fault::Fault;
use readers::{READERS, Readers};

/// A catalog in a SQLite database.
#[derive(Debug)]
pub struct Store {
    writer: Mutex<Connection>,
    readers: Readers,
    watchers: Watchers,
}

impl Catalog for Store {
    fn watch(&self, topic: Topic) -> Changes {
        self.watchers.watch(topic)
    }
}

impl Store {
    /// Opens the database, creates it when it is not there, and brings an older one up to date.
    ///
    /// # Errors
    ///
    /// When the file cannot be used: it is no database, or one of a newer version of Hone.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Self, Fault> {
            let mut writer = connect(path)?;
            schema::migrate(&mut writer)?;
            let readers = Readers::new(path, READERS);
            Ok(Self { writer: Mutex::new(writer), readers, watchers: Watchers::default() })
        };
        open().map_err(|fault| {
            Error::from(fault).within(format!("cannot open the database {}", path.display()))
        })
    }

    /// Reads one state of the database. No lock is held meanwhile.
    fn read<T>(&self, read: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T> {
        Ok(self.readers.with(|connection| read(&connection.transaction()?))?)
    }

    /// Does all of it, durably, or nothing; then wakes who watches these topics.
    fn write<T>(
        &self,
        topics: &[Topic],
        write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T> {
        Ok(self.commit(topics, write)?)
    }

    /// The same for a job's log: if the database fails, those that watch the log are told.
    fn log<T>(
        &self,
        job: &str,
        topics: &[Topic],
        write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T> {
        self.commit(topics, write).map_err(|fault| {
            let is_of_the_database = matches!(fault, Fault::Sql(_));
            let error = Error::from(fault);
            if is_of_the_database {
                let told = error.clone().within("the job's log cannot be written");
                self.watchers.fail(Topic::Log(job.to_owned()), told);
            }
            error
        })
    }

    fn commit<T>(
        &self,
        topics: &[Topic],
        write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let writing = self.watchers.begin(topics);
        let written = {
            let mut connection = lock(&self.writer);
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let written = write(&transaction)?;
            transaction.commit()?;
            written
        };
        writing.done();
        Ok(written)
    }
}

fn connect(path: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// The text of a column, if it is one.
fn text_of(row: &Row<'_>, column: usize) -> Result<String> {
    let value = row.get_ref(column).map_err(Fault::from)?;
    let text = value.as_str().map(str::to_owned);
    text.map_err(|_| Error::corrupt("a record of the database cannot be read: it is not text"))
}

/// A count or number as SQLite stores it. None of ours comes near 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The reverse of `signed`.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, JobCatalog as _, JobEvent, LogCatalog as _, ModelCatalog as _, State, conformance};
    use hone_base::error::Kind;

    #[test]
    fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hone.db");
        Store::open(&path).unwrap();
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition);
        assert!(error.message().contains("newer version"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hone.db");
        std::fs::write(&path, "this is not a database, and long enough to be looked at as one. ".repeat(20))
            .unwrap();
        let error = Store::open(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.message().contains("hone.db"), "{error}");
    }

    #[test]
    fn reads_hold_no_lock_so_that_each_goes_on_beside_others_and_a_write() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("hone.db")).unwrap();
        let inner = || store.read(|_| Ok(store.reserve_version("reviews").unwrap()));
        assert_eq!(store.read(|_| Ok(inner().unwrap())), Ok(1));
    }

    #[test]
    fn as_many_reads_as_there_are_connections_go_on_at_once_and_the_next_one_waits_for_one() {
        fn nest(store: &Store, deep: usize, at_the_bottom: &dyn Fn()) {
            match deep {
                0 => at_the_bottom(),
                _ => {
                    let deeper = |_: &Transaction<'_>| {
                        nest(store, deep - 1, at_the_bottom);
                        Ok(())
                    };
                    store.read(deeper).unwrap();
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("hone.db")).unwrap();
        let store = &store;
        std::thread::scope(|scope| {
            nest(store, READERS, &|| drop(scope.spawn(move || store.jobs().unwrap())));
        });
        assert_eq!(store.readers.opened(), READERS);
    }

    #[test]
    fn a_database_of_the_first_version_is_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hone.db");
        Connection::open(&path).unwrap().execute_batch(include_str!("fixtures/first.sql")).unwrap();
        let store = Store::open(&path).unwrap();
        let job = store.job("01jdm3s5k8x7v2q4w6y8z0a1b2").unwrap().unwrap();
        assert_eq!((job.state, job.owner, job.last_event), (State::Succeeded, None, 10));
        let page = store.events_after(&job.id, 0, 99).unwrap().unwrap();
        // Each can be read, and would be written the same way, apart from what has been added since.
        let lost =
            |entry: &&Entry| matches!(&entry.event, JobEvent::Notice { message } if message.contains("lost"));
        assert_eq!(page.entries.iter().find(lost), None);
        let kinds: Vec<&str> = page.entries.iter().map(|entry| entry.event.kind().name()).collect();
        let stored: Vec<String> = store
            .read(|tx| {
                let mut statement = tx.prepare("SELECT kind FROM events ORDER BY number")?;
                let kinds = statement.query_map([], |row| row.get(0))?;
                Ok(kinds.collect::<Result<_, _>>()?)
            })
            .unwrap();
        assert_eq!(kinds, stored);
        let results = store.results(None).unwrap().0.remove(&job.id).unwrap();
        assert!(results.epochs.len() == 1 && results.test.is_some() && results.published.is_some());
    }

    #[test]
    fn the_database_conforms() {
        conformance::catalog(&|| {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&folder.path().join("hone.db")).unwrap();
            (std::sync::Arc::new(store) as std::sync::Arc<dyn Catalog>, Box::new(folder))
        });
    }

    #[test]
    fn jobs_and_events_are_there_after_a_restart() {
        let home = crate::testing::Home::new();
        let jobs = {
            let store = home.store();
            store.insert_job("01a", &crate::testing::spec("reviews"), 8).unwrap();
            store.append("01a", &[crate::testing::step(1)]).unwrap();
            store.claim("01a", "me").unwrap();
            store.jobs().unwrap().records
        };
        let store = home.store();
        assert_eq!(store.jobs().unwrap().records, jobs);
        let page = store.events_after("01a", 0, 10).unwrap().unwrap();
        assert_eq!(page.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(page.entries[1].event, crate::testing::step(1));
    }
}
