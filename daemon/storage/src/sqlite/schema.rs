//! The tables, and how they came to be.

use hone_base::error::{Error, Result};
use rusqlite::{Connection, TransactionBehavior};

use super::fault::Fault;

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
    // The request that made a job, so that its repetition makes no second one.
    "
    ALTER TABLE jobs ADD COLUMN request TEXT;
    ALTER TABLE jobs ADD COLUMN request_digest TEXT;
    CREATE UNIQUE INDEX jobs_by_request ON jobs (request) WHERE request IS NOT NULL;
    ",
    // Who runs a job: the daemon that claimed it.
    "ALTER TABLE jobs ADD COLUMN owner TEXT",
    // What is decided for a model, and who moved its aliases.
    "
    CREATE TABLE model_settings (
        model TEXT PRIMARY KEY,
        record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE alias_moves (
        model TEXT NOT NULL,
        number INTEGER NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (model, number)
    ) STRICT, WITHOUT ROWID;
    ",
];

/// Creates the tables, or brings those of an older version up to date.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Fault> {
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
