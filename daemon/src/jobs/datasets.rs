//! Data sets: files that are named by the digest of their bytes, each with a record of what is in it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hone_base::digest;
use hone_base::error::{Error, Kind, Result};
use hone_base::panic::lock;
use hone_data::dataset::{Dataset, Format, Keep, Reading, Summary};
use hone_data::{Columns, Limits};
use hone_engine::kernels::lane::aside;
use hone_storage::{
    Blobs, Catalog, DatasetRecord, Incoming, Listing, Time, Unreadable, check_id, unknown_dataset,
};
use hone_train::host::Room;
use hone_train::spec::Source;

/// Digits of an id that name a data set at least.
const SHORTEST_BEGINNING: usize = 6;

/// What the daemon carries for a first try: training, validation and test file.
const DEMO: [(&str, &[u8]); 3] = [
    ("reviews/train.csv", include_bytes!("../../../demo/reviews/train.csv")),
    ("reviews/validation.csv", include_bytes!("../../../demo/reviews/validation.csv")),
    ("reviews/test.csv", include_bytes!("../../../demo/reviews/test.csv")),
];

/// The name of the model that the demonstration data trains.
pub const DEMO_NAME: &str = "reviews";

/// Reads a file to its end, within limits, and tells what is in it.
pub type Reader = fn(&Path, &str, Option<Format>, &Columns, Limits) -> Result<(Format, Summary)>;

/// The reader of this crate. It keeps no row.
pub const READER: Reader = |path, name, format, columns, limits| {
    let reading = Reading { limits, keep: Keep::Summary, ..Reading::default() };
    let dataset = Dataset::read_as(path, name, format, columns, &reading)?;
    Ok((dataset.format, dataset.summary()))
};

/// All data sets.
#[derive(Debug)]
pub struct Datasets {
    blobs: Arc<dyn Blobs>,
    store: Arc<dyn Catalog>,
    max_bytes: u64,
    reader: Reader,
    room: Room,
    /// Held while a file and its record come or go together.
    moving: Mutex<()>,
}

/// What is said of a file before its bytes come.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The file's name as the user knows it.
    pub name: String,
    /// The digest that the sender expects.
    pub sha256: Option<String>,
    /// How the file is written, when the user says so.
    pub format: Option<Format>,
    /// The columns that the user names.
    pub columns: Columns,
}

/// A file on its way in. Dropped before `Datasets::finish`, it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    header: Header,
    file: Incoming,
    max_bytes: u64,
}

impl Datasets {
    /// The data sets with records and files there, each of at most `max_bytes` as it comes, and within the limits of
    /// `room` as it is read.
    pub fn new(
        blobs: Arc<dyn Blobs>,
        store: Arc<dyn Catalog>,
        max_bytes: u64,
        reader: Reader,
        room: Room,
    ) -> Self {
        Self { blobs, store, max_bytes, reader, room, moving: Mutex::new(()) }
    }

    /// Starts to take a file in.
    pub fn begin(&self, header: Header) -> Result<Upload> {
        Ok(Upload { header, file: self.blobs.begin()?, max_bytes: self.max_bytes })
    }

    /// Reads a file that has arrived, and keeps it when it can be used.
    pub fn finish(&self, upload: Upload) -> Result<DatasetRecord> {
        let Upload { header, file, .. } = upload;
        let file = file.finish();
        let (id, size) = (file.id().to_owned(), file.size());
        if let Some(expected) = header.sha256.filter(|expected| *expected != id) {
            return Err(Error::corrupt(format!(
                "{} arrived damaged: its SHA-256 is {id}, not {expected}; send it again",
                header.name
            )));
        }
        let (format, summary) =
            aside(|| self.read(file.path(), &header.name, header.format, &header.columns))?;
        let record = DatasetRecord {
            id,
            name: header.name,
            size,
            created: Time::now(),
            format,
            columns: header.columns,
            summary,
        };
        let _moving = lock(&self.moving);
        self.blobs.put_file(file)?;
        self.store.put_dataset(&record)
    }

    fn read(
        &self,
        path: &Path,
        name: &str,
        format: Option<Format>,
        columns: &Columns,
    ) -> Result<(Format, Summary)> {
        (self.reader)(path, name, format, columns, self.room.limits())
    }

    /// One record, under the name that the caller knows the file by, if it gives one; with columns named, its summary is
    /// computed for them.
    pub fn get(&self, id: &str, columns: Option<&Columns>, name: Option<String>) -> Result<DatasetRecord> {
        let id = &self.whole_id(id)?;
        let mut record = self.store.dataset(id)?.ok_or_else(|| unknown_dataset(id))?;
        record.name = name.unwrap_or(record.name);
        if let Some(columns) =
            columns.filter(|&columns| *columns != Columns::default() && *columns != record.columns)
        {
            let path = self.blobs.file(id).map_err(|error| {
                Error::corrupt(format!("data set {}: {}; upload it again", record.name, error.message()))
            })?;
            (_, record.summary) = aside(|| self.read(&path, &record.name, Some(record.format), columns))?;
            record.columns = columns.clone();
        }
        Ok(record)
    }

    /// The id that a caller means, who may write its beginning alone.
    fn whole_id(&self, id: &str) -> Result<String> {
        let is_beginning = (SHORTEST_BEGINNING..digest::of_bytes(b"").len()).contains(&id.len())
            && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_beginning {
            check_id(id)?;
            return Ok(id.to_owned());
        }
        let Listing { records, unreadable } = self.store.datasets()?;
        let ids =
            records.into_iter().map(|record| record.id).chain(unreadable.into_iter().map(|record| record.id));
        let mut ids = ids.filter(|known| known.starts_with(id));
        match (ids.next(), ids.count()) {
            (Some(only), 0) => Ok(only),
            (Some(_), more) => Err(Error::invalid(format!(
                "the ids of {} data sets begin with {id}; write more of its digits",
                more + 1
            ))),
            (None, _) => Err(unknown_dataset(id)),
        }
    }

