//! Files and checkpoint folders.

use std::sync::Arc;

use hone_base::digest;
use hone_base::error::Kind;

use super::{Case, cases};
use crate::{Blobs, Staged};

pub(super) const CASES: &[Case<dyn Blobs>] = cases![
    a_file_is_kept_under_the_digest_of_its_bytes,
    the_same_file_again_changes_nothing,
    a_file_that_was_not_put_is_not_there,
    removing_is_done_twice_without_harm,
    an_id_that_is_none_is_refused,
    a_checkpoint_is_kept_and_its_source_stays,
    a_checkpoint_is_never_replaced,
    a_checkpoint_is_removed_as_a_whole,
];

fn staged(blobs: &dyn Blobs, bytes: &[u8]) -> Staged {
    let mut file = blobs.begin().unwrap();
    // In two pieces, as from a network.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.write(first).unwrap();
    file.write(second).unwrap();
    assert_eq!(file.size(), bytes.len() as u64);
    file.finish()
}

fn a_file_is_kept_under_the_digest_of_its_bytes(blobs: Arc<dyn Blobs>) {
    let file = staged(&*blobs, b"text,label\n");
    let id = file.id().to_owned();
    assert_eq!((id.clone(), file.size()), (digest::of_bytes(b"text,label\n"), 11));
    assert_eq!(std::fs::read(file.path()).unwrap(), b"text,label\n");
    blobs.put_file(file).unwrap();
    assert_eq!(std::fs::read(blobs.file(&id).unwrap()).unwrap(), b"text,label\n");
    assert_eq!(blobs.files().unwrap(), [id]);
}

fn the_same_file_again_changes_nothing(blobs: Arc<dyn Blobs>) {
    for _ in 0..2 {
        blobs.put_file(staged(&*blobs, b"again")).unwrap();
    }
    let id = digest::of_bytes(b"again");
    assert_eq!(std::fs::read(blobs.file(&id).unwrap()).unwrap(), b"again");
    assert_eq!(blobs.files().unwrap(), [id]);
}

fn a_file_that_was_not_put_is_not_there(blobs: Arc<dyn Blobs>) {
    let file = staged(&*blobs, b"half");
    assert_eq!(blobs.file(file.id()).unwrap_err().kind(), Kind::NotFound);
    drop(file);
    assert_eq!(blobs.files().unwrap(), [""; 0]);
}

fn removing_is_done_twice_without_harm(blobs: Arc<dyn Blobs>) {
    let id = digest::of_bytes(b"gone");
    blobs.put_file(staged(&*blobs, b"gone")).unwrap();
    for _ in 0..2 {
        blobs.remove_file(&id).unwrap();
        blobs.remove_folder("reviews", 1).unwrap();
    }
    assert_eq!(blobs.file(&id).unwrap_err().kind(), Kind::NotFound);
}

fn an_id_that_is_none_is_refused(blobs: Arc<dyn Blobs>) {
    for id in ["", "../hone.db", "0", &"A".repeat(64)] {
        assert_eq!(blobs.file(id).unwrap_err().kind(), Kind::Invalid, "{id}");
        assert_eq!(blobs.remove_file(id).unwrap_err().kind(), Kind::Invalid, "{id}");
    }
}

/// A folder with two files.
fn checkpoint() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("model.safetensors"), "weights").unwrap();
    folder
}

fn a_checkpoint_is_kept_and_its_source_stays(blobs: Arc<dyn Blobs>) {
    let from = checkpoint();
    assert_eq!(blobs.folder("reviews", 3).unwrap_err().kind(), Kind::NotFound);
    blobs.put_folder(from.path(), "reviews", 3).unwrap();
    let kept = blobs.folder("reviews", 3).unwrap();
    assert_eq!(digest::of_folder(&kept).unwrap(), digest::of_folder(from.path()).unwrap());
    drop(from);
    assert_eq!(std::fs::read(kept.join("model.safetensors")).unwrap(), b"weights");
    blobs.put_folder(checkpoint().path(), "topics", 1).unwrap();
    let mut folders = blobs.folders().unwrap();
    folders.sort_unstable();
    assert_eq!(folders, [("reviews".to_owned(), 3), ("topics".to_owned(), 1)]);
}

fn a_checkpoint_is_never_replaced(blobs: Arc<dyn Blobs>) {
    blobs.put_folder(checkpoint().path(), "reviews", 1).unwrap();
    let other = tempfile::tempdir().unwrap();
    assert_eq!(blobs.put_folder(other.path(), "reviews", 1).unwrap_err().kind(), Kind::Exists);
    assert!(blobs.folder("reviews", 1).unwrap().join("config.json").exists());
}

fn a_checkpoint_is_removed_as_a_whole(blobs: Arc<dyn Blobs>) {
    for version in 1..=2 {
        blobs.put_folder(checkpoint().path(), "reviews", version).unwrap();
    }
    blobs.remove_folder("reviews", 1).unwrap();
    assert_eq!(blobs.folder("reviews", 1).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(blobs.folders().unwrap(), [("reviews".to_owned(), 2)]);
}
