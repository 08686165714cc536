//! The checkpoints in a run's workspace: one for the epoch that is kept so far, and none that no position names.

use std::path::{Path, PathBuf};

use hone_base::error::{Error, Result};

/// What the folder of an epoch's checkpoint is called, before the epoch's number.
const PREFIX: &str = "epoch-";

/// The folder of an epoch's checkpoint. Epochs count from 1.
pub(super) fn folder(workspace: &Path, epoch: u32) -> PathBuf {
    workspace.join(format!("{PREFIX}{epoch}"))
}

/// Makes an epoch's checkpoint: `fill` writes it into the empty folder that it is given. It is under its name only when it
/// is whole and on the disk.
pub(super) fn write<R>(workspace: &Path, epoch: u32, fill: impl FnOnce(&Path) -> Result<R>) -> Result<R> {
    let (target, fresh) = (folder(workspace, epoch), workspace.join("epoch.new"));
    for left_over in [&target, &fresh] {
        if left_over.exists() {
            let failed = |error| Error::io("remove", left_over, &error);
            std::fs::remove_dir_all(left_over).map_err(failed)?;
        }
    }
    std::fs::create_dir_all(&fresh).map_err(|error| Error::io("create", &fresh, &error))?;
    let result = fill(&fresh)?;
    let entries = std::fs::read_dir(&fresh).map_err(|error| Error::io("list", &fresh, &error))?;
    for entry in entries {
        sync(&entry.map_err(|error| Error::io("list", &fresh, &error))?.path())?;
    }
    sync(&fresh)?;
    std::fs::rename(&fresh, &target).map_err(|error| Error::io("rename a folder to", &target, &error))?;
    sync(workspace)?;
    Ok(result)
}

/// Removes the checkpoints of the epochs that a saved position knows, up to `epoch`, but for those in `kept`. One that
/// cannot be removed stays until the job's folder goes.
pub(super) fn forget(workspace: &Path, epoch: u32, kept: &[Option<u32>]) {
    let entries = std::fs::read_dir(workspace).into_iter().flatten().flatten();
    for entry in entries {
        let of = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if of.is_some_and(|of: u32| of <= epoch && !kept.contains(&Some(of))) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Waits until a file, or the entries of a folder, are on the disk.
pub(super) fn sync(path: &Path) -> Result<()> {
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::io("sync", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(workspace: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(workspace).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_checkpoint_is_there_when_it_is_whole_and_takes_the_place_of_an_older_one() {
        let workspace = tempfile::tempdir().unwrap();
        let fill = |text: &'static str| {
            move |folder: &Path| {
                std::fs::write(folder.join("a"), text).unwrap();
                Ok(text.len())
            }
        };
        let failed = write::<()>(workspace.path(), 2, |folder| {
            std::fs::write(folder.join("left over"), "").unwrap();
            Err(Error::internal("the disk is full"))
        });
        assert!(failed.is_err() && !folder(workspace.path(), 2).exists());
        assert_eq!(write(workspace.path(), 2, fill("one")).unwrap(), 3);
        write(workspace.path(), 2, fill("other")).unwrap();
        assert_eq!(names(workspace.path()), ["epoch-2"]);
        assert_eq!(names(&folder(workspace.path(), 2)), ["a"]);
        assert_eq!(std::fs::read_to_string(folder(workspace.path(), 2).join("a")).unwrap(), "other");
    }

    #[test]
    fn what_no_position_names_goes_but_for_epochs_that_are_not_saved_yet() {
        let workspace = tempfile::tempdir().unwrap();
        for epoch in 1..=6 {
            std::fs::create_dir(folder(workspace.path(), epoch)).unwrap();
        }
        std::fs::create_dir(workspace.path().join("state")).unwrap();
        forget(workspace.path(), 5, &[Some(4), Some(2), None]);
        assert_eq!(names(workspace.path()), ["epoch-2", "epoch-4", "epoch-6", "state"]);
        forget(&workspace.path().join("nothing"), 5, &[]);
    }
}