    /// At most `limit` records, the newest first, behind the one of the time and id `after`; each with its time.
    pub fn page(
        &self,
        after: Option<(Time, &str)>,
        limit: usize,
    ) -> Result<Vec<(Time, Result<DatasetRecord, Unreadable>)>> {
        self.store.datasets_page(after, limit)
    }

    /// Removes a data set that no queued or running job needs.
    pub fn delete(&self, id: &str) -> Result<()> {
        let id = &self.whole_id(id)?;
        let _moving = lock(&self.moving);
        self.store.delete_dataset(id)?;
        self.blobs.remove_file(id)
    }

    /// The demonstration data as data sets: training, validation and test file.
    pub fn demo(&self) -> Result<[Source; 3]> {
        let keep = |(name, bytes): (&str, &[u8])| -> Result<Source> {
            let source = Source { dataset: digest::of_bytes(bytes), name: name.to_owned() };
            // A record that is damaged is as good as none.
            let known = self.store.dataset(&source.dataset);
            if !known.as_ref().is_ok_and(Option::is_some) {
                let header = Header { name: name.to_owned(), ..Header::default() };
                let mut upload = self.begin(header)?;
                upload.write(bytes)?;
                self.finish(upload)?;
            }
            Ok(source)
        };
        let [train, validation, test] = DEMO;
        Ok([keep(train)?, keep(validation)?, keep(test)?])
    }
}

impl Upload {
    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.file.size() + bytes.len() as u64 > self.max_bytes {
            return Err(Error::new(
                Kind::Exhausted,
                format!(
                    "{} is larger than {} bytes, the most that this daemon takes (--max-upload); send a part of it",
                    self.header.name, self.max_bytes
                ),
            ));
        }
        self.file.write(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::testing::{self, Home};

    fn datasets(home: &Home) -> Datasets {
        Datasets::new(Arc::new(home.data()), home.store(), 100, testing::read, Room::default())
    }

    fn header(name: &str) -> Header {
        Header { name: name.into(), ..Header::default() }
    }

    fn upload(datasets: &Datasets, header: Header, bytes: &[u8]) -> Result<DatasetRecord> {
        let mut upload = datasets.begin(header)?;
        for chunk in bytes.chunks(7) {
            upload.write(chunk)?;
        }
        datasets.finish(upload)
    }

    fn files(home: &Home) -> usize {
        ["tmp", "datasets"].iter().map(|f| std::fs::read_dir(home.path().join(f)).unwrap().count()).sum()
    }

    #[test]
    fn a_file_is_kept_under_its_digest_and_the_same_file_once() {
        let home = Home::new();
        let datasets = datasets(&home);
        let first = upload(&datasets, header("a.csv"), b"text,label\na,b\n").unwrap();
        let second = upload(&datasets, header("b.csv"), b"text,label\na,b\n").unwrap();
        assert_eq!(first.id, digest::of_bytes(b"text,label\na,b\n"));
        assert_eq!((second.id, second.created), (first.id.clone(), first.created));
        assert_eq!(files(&home), 1);
        assert_eq!(first.summary.rows, 1);
        assert_eq!(datasets.get(&first.id[..8], None, None).unwrap().id, first.id);
        assert_eq!(datasets.get(&first.id[..5], None, None).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(datasets.get("0123456", None, None).unwrap_err().kind(), Kind::NotFound);
        datasets.delete(&first.id).unwrap();
        assert_eq!(files(&home), 0);
        assert_eq!(datasets.get(&first.id, None, None).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_refused_file_leaves_nothing() {
        let home = Home::new();
        let datasets = datasets(&home);
        let wrong = Header { sha256: Some("0".repeat(64)), ..header("a.csv") };
        assert_eq!(upload(&datasets, wrong, b"text,label\n").unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(upload(&datasets, header("bad.csv"), b"bad").unwrap_err().kind(), Kind::Invalid);
        let error = upload(&datasets, header("big.csv"), &[b'x'; 101]).unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted);
        assert!(error.message().contains("big.csv") && error.message().contains("--max-upload"), "{error}");
        assert_eq!(files(&home), 0);
    }

    #[test]
    fn a_file_has_the_name_that_its_caller_knows() {
        let home = Home::new();
        let datasets = datasets(&home);
        let id = upload(&datasets, header("a.csv"), b"text,label\na,b\n").unwrap().id;
        assert_eq!(datasets.get(&id, None, Some("A.CSV".into())).unwrap().name, "A.CSV");
        assert_eq!(datasets.get(&id, None, None).unwrap().name, "a.csv");
    }

    #[test]
    fn columns_that_are_named_are_read_again() {
        let home = Home::new();
        let datasets = datasets(&home);
        let id = upload(&datasets, header("a.csv"), b"text,label\na,b\n").unwrap().id;
        let columns = Columns { text: Some("label".into()), ..Columns::default() };
        assert_eq!(datasets.get(&id, Some(&columns), None).unwrap().summary.used, columns);
        assert_eq!(datasets.get(&id, Some(&Columns::default()), None).unwrap().columns, Columns::default());
        assert_eq!(datasets.get("../hone.db", None, None).unwrap_err().kind(), Kind::Invalid);
        std::fs::remove_file(home.path().join("datasets").join(&id)).unwrap();
        assert_eq!(datasets.get(&id, Some(&columns), None).unwrap_err().kind(), Kind::Corrupt);
    }
}
