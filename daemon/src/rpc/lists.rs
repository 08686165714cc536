//! Lists by the page. A page holds as many records as were asked for, and no more bytes than any client takes.

use hone::v1;

use super::convert::{Convert, all, job};
use crate::jobs::datasets::Datasets;
use crate::jobs::registry::Registry;
use crate::serve::reference::{At, Reference};
use hone_base::error::{Error, Result};
use hone_storage::{Listing, Model, Time, Unreadable};

/// Bytes of the records of a page at most, a single larger one aside: clients take 4 MiB unless they say otherwise.
pub const MAX_BYTES: usize = 3 << 20;

/// Records that are read at once. A few of the largest fill a page.
const BATCH: usize = 16;

/// Characters of a page's token at most.
const MAX_TOKEN: usize = 256;

/// The room that is left on a page.
struct Room {
    records: usize,
    bytes: usize,
    is_empty: bool,
}

impl Room {
    /// Of a page of at most `size` records; 0 is as many as fit.
    fn new(size: u32) -> Self {
        let records = if size == 0 { usize::MAX } else { size as usize };
        Self { records, bytes: MAX_BYTES, is_empty: true }
    }

    /// Takes the room for a record, if there is enough. The first record of a page is always taken.
    fn take(&mut self, message: &impl prost::Message) -> bool {
        // With what it takes to be a field: a tag and a length.
        let bytes = message.encoded_len() + 8;
        let fits = self.is_empty || self.records > 0 && bytes <= self.bytes;
        if fits {
            self.records = self.records.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
            self.is_empty = false;
        }
        fits
    }
}

/// The token of a request; `None` asks for the first page.
fn token(token: &str) -> Result<Option<&str>> {
    if token.len() > MAX_TOKEN {
        return Err(bad_token());
    }
    Ok(Some(token).filter(|token| !token.is_empty()))
}

fn bad_token() -> Error {
    Error::invalid("`page_token`: this is none that the daemon gave; leave it empty for the first page")
}

/// A page of jobs. Its token is the id of the last job on it.
pub fn jobs(registry: &Registry, request: &v1::ListJobsRequest) -> Result<v1::ListJobsResponse> {
    let mut before = token(&request.page_token)?.map(str::to_owned);
    let mut room = Room::new(request.page_size);
    let mut page = v1::ListJobsResponse::default();
    loop {
        let rows = registry.page(before.as_deref(), BATCH)?;
        let is_last = rows.len() < BATCH;
        for row in rows {
            let id = row.id().to_owned();
            match row.job {
                Ok(view) => {
                    let mut job = v1::Job::convert(view);
                    if request.without_labels {
                        job::leave_labels_out(&mut job);
                    }
                    if !room.take(&job) {
                        page.next_page_token = before.unwrap_or_default();
                        return Ok(page);
                    }
                    page.jobs.push(job);
                }
                Err(unreadable) => {
                    let unreadable = v1::UnreadableRecord::convert(&unreadable);
                    if !room.take(&unreadable) {
                        page.next_page_token = before.unwrap_or_default();
                        return Ok(page);
                    }
                    page.unreadable.push(unreadable);
                }
            }
            page.unreadable.extend(all::<Unreadable, v1::UnreadableRecord>(&row.events));
            before = Some(id);
        }
        if is_last {
            return Ok(page);
        }
    }
}

/// A page of models. Its token is the last version on it; what cannot be read is told on the first page.
pub fn models(models: &Listing<Model>, request: &v1::ListModelsRequest) -> Result<v1::ListModelsResponse> {
    let after = match token(&request.page_token)?.map(Reference::parse) {
        None => None,
        Some(Ok(Reference { name, at: Some(At::Version(version)) })) => Some((name, version)),
        Some(_) => return Err(bad_token()),
    };
    let mut room = Room::new(request.page_size);
    let mut page = v1::ListModelsResponse::default();
    if after.is_none() {
        page.unreadable = all(&models.unreadable);
    }
    let mut last = None;
    for model in &models.records {
        let mut shown = v1::Model::convert(&Model { versions: Vec::new(), ..model.clone() });
        for version in &model.versions {
            let is_behind = after.as_ref().is_none_or(|(name, number)| {
                model.name > *name || model.name == *name && version.version < *number
            });
            if !is_behind {
                continue;
            }
            let version = v1::ModelVersion::convert(version.as_ref());
            if !room.take(&version) {
                page.next_page_token = last.unwrap_or_default();
                page.models.extend(Some(shown).filter(|model| !model.versions.is_empty()));
                return Ok(page);
            }
            last = Some(format!("{}@{}", model.name, version.version));
            shown.versions.push(version);
        }
        page.models.extend(Some(shown).filter(|model| !model.versions.is_empty()));
    }
    Ok(page)
}

/// A page of data sets. Its token is the time and the id of the last one on it.
pub fn datasets(datasets: &Datasets, request: &v1::ListDatasetsRequest) -> Result<v1::ListDatasetsResponse> {
    let place = |token: &str| {
        let (time, id) = token.split_once('-').ok_or_else(bad_token)?;
        Ok::<_, Error>((Time(time.parse().map_err(|_| bad_token())?), id.to_owned()))
    };
    let mut after = token(&request.page_token)?.map(place).transpose()?;
    let mut room = Room::new(request.page_size);
    let mut page = v1::ListDatasetsResponse::default();
    loop {
        let rows = datasets.page(after.as_ref().map(|(time, id)| (*time, id.as_str())), BATCH)?;
        let is_last = rows.len() < BATCH;
        for (time, row) in rows {
            let row = row.as_ref().map(v1::Dataset::convert).map_err(v1::UnreadableRecord::convert);
            let fits = match &row {
                Ok(dataset) => room.take(dataset),
                Err(unreadable) => room.take(unreadable),
            };
            if !fits {
                let token = after.map(|(time, id)| format!("{}-{id}", time.0));
                page.next_page_token = token.unwrap_or_default();
                return Ok(page);
            }
            match row {
                Ok(dataset) => {
                    after = Some((time, dataset.id.clone()));
                    page.datasets.push(dataset);
                }
                Err(unreadable) => {
                    after = Some((time, unreadable.id.clone()));
                    page.unreadable.push(unreadable);
                }
            }
        }
        if is_last {
            return Ok(page);
        }
    }
}
