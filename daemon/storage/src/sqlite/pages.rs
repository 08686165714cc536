//! Lists by the page: the rows behind a place, in their order. What cannot be read keeps its place.

use std::collections::{HashMap, HashSet};

use rusqlite::params;

use super::jobs::{COLUMNS, add_result, job_of, state_name};
use super::{Store, decode, signed, text_of};
use crate::{DatasetRecord, Job, RecordKind, Results, Time, Unreadable};
use hone_base::error::{Kind, Result};
use hone_train::event::State;

/// What jobs have achieved, by their ids, and which of their events cannot be read.
type ResultsOf = (HashMap<String, Results>, Vec<Unreadable>);

impl Store {
    /// At most `limit` jobs, the newest first, of those that are older than the one with the id `before`.
    pub fn jobs_page(&self, before: Option<&str>, limit: usize) -> Result<Vec<Result<Job, Unreadable>>> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM jobs WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![before, signed(limit as u64)])?;
            let mut jobs = Vec::new();
            while let Some(row) = rows.next()? {
                jobs.push(match job_of(row) {
                    Err(error) if error.kind() == Kind::Corrupt => Err(Unreadable {
                        kind: RecordKind::Job,
                        id: row.get("id")?,
                        why: error.message().to_owned(),
                    }),
                    job => Ok(job?),
                });
            }
            Ok(jobs)
        })
    }

    /// What the jobs with ids from `first` to `last`, both included, have achieved.
    pub fn results_of(&self, first: &str, last: &str) -> Result<ResultsOf> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT job, body, number FROM events WHERE kind IN ('epoch', 'test', 'published') \
                 AND job BETWEEN ?1 AND ?2 ORDER BY job, number",
            )?;
            let mut rows = statement.query([first, last])?;
            let (mut results, mut unreadable): ResultsOf = Default::default();
            while let Some(row) = rows.next()? {
                let job: String = row.get(0)?;
                if let Err(event) = add_result(results.entry(job.clone()).or_default(), &job, row)? {
                    unreadable.push(event);
                }
            }
            Ok((results, unreadable))
        })
    }

    /// At most `limit` data sets, the newest first and then by id, behind the one of the time and id `after`; each with
    /// its time.
    pub fn datasets_page(
        &self,
        after: Option<(Time, &str)>,
        limit: usize,
    ) -> Result<Vec<(Time, Result<DatasetRecord, Unreadable>)>> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT id, record, created FROM datasets \
                 WHERE ?1 IS NULL OR created < ?1 OR (created = ?1 AND id > ?2) ORDER BY created DESC, id LIMIT ?3",
            )?;
            let (created, id) = (after.map(|(created, _)| created.0), after.map(|(_, id)| id));
            let mut rows = statement.query(params![created, id, signed(limit as u64)])?;
            let mut datasets = Vec::new();
            while let Some(row) = rows.next()? {
                let id = text_of(row, 0)?;
                let record = text_of(row, 1).and_then(|text| decode(&text)).map_err(|error| Unreadable {
                    kind: RecordKind::Dataset,
                    id,
                    why: error.message().to_owned(),
                });
                datasets.push((Time(row.get(2)?), record));
            }
            Ok(datasets)
        })
    }

    /// The ids of the jobs that have not ended, of those that cannot be read too.
    pub fn open_jobs(&self) -> Result<HashSet<String>> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT id, state FROM jobs")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let jobs: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
            let has_ended = |name: &str| {
                State::ALL.into_iter().any(|state| state.is_final() && state_name(state) == name)
            };
            Ok(jobs.into_iter().filter(|(_, state)| !has_ended(state)).map(|(id, _)| id).collect())
        })
    }

    /// The ids of all data sets, of those whose records cannot be read too.
    pub fn dataset_ids(&self) -> Result<HashSet<String>> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT id FROM datasets")?;
            let ids = statement.query_map([], |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, dataset, epoch, spec};
    use hone_train::event::Event;

    #[test]
    fn pages_of_jobs_follow_each_other_without_a_gap() {
        let store = testing::store();
        let ids: Vec<String> = (0..7).map(|number| format!("01{number}")).collect();
        for id in &ids {
            store.insert_job(id, &spec("reviews"), 99).unwrap();
        }
        let (mut listed, mut before) = (Vec::new(), None::<String>);
        loop {
            let page = store.jobs_page(before.as_deref(), 3).unwrap();
            let page: Vec<String> = page.into_iter().map(|job| job.unwrap().id).collect();
            let Some(last) = page.last() else { break };
            before = Some(last.clone());
            listed.extend(page);
        }
        assert_eq!(listed, ids.iter().rev().cloned().collect::<Vec<_>>());
    }

    #[test]
    fn results_are_those_of_the_jobs_between_two_ids() {
        let store = testing::store();
        for id in ["01a", "01b", "01c", "01d"] {
            store.insert_job(id, &spec("reviews"), 99).unwrap();
            store.append(id, &[Event::Epoch(epoch())]).unwrap();
        }
        let (results, unreadable) = store.results_of("01b", "01c").unwrap();
        let mut ids: Vec<&str> = results.keys().map(String::as_str).collect();
        ids.sort_unstable();
        assert_eq!((ids, unreadable), (vec!["01b", "01c"], vec![]));
    }

    #[test]
    fn pages_of_data_sets_follow_each_other_also_where_times_are_the_same() {
        let store = testing::store();
        store.delete_dataset(&dataset().id).unwrap();
        for (number, created) in [(1, 10), (2, 20), (3, 20), (4, 20), (5, 30)] {
            let id = format!("{number:064}");
            store.put_dataset(&DatasetRecord { id, created: Time(created), ..dataset() }).unwrap();
        }
        let (mut listed, mut after) = (Vec::new(), None::<(Time, String)>);
        loop {
            let page = store.datasets_page(after.as_ref().map(|(at, id)| (*at, id.as_str())), 2).unwrap();
            let page: Vec<(Time, String)> =
                page.into_iter().map(|(at, record)| (at, record.unwrap().id)).collect();
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            listed.extend(page.into_iter().map(|(_, id)| id.trim_start_matches('0').to_owned()));
        }
        assert_eq!(listed, ["5", "2", "3", "4", "1"]);
    }
}
