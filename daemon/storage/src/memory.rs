//! A catalog in the memory of this process: a second implementation, of which tests see that neither they nor the
//! catalog's contract lean on a database. Nothing outlives it, and what it keeps is never damaged.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use hone_base::error::Result;
use hone_base::panic::lock;
use hone_train::spec::Spec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catalog::{Catalog, DatasetCatalog, DatasetRow, JobCatalog, LogCatalog, ModelCatalog, ResultsOf};
use crate::changes::{Changes, Topic, Watchers};
use crate::dataset::{needed_dataset, unknown_dataset};
use crate::job::{full_queue, known_job, known_request, open_job, unknown_job};
use crate::model::{
    aliased_version, deletion_of, known_version, publication_by, unknown_model, unknown_version,
};
use crate::record::{decode, encode};
use crate::settings::MAX_MOVES;
use crate::{
    Alias, AliasMove, Cause, DatasetRecord, Entry, EventKind, Job, JobEvent, LATEST, Line, Listing, Model,
    ModelSettings, Mover, Page, StartRequest, State, Time, Unreadable, Version,
};

/// A catalog in memory.
#[derive(Debug, Default)]
struct Memory {
    records: Mutex<Records>,
    watchers: Watchers,
}

/// All records, each under what it is called.
#[derive(Clone, Debug, Default)]
struct Records {
    jobs: BTreeMap<String, LoggedJob>,
    datasets: BTreeMap<String, DatasetRecord>,
    models: BTreeMap<String, Versions>,
}

/// A job, its log, and the request that made it.
#[derive(Clone, Debug)]
struct LoggedJob {
    job: Job,
    log: Vec<Entry>,
    request: Option<StartRequest>,
}

/// What is called by the name of one model. It stays when the model is deleted, so that no number is given twice.
#[derive(Clone, Debug, Default)]
struct Versions {
    newest: u32,
    versions: BTreeMap<u32, Arc<Version>>,
    aliases: BTreeMap<String, u32>,
    /// The newest last.
    moves: Vec<AliasMove>,
    settings: ModelSettings,
}

impl Versions {
    /// Points an alias at a version and writes the move down, if it is one. Returns where it pointed.
    fn point(&mut self, alias: &str, version: u32, mover: Mover<'_>) -> Result<Option<u32>> {
        let from = self.aliases.insert(alias.to_owned(), version);
        if from != Some(version) {
            let (alias, by) = (alias.to_owned(), mover.by.to_owned());
            let (time, cause) = (Time::now(), mover.cause);
            self.write_down(&AliasMove { time, alias, from, to: version, cause, by })?;
        }
        Ok(from)
    }

    fn write_down(&mut self, moved: &AliasMove) -> Result<()> {
        self.moves.push(kept(moved)?);
        let old = self.moves.len().saturating_sub(MAX_MOVES);
        self.moves.drain(..old);
        Ok(())
    }

    fn promote(&mut self, alias: &str, version: u32, mover: Mover<'_>) -> Result<Option<u32>> {
        self.settings.forget_alias(alias);
        self.point(alias, version, mover)
    }

    /// Forgets everything but the numbers that were given.
    fn forget(&mut self) -> BTreeMap<u32, Arc<Version>> {
        std::mem::replace(self, Self { newest: self.newest, ..Self::default() }).versions
    }
}

impl Memory {
    /// Reads one state of the records.
    fn read<T>(&self, read: impl FnOnce(&Records) -> T) -> T {
        read(&lock(&self.records))
    }

    /// Does all of it or nothing: what is changed is a copy, which then takes the place of the records. Wakes who
    /// watches these topics.
    fn write<T>(&self, topics: &[Topic], write: impl FnOnce(&mut Records) -> Result<T>) -> Result<T> {
        let writing = self.watchers.begin(topics);
        let written = {
            let mut records = lock(&self.records);
            let mut copy = records.clone();
            let written = write(&mut copy)?;
            *records = copy;
            written
        };
        writing.done();
        Ok(written)
    }
}

/// A record as it would be read back where records are stored as text.
fn kept<T: Serialize + DeserializeOwned>(record: &T) -> Result<T> {
    decode(&encode(record)?)
}

/// A list of records all of which can be read.
fn all<T>(records: Vec<T>) -> Listing<T> {
    Listing { records, unreadable: Vec::new() }
}

impl Records {
    fn job(&self, id: &str) -> Option<Job> {
        self.jobs.get(id).map(|logged| logged.job.clone())
    }

    fn ids_in(&self, state: State) -> Vec<String> {
        let jobs = self.jobs.values().filter(|logged| logged.job.state == state);
        jobs.map(|logged| logged.job.id.clone()).collect()
    }

