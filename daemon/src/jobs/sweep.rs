//! What nothing refers to goes when the daemon starts: checkpoints that are no versions, folders and files whose records
//! are gone or never came. Data sets stay as long as they have a record, since users sent them.

use std::path::{Path, PathBuf};

use hone_base::digest;
use hone_base::error::{Error, Result};
use hone_storage::{Catalog, DataDir};

/// Removes what nothing refers to. Called before anything else works in the data folder.
pub fn sweep(data: &DataDir, store: &dyn Catalog) -> Result<()> {
    versions(data, store)?;
    workspaces(data, store)?;
    datasets(data, store)
}

/// Folders of versions that were never recorded, or whose records were deleted when the daemon stopped.
fn versions(data: &DataDir, store: &dyn Catalog) -> Result<()> {
    // A version whose record cannot be read is a version all the same.
    let versions = store.version_numbers()?;
    let known = |name: &str, version: &str| {
        versions.iter().any(|(model, number)| model == name && number.to_string() == version)
    };
    for (name, model) in entries(&data.models())?.into_iter().filter(|(_, path)| path.is_dir()) {
        for (version, folder) in entries(&model)?.into_iter().filter(|(_, path)| path.is_dir()) {
            if !known(&name, &version) {
                tracing::info!(folder = %folder.display(), "removing a checkpoint that is no version");
                data.discard(&folder)?;
            }
        }
        // Only an empty folder can be removed this way, and only such a one shall be.
        let _ = std::fs::remove_dir(&model);
    }
    Ok(())
}

/// Folders of jobs that have ended, and of jobs that do not exist. A job that may go on needs its own.
fn workspaces(data: &DataDir, store: &dyn Catalog) -> Result<()> {
    let open = store.open_jobs()?;
    for (job, folder) in entries(&data.workspaces())? {
        if !open.contains(&job) {
            tracing::info!(%job, "removing the folder of a job that has ended");
            data.discard(&folder)?;
        }
    }
    Ok(())
}

/// Files of data sets whose record never came, or was deleted when the daemon stopped.
fn datasets(data: &DataDir, store: &dyn Catalog) -> Result<()> {
    let known = store.dataset_ids()?;
    // What has no name of ours is not ours.
    let files = entries(&data.datasets())?.into_iter().filter(|(id, _)| digest::is_digest(id));
    for (id, file) in files.filter(|(id, _)| !known.contains(id)) {
        tracing::info!(%id, "removing a file that is no data set");
        std::fs::remove_file(&file).map_err(|error| Error::io("remove", &file, &error))?;
    }
    Ok(())
}

/// Names and paths of what is in a folder.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |error| Error::io("list", folder, &error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::registry::change;
    use crate::jobs::testing::{Home, dataset, spec, version};
    use std::sync::Arc;

    use hone_storage::{State, data_dir};

    /// A data folder with a job in each state, each with a folder of its own.
    fn home_with_jobs() -> (Home, DataDir, Arc<dyn Catalog>) {
        let home = Home::new();
        let (data, store) = (home.data(), home.store());
        for state in State::ALL {
            let id = format!("{state:?}").to_lowercase();
            store.insert_job(&id, &spec("reviews"), 99).unwrap();
            store.append(&id, &[change(state)]).unwrap();
            data_dir::create(&data.workspace(&id).join("state")).unwrap();
        }
        (home, data, store)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = entries(folder).unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    #[test]
    fn only_jobs_that_may_go_on_keep_their_folder() {
        let (_home, data, store) = home_with_jobs();
        data_dir::create(&data.workspace("nobody")).unwrap();
        std::fs::write(data.workspace("a file"), "x").unwrap();
        sweep(&data, &*store).unwrap();
        assert_eq!(names(&data.workspaces()), ["interrupted", "paused", "queued", "running"]);
        assert_eq!(names(&data.tmp()), [""; 0]);
    }

    #[test]
    fn a_job_whose_record_is_damaged_keeps_its_folder() {
        let (home, data, store) = home_with_jobs();
        let database = rusqlite::Connection::open(home.path().join("hone.db")).unwrap();
        database.execute("UPDATE jobs SET state = 'asleep' WHERE id = 'failed'", []).unwrap();
        sweep(&data, &*store).unwrap();
        assert!(data.workspace("failed").exists());
    }

    #[test]
    fn a_file_without_a_record_goes_and_a_data_set_that_no_job_uses_stays() {
        let home = Home::new();
        let (data, store) = (home.data(), home.store());
        let (kept, orphan) = (data.dataset(&dataset().id), data.dataset(&"0".repeat(64)));
        for file in [&kept, &orphan, &data.datasets().join("notes.txt")] {
            std::fs::write(file, "text,label\n").unwrap();
        }
        sweep(&data, &*store).unwrap();
        assert_eq!(names(&data.datasets()), [dataset().id, "notes.txt".to_owned()]);
    }

    #[test]
    fn a_checkpoint_without_a_record_goes_and_so_does_an_empty_folder_of_a_model() {
        let home = Home::new();
        let (data, store) = (home.data(), home.store());
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        let number = store.reserve_version("reviews").unwrap();
        store.publish(&version("reviews", number, "01a"), &[], &[]).unwrap();
        for folder in [data.version("reviews", 1), data.version("reviews", 7), data.version("topics", 1)] {
            data_dir::create(&folder).unwrap();
        }
        sweep(&data, &*store).unwrap();
        assert_eq!(names(&data.models()), ["reviews"]);
        assert_eq!(names(&data.models().join("reviews")), ["1"]);
    }
}
