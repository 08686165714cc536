//! The records of data sets.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::fault::Fault;
use super::{Store, decode, encode, text_of};
use crate::{DatasetRecord, Listing, RecordKind, Time, Unreadable};
use hone_base::error::{Error, Result};
use hone_train::event::State;

impl Store {
    /// Keeps a record; one of the same file keeps its time.
    pub fn put_dataset(&self, record: &DatasetRecord) -> Result<DatasetRecord> {
        self.write(|tx| {
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

    /// One record.
    pub fn dataset(&self, id: &str) -> Result<Option<DatasetRecord>> {
        self.read(|tx| get(tx, id))
    }

    /// Every record, the newest first.
    pub fn datasets(&self) -> Result<Listing<DatasetRecord>> {
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

    /// Removes a record, unless a job that has not ended needs it.
    pub fn delete_dataset(&self, id: &str) -> Result<()> {
        self.write(|tx| {
            let there = tx.prepare_cached("SELECT 1 FROM datasets WHERE id = ?1")?.exists([id])?;
            if !there {
                return Err(unknown_dataset(id).into());
            }
            for state in State::ALL.into_iter().filter(|state| !state.is_final()) {
                for job in super::jobs::jobs_in(tx, state)?.records {
                    let spec = &job.spec;
                    let sources = [Some(&spec.train), spec.validation.as_ref(), spec.test.as_ref()];
                    if let Some(source) = sources.into_iter().flatten().find(|source| source.dataset == id) {
                        return Err(Error::precondition(format!(
                            "the data set {} ({}) is needed by job {}; cancel the job or wait for its end",
                            source.name, id, job.id
                        ))
                        .into());
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

/// The error for a data set that does not exist.
pub fn unknown_dataset(id: &str) -> Error {
    Error::not_found(format!("there is no data set {id}; upload the file"))
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

/// The error for a data set whose record is damaged: the same file, sent again, makes a new one.
fn unreadable_dataset(id: &str, error: &Error) -> Error {
    Error::not_found(format!(
        "the record of the data set {id} is damaged ({error}); send the file again, or delete it with `client datasets \
         delete {id}`"
    ))
}

#[cfg(test)]
mod tests {
    use crate::testing::{self, spec};
    use hone_base::error::Kind;
    use hone_train::event::{Event, State};

    #[test]
    fn a_data_set_that_a_job_needs_stays_until_the_job_has_ended() {
        let store = testing::store();
        let spec = spec("reviews");
        store.insert_job("01a", &spec, 8).unwrap();
        let error = store.delete_dataset(&spec.train.dataset).unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition);
        assert!(error.message().contains("01a"), "{error}");
        store.append("01a", &[Event::StateChanged { state: State::Cancelled, failure: None }]).unwrap();
        store.delete_dataset(&spec.train.dataset).unwrap();
        assert_eq!(store.delete_dataset(&spec.train.dataset).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_job_on_a_data_set_that_is_not_there_is_refused() {
        let store = testing::store();
        let mut spec = spec("reviews");
        spec.train.dataset = "0".repeat(64);
        assert_eq!(store.insert_job("01a", &spec, 8).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(store.jobs().unwrap().records, []);
    }

    #[test]
    fn the_same_file_again_keeps_its_time() {
        let store = testing::store();
        let mut record = store.datasets().unwrap().records.remove(0);
        let created = record.created;
        record.created.0 += 1000;
        record.name = "again.csv".into();
        assert_eq!(store.put_dataset(&record).unwrap().created, created);
        assert_eq!(store.dataset(&record.id).unwrap().unwrap().name, "again.csv");
    }
}
