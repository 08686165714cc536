//! Records that the daemon cannot read, and what to do about each.

use hone::v1;
use serde_json::{Value, json};

use super::{Output, format};
use crate::error::Error;

/// Tells of records that cannot be read: beside a list for people, within it for programs.
pub(crate) fn tell(records: &[v1::UnreadableRecord], output: &mut Output<'_>) -> Result<(), Error> {
    for record in records {
        match output.is_json() {
            true => output.json(&value(record))?,
            false => output.note(&line(record)),
        }
    }
    Ok(())
}

fn line(record: &v1::UnreadableRecord) -> String {
    let (what, way) = match record.kind() {
        v1::RecordKind::Job => ("job", remove("client jobs delete", &record.id)),
        v1::RecordKind::Event => {
            let job = record.id.split(' ').next().unwrap_or_default();
            ("log entry", format!("the rest of the job can be seen; {}", remove("client jobs delete", job)))
        }
        v1::RecordKind::Version => ("version", remove("client models delete", &record.id)),
        v1::RecordKind::Alias => ("alias", remove("client models delete", &record.id)),
        v1::RecordKind::Dataset => {
            ("data set", format!("send the file again, or {}", remove("client datasets delete", &record.id)))
        }
        v1::RecordKind::Unspecified => {
            ("record", "its kind is unknown; the client may be too old".to_owned())
        }
    };
    format!("damaged: the {what} {} ({}); {way}", format::one_line(&record.id), format::one_line(&record.why))
}

fn remove(command: &str, id: &str) -> String {
    format!("`{command} {}` removes it", format::one_line(id))
}

fn value(record: &v1::UnreadableRecord) -> Value {
    let kind = match record.kind() {
        v1::RecordKind::Job => "job",
        v1::RecordKind::Event => "event",
        v1::RecordKind::Version => "version",
        v1::RecordKind::Alias => "alias",
        v1::RecordKind::Dataset => "dataset",
        v1::RecordKind::Unspecified => "unknown",
    };
    json!({"unreadable": {"kind": kind, "id": record.id, "why": record.why}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_record_is_told_with_the_command_that_removes_it() {
        let line = |kind: v1::RecordKind, id: &str| {
            line(&v1::UnreadableRecord { kind: kind.into(), id: id.into(), why: "it is empty".into() })
        };
        assert_eq!(
            line(v1::RecordKind::Version, "reviews@2"),
            "damaged: the version reviews@2 (it is empty); `client models delete reviews@2` removes it"
        );
        assert!(line(v1::RecordKind::Event, "01a event 7").ends_with("`client jobs delete 01a` removes it"));
        assert!(line(v1::RecordKind::Dataset, "ab").contains("`client datasets delete ab`"));
        assert!(line(v1::RecordKind::Job, "01a").contains("`client jobs delete 01a`"));
        assert!(line(v1::RecordKind::Alias, "reviews@live").contains("`client models delete reviews@live`"));
    }
}
