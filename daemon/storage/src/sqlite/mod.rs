//! The embedded database. Nothing outside this folder knows that it is SQLite.
//!
//! A write is on the disk when its function returns. Readers have a connection of their own, so that they never wait
//! for a writer's disk.

mod claims;
#[cfg(test)]
mod damaged;
mod datasets;
mod fault;
mod jobs;
mod models;
mod pages;
mod requests;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::{Connection, Row, Transaction, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;

use fault::Fault;
use hone_base::error::{Error, Result};
use hone_base::panic::lock;

pub use datasets::unknown_dataset;
pub use jobs::unknown_job;

/// One statement list a version of the schema. Never changed, only added to.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        spec TEXT NOT NULL,
        created INTEGER NOT NULL,
        started INTEGER,
        ended INTEGER,
        failure TEXT,
        last_event INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX jobs_by_state ON jobs (state, id);
    CREATE TABLE events (
        job TEXT NOT NULL REFERENCES jobs (id),
        number INTEGER NOT NULL,
        time INTEGER NOT NULL,
        kind TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (job, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX results ON events (job, number) WHERE kind IN ('epoch', 'test', 'published');
    CREATE TABLE datasets (
        id TEXT PRIMARY KEY,
        created INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE models (
        name TEXT PRIMARY KEY,
        newest_version INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE versions (
        model TEXT NOT NULL REFERENCES models (name),
        version INTEGER NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (model, version)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE aliases (
        model TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        PRIMARY KEY (model, name),
        FOREIGN KEY (model, version) REFERENCES versions (model, version)
    ) STRICT, WITHOUT ROWID;
",
    "
    ALTER TABLE jobs ADD COLUMN request TEXT;
    ALTER TABLE jobs ADD COLUMN request_digest TEXT;
    CREATE UNIQUE INDEX jobs_by_request ON jobs (request) WHERE request IS NOT NULL;
",
];

/// Everything that the daemon remembers, apart from files.
#[derive(Debug)]
pub struct Store {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    models_generation: AtomicU64,
}

impl Store {
    /// Opens the database, creates it when it is not there, and brings an older one up to date.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Self, Fault> {
            let mut writer = connect(path)?;
            migrate(&mut writer)?;
            let reader = connect(path)?;
            reader.pragma_update(None, "query_only", true)?;
            Ok(Self {
                writer: Mutex::new(writer),
                reader: Mutex::new(reader),
                models_generation: AtomicU64::new(0),
            })
        };
        open().map_err(|fault| {
            Error::from(fault).within(format!("cannot open the database {}", path.display()))
        })
    }

    /// Changes whenever a model, version or alias does, so that readers can keep what they read.
    pub fn models_generation(&self) -> u64 {
        self.models_generation.load(Ordering::Acquire)
    }

    fn models_changed(&self) {
        self.models_generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads one state of the database.
    fn read<T>(&self, read: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T> {
        let mut connection = lock(&self.reader);
        let transaction = connection.transaction().map_err(Fault::from)?;
        Ok(read(&transaction)?)
    }

    /// Does all of it, durably, or nothing.
    fn write<T>(&self, write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T> {
        let mut connection = lock(&self.writer);
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(Fault::from)?;
        let written = write(&transaction)?;
        transaction.commit().map_err(Fault::from)?;
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

fn migrate(connection: &mut Connection) -> Result<(), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let newest = MIGRATIONS.len() as u32;
    if version > newest {
        return Err(Error::precondition(format!(
            "a newer version of Hone wrote it (schema {version}, this one knows {newest}); use that version"
        ))
        .into());
    }
    for statements in MIGRATIONS.iter().skip(version as usize) {
        transaction.execute_batch(statements)?;
    }
    transaction.pragma_update(None, "user_version", newest)?;
    Ok(transaction.commit()?)
}

/// The text that a value is stored as. One that could not be read back, because a number in it is not finite, is
/// refused: it would be there and of no use.
fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Result<String> {
    let failed = |error| Error::internal(format!("a record cannot be written: {error}"));
    let text = serde_json::to_string(value).map_err(failed)?;
    serde_json::from_str::<T>(&text).map_err(|error| {
        Error::internal(format!("a record was not written, because it could not be read again ({error})"))
    })?;
    Ok(text)
}

/// The value that a text was stored from.
fn decode<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::corrupt(format!("a record of the database cannot be read: {error}")))
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
}
