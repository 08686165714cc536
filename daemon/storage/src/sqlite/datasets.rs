//! The records of data sets.

use std::collections::HashSet;

use hone_base::error::Result;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::fault::Fault;
use super::{Store, pages, text_of};
use crate::catalog::DatasetCatalog;
use crate::dataset::{needed_dataset, unknown_dataset, unreadable_dataset};
use crate::record::{decode, encode};
use crate::{DatasetRecord, DatasetRow, Listing, RecordKind, State, Time, Unreadable};

impl DatasetCatalog for Store {
    fn put_dataset(&self, record: &DatasetRecord) -> Result<DatasetRecord> {
        self.write(&[], |tx| {
            let mut record = record.clone();
            // The time is a column of its own, so that a record that cannot be read is replaced as well.
            let created = tx
                .prepare_cached("SELECT created FROM datasets WHERE id = ?1")?
                .query_row([&record.id], |row| row.get(0))
                .optional()?;
            record.created = created.map_or(record.created, Time);
            tx.prepare_cached("INSERT OR REPLACE INTO datasets (id, created, record) VALUES (?1, ?2, ?3)")?
                .execute(params![record.id, record.created.0, encode(&record)?])?;
            Ok(record)
        })
    }

    fn dataset(&self, id: &str) -> Result<Option<DatasetRecord>> {
        self.read(|tx| get(tx, id))
    }

    fn datasets(&self) -> Result<Listing<DatasetRecord>> {
        self.read(|tx| {
            let mut statement =
                tx.prepare_cached("SELECT id, record FROM datasets ORDER BY created DESC, id")?;
            let mut rows = statement.query([])?;
            let mut records = Listing::default();
            while let Some(row) = rows.next()? {
                let id = text_of(row, 0)?;
                records.add(text_of(row, 1).and_then(|text| decode(&text)).map_err(|error| Unreadable {
                    kind: RecordKind::Dataset,
                    id,
                    why: error.message().to_owned(),
                }));
            }
            Ok(records)
        })
    }

    fn datasets_page(&self, after: Option<(Time, &str)>, limit: usize) -> Result<Vec<DatasetRow>> {
        self.read(|tx| pages::datasets(tx, after, limit))
    }

    fn dataset_ids(&self) -> Result<HashSet<String>> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT id FROM datasets")?;
            let ids = statement.query_map([], |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
    }

    fn delete_dataset(&self, id: &str) -> Result<()> {
        self.write(&[], |tx| {
            let there = tx.prepare_cached("SELECT 1 FROM datasets WHERE id = ?1")?.exists([id])?;
            if !there {
                return Err(unknown_dataset(id).into());
            }
            for state in State::ALL.into_iter().filter(|state| !state.is_final()) {
                for job in super::jobs::jobs_in(tx, state)?.records {
                    if let Some(source) = job.spec.sources().find(|source| source.dataset == id) {
                        return Err(needed_dataset(source, &job.id).into());
                    }
                }
            }
            tx.prepare_cached("DELETE FROM datasets WHERE id = ?1")?.execute([id])?;
            Ok(())
        })
    }
}

/// The record, or the error that it is not there.
pub(super) fn require(tx: &Transaction<'_>, id: &str) -> Result<DatasetRecord, Fault> {
    Ok(get(tx, id)?.ok_or_else(|| unknown_dataset(id))?)
}

fn get(tx: &Transaction<'_>, id: &str) -> Result<Option<DatasetRecord>, Fault> {
    let text: Option<String> = tx
        .prepare_cached("SELECT record FROM datasets WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(text
        .as_deref()
        .map(|text| decode(text).map_err(|error| unreadable_dataset(id, &error)))
        .transpose()?)
}