    fn insert(&mut self, id: &str, spec: &Spec, request: Option<&StartRequest>, bound: usize) -> Result<Job> {
        if self.ids_in(State::Queued).len() >= bound {
            return Err(full_queue(bound));
        }
        if let Some(source) = spec.sources().find(|source| !self.datasets.contains_key(&source.dataset)) {
            return Err(unknown_dataset(&source.dataset));
        }
        if self.jobs.contains_key(id) {
            return Err(known_job(id));
        }
        let job = Job {
            id: id.to_owned(),
            state: State::Queued,
            spec: kept(spec)?,
            created: Time::now(),
            started: None,
            ended: None,
            failure: None,
            last_event: 0,
            owner: None,
        };
        self.jobs.insert(id.to_owned(), LoggedJob { job, log: Vec::new(), request: request.cloned() });
        self.append(id, &[JobEvent::state(State::Queued)])?;
        self.job(id).ok_or_else(|| unknown_job(id))
    }

    fn made_by(&self, request: &StartRequest) -> Result<Option<Job>> {
        for LoggedJob { job, request: made_by, .. } in self.jobs.values() {
            match made_by {
                Some(known) if known == request => return Ok(Some(job.clone())),
                Some(known) if known.id == request.id => return Err(known_request(&known.id, &job.id)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn append(&mut self, id: &str, events: &[JobEvent]) -> Result<u64> {
        let LoggedJob { job, log, .. } = self.jobs.get_mut(id).ok_or_else(|| unknown_job(id))?;
        let time = Time::now();
        for event in events {
            let (_, body) = event.encode()?;
            let event = decode(&body)?;
            if let JobEvent::StateChanged { state, failure } = &event {
                job.state = *state;
                job.failure.clone_from(failure);
                job.started = job.started.or((*state == State::Running).then_some(time));
                job.ended = state.is_final().then_some(time);
                job.owner = None;
            }
            job.last_event += 1;
            log.push(Entry { number: job.last_event, time, event });
        }
        Ok(job.last_event)
    }

    fn results(&self, is_asked_for: impl Fn(&str) -> bool) -> ResultsOf {
        let (mut results, unreadable) = ResultsOf::default();
        for (id, logged) in self.jobs.iter().filter(|(id, _)| is_asked_for(id)) {
            let tells = |entry: &&Entry| EventKind::RESULTS.contains(&entry.event.kind());
            for entry in logged.log.iter().filter(tells) {
                results.entry(id.clone()).or_default().add(entry.event.clone());
            }
        }
        (results, unreadable)
    }

    /// Every data set, the newest first and then by id.
    fn datasets(&self) -> Vec<&DatasetRecord> {
        let mut records: Vec<_> = self.datasets.values().collect();
        // Those of one time keep the order of their ids.
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        records
    }

    /// What holds a version that is there.
    fn with_version(&mut self, name: &str, version: u32) -> Result<&mut Versions> {
        let model = self.models.get_mut(name).filter(|model| model.versions.contains_key(&version));
        model.ok_or_else(|| unknown_version(name, version))
    }
}

impl Catalog for Memory {
    fn watch(&self, topic: Topic) -> Changes {
        self.watchers.watch(topic)
    }
}

impl JobCatalog for Memory {
    fn insert_job(&self, id: &str, spec: &Spec, bound: usize) -> Result<Job> {
        self.write(&[Topic::Queue], |records| records.insert(id, spec, None, bound))
    }

    fn insert_requested_job(
        &self,
        id: &str,
        spec: &Spec,
        request: &StartRequest,
        bound: usize,
    ) -> Result<Job> {
        self.write(&[Topic::Queue], |records| match records.made_by(request)? {
            Some(job) => Ok(job),
            None => records.insert(id, spec, Some(request), bound),
        })
    }

    fn job_of_request(&self, request: &StartRequest) -> Result<Option<Job>> {
        self.read(|records| records.made_by(request))
    }

    fn claim(&self, id: &str, owner: &str) -> Result<Option<Job>> {
        self.write(&[Topic::Queue, Topic::Log(id.to_owned())], |records| {
            if records.job(id).is_none_or(|job| job.state != State::Queued) {
                return Ok(None);
            }
            records.append(id, &[JobEvent::state(State::Running)])?;
            let claimed = records.jobs.get_mut(id).map(|logged| &mut logged.job);
            Ok(claimed.map(|job| {
                job.owner = Some(owner.to_owned());
                job.clone()
            }))
        })
    }

    fn job(&self, id: &str) -> Result<Option<Job>> {
        Ok(self.read(|records| records.job(id)))
    }

    fn jobs(&self) -> Result<Listing<Job>> {
        let newest_first = |records: &Records| records.jobs.values().rev().map(|l| l.job.clone()).collect();
        Ok(all(self.read(newest_first)))
    }

    fn jobs_page(&self, before: Option<&str>, limit: usize) -> Result<Vec<Result<Job, Unreadable>>> {
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.read(|records| {
            let older = records.jobs.range::<str, _>((Bound::Unbounded, end)).rev().take(limit);
            older.map(|(_, logged)| Ok(logged.job.clone())).collect()
        }))
    }

    fn open_jobs(&self) -> Result<HashSet<String>> {
        Ok(self.read(|records| {
            let open = records.jobs.values().filter(|logged| !logged.job.state.is_final());
            open.map(|logged| logged.job.id.clone()).collect()
        }))
    }

    fn ids_in(&self, state: State) -> Result<Vec<String>> {
        Ok(self.read(|records| records.ids_in(state)))
    }

    fn line(&self) -> Result<Line> {
        Ok(self.read(|records| Line {
            running: records.ids_in(State::Running),
            queued: records.ids_in(State::Queued),
        }))
    }

    fn delete_job(&self, id: &str) -> Result<()> {
        self.write(&[], |records| match records.jobs.remove(id) {
            Some(logged) if matches!(logged.job.state, State::Queued | State::Running) => Err(open_job(id)),
            Some(_) => Ok(()),
            None => Err(unknown_job(id)),
        })?;
        self.watchers.forget(&Topic::Log(id.to_owned()));
        Ok(())
    }
}

impl LogCatalog for Memory {
    fn append(&self, job: &str, events: &[JobEvent]) -> Result<u64> {
        self.write(&Topic::changed_by(job, events), |records| records.append(job, events))
    }

    fn append_when(&self, job: &str, when: State, events: &[JobEvent]) -> Result<bool> {
        self.write(&Topic::changed_by(job, events), |records| {
            let is_so = records.job(job).ok_or_else(|| unknown_job(job))?.state == when;
            if is_so {
                records.append(job, events)?;
            }
            Ok(is_so)
        })
    }

    fn events_after(&self, job: &str, after: u64, limit: usize) -> Result<Option<Page>> {
        Ok(self.read(|records| {
            let LoggedJob { job, log, .. } = records.jobs.get(job)?;
            let entries = log.iter().filter(|entry| entry.number > after).take(limit).cloned().collect();
            Some(Page { entries, state: job.state, last_event: job.last_event })
        }))
    }

    fn results(&self, job: Option<&str>) -> Result<ResultsOf> {
        Ok(self.read(|records| records.results(|id| job.is_none_or(|job| job == id))))
    }

    fn results_of(&self, first: &str, last: &str) -> Result<ResultsOf> {
        Ok(self.read(|records| records.results(|id| first <= id && id <= last)))
    }
}

impl DatasetCatalog for Memory {
    fn put_dataset(&self, record: &DatasetRecord) -> Result<DatasetRecord> {
        self.write(&[], |records| {
            let mut record = kept(record)?;
            if let Some(known) = records.datasets.get(&record.id) {
                record.created = known.created;
            }
            records.datasets.insert(record.id.clone(), record.clone());
            Ok(record)
        })
    }

    fn dataset(&self, id: &str) -> Result<Option<DatasetRecord>> {
        Ok(self.read(|records| records.datasets.get(id).cloned()))
    }

    fn datasets_page(&self, after: Option<(Time, &str)>, limit: usize) -> Result<Vec<DatasetRow>> {
        let is_behind = |record: &&DatasetRecord| {
            after.is_none_or(|(time, id)| {
                record.created < time || (record.created == time && record.id.as_str() > id)
            })
        };
        Ok(self.read(|records| {
            let page = records.datasets().into_iter().filter(is_behind).take(limit);
            page.map(|record| (record.created, Ok(record.clone()))).collect()
        }))
    }

    fn dataset_ids(&self) -> Result<HashSet<String>> {
        Ok(self.read(|records| records.datasets.keys().cloned().collect()))
    }

    fn datasets(&self) -> Result<Listing<DatasetRecord>> {
        Ok(all(self.read(|records| records.datasets().into_iter().cloned().collect())))
    }

    fn delete_dataset(&self, id: &str) -> Result<()> {
        self.write(&[], |records| {
            records.datasets.remove(id).ok_or_else(|| unknown_dataset(id))?;
            for LoggedJob { job, .. } in records.jobs.values().filter(|logged| !logged.job.state.is_final()) {
                if let Some(source) = job.spec.sources().find(|source| source.dataset == id) {
                    return Err(needed_dataset(source, &job.id));
                }
            }
            Ok(())
        })
    }
}

impl ModelCatalog for Memory {
    fn reserve_version(&self, name: &str) -> Result<u32> {
        self.write(&[], |records| {
            let model = records.models.entry(name.to_owned()).or_default();
            model.newest += 1;
            Ok(model.newest)
        })
    }

    fn publish(&self, version: &Version, aliases: &[&str], events: &[JobEvent]) -> Result<u64> {
        let mut topics = Topic::changed_by(&version.job, events);
        topics.push(Topic::Models);
        self.write(&topics, |records| {
            let model = records.models.entry(version.name.clone()).or_default();
            if model.versions.insert(version.version, Arc::new(kept(version)?)).is_some() {
                return Err(known_version(&version.name, version.version));
            }
            let by = publication_by(&version.job);
            model.point(LATEST, version.version, Mover { cause: Cause::Published, by: &by })?;
            for alias in aliases {
                model.promote(alias, version.version, Mover { cause: Cause::Promoted, by: &by })?;
            }
            records.append(&version.job, events)
        })
    }

    fn models(&self) -> Result<Listing<Model>> {
        let models = |records: &Records| {
            let there = records.models.iter().filter(|(_, model)| !model.versions.is_empty());
            let model = |(name, model): (&String, &Versions)| Model {
                name: name.clone(),
                versions: model.versions.values().rev().cloned().collect(),
                aliases: model
                    .aliases
                    .iter()
                    .map(|(name, version)| Alias { name: name.clone(), version: *version })
                    .collect(),
                settings: model.settings.clone(),
            };
            there.map(model).collect()
        };
        Ok(all(self.read(models)))
    }

    fn version_numbers(&self) -> Result<Vec<(String, i64)>> {
        let numbers = |(name, model): (&String, &Versions)| -> Vec<(String, i64)> {
            model.versions.keys().map(|number| (name.clone(), i64::from(*number))).collect()
        };
        Ok(self.read(|records| records.models.iter().flat_map(numbers).collect()))
    }

    fn promote(&self, name: &str, version: u32, alias: &str, mover: Mover<'_>) -> Result<Option<u32>> {
        let promote =
            |records: &mut Records| records.with_version(name, version)?.promote(alias, version, mover);
        self.write(&[Topic::Models], promote)
    }

    fn alias_moves(&self, name: &str) -> Result<Vec<AliasMove>> {
        Ok(self.read(|records| {
            records
                .models
                .get(name)
                .map_or_else(Vec::new, |model| model.moves.iter().rev().cloned().collect())
        }))
    }

    fn change_settings(
        &self,
        name: &str,
        note: Option<&AliasMove>,
        change: &mut dyn FnMut(&mut ModelSettings) -> Result<()>,
    ) -> Result<()> {
        self.write(&[Topic::Models], |records| {
            let model = records.models.get_mut(name).filter(|model| !model.versions.is_empty());
            let model = model.ok_or_else(|| unknown_model(name))?;
            change(&mut model.settings)?;
            note.map_or(Ok(()), |note| model.write_down(note))
        })
    }

    /// No alias points at nothing: one goes with its version, or the version stays.
    fn delete_dangling_alias(&self, _: &str, _: &str) -> Result<bool> {
        Ok(false)
    }

    fn delete_version(&self, name: &str, version: u32) -> Result<()> {
        self.write(&[Topic::Models], |records| {
            let model = records.with_version(name, version)?;
            let Versions { versions, aliases, settings, .. } = &mut *model;
            if let Some((alias, _)) = aliases.iter().find(|(alias, at)| **at == version && *alias != LATEST) {
                return Err(aliased_version(name, version, alias));
            }
            versions.remove(&version);
            settings.forget_version(version);
            // Only `latest` can point at it.
            if aliases.values().any(|at| *at == version) {
                let by = deletion_of(name, version);
                match versions.last_key_value().map(|(newest, _)| *newest) {
                    Some(newest) => {
                        model.point(LATEST, newest, Mover { cause: Cause::Deleted, by: &by })?;
                    }
                    None => drop(model.forget()),
                }
            }
            Ok(())
        })
    }

    fn delete_model(&self, name: &str) -> Result<Vec<u32>> {
        self.write(&[Topic::Models], |records| {
            let Some(model) = records.models.get_mut(name) else { return Ok(Vec::new()) };
            Ok(model.forget().into_keys().collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn the_memory_conforms() {
        conformance::catalog(&|| (Arc::new(Memory::default()), Box::new(())));
    }
}
