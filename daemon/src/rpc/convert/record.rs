//! Records that cannot be read.

use super::Convert;
use hone::v1;

use hone_storage::{RecordKind, Unreadable};

impl Convert<&Unreadable> for v1::UnreadableRecord {
    fn convert(record: &Unreadable) -> Self {
        let kind = match record.kind {
            RecordKind::Job => v1::RecordKind::Job,
            RecordKind::Event => v1::RecordKind::Event,
            RecordKind::Version => v1::RecordKind::Version,
            RecordKind::Dataset => v1::RecordKind::Dataset,
            RecordKind::Alias => v1::RecordKind::Alias,
        };
        Self { kind: kind.into(), id: record.id.clone(), why: record.why.clone() }
    }
}
