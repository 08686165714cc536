//! Records that cannot be read: set aside, told, and deleted by what still names them.

/// A record that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// What sort of record.
    pub kind: RecordKind,
    /// What it is called: a job's or data set's id, `name@version`, `name@alias`, or a job's id and the event's number.
    pub id: String,
    /// For people.
    pub why: String,
}

/// What sort of record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A job: what to do, its state or why it failed.
    Job,
    /// An entry of a job's log.
    Event,
    /// A version of a model.
    Version,
    /// A labelled file.
    Dataset,
    /// A name for a version.
    Alias,
}

/// Records of one sort, and those beside them that cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<T> {
    /// In the order that was asked for.
    pub records: Vec<T>,
    /// Set aside.
    pub unreadable: Vec<Unreadable>,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { records: Vec::new(), unreadable: Vec::new() }
    }
}

impl<T> Listing<T> {
    /// Keeps a record, or what is told of one that cannot be read.
    pub(super) fn add(&mut self, record: Result<T, Unreadable>) {
        match record {
            Ok(record) => self.records.push(record),
            Err(unreadable) => self.unreadable.push(unreadable),
        }
    }
}

impl RecordKind {
    /// In a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Event => "event",
            Self::Version => "version",
            Self::Dataset => "data set",
            Self::Alias => "alias",
        }
    }
}

impl Unreadable {
    /// Tells the operator.
    pub fn log(&self) {
        tracing::warn!(kind = self.kind.name(), id = %self.id, why = %self.why, "a record cannot be read; set aside");
    }
}
