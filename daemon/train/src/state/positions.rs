//! The saved positions of a workspace.
//!
//! `state/<number>/` holds `position.json`, `training.safetensors` and `SHA256SUMS`, which has the digests of both as
//! `sha256sum` writes them. A position is written under another name, synced, and becomes visible by one rename; the one
//! before stays until the next is begun. So there is a whole one at every moment after the first, and one that is damaged
//! all the same is recognised, and the one before taken.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::position::Position;
use super::snapshot::Snapshot;
use crate::retention;
use crate::spec::Spec;
use hone_base::cancel::{Cancel, Reason};
use hone_base::digest::{self, Hasher};
use hone_base::error::{Error, Kind, Result};
use hone_base::file::{self, Durable};
use hone_engine::model::checkpoint::{WEIGHTS, write_file};

const FOLDER: &str = "state";
/// The name of a position that is being written.
const FRESH: &str = "new";
const POSITION: &str = "position.json";
const TENSORS: &str = "training.safetensors";
const SUMS: &str = "SHA256SUMS";

/// The positions in a workspace.
pub(crate) struct Positions {
    workspace: PathBuf,
    cancel: Cancel,
    /// The newest whole one.
    whole: Option<Whole>,
}

/// A position that is whole.
#[derive(Clone, Copy)]
struct Whole {
    number: u64,
    /// The epoch of the checkpoint that it names.
    kept: Option<u32>,
}

/// What was found in a workspace.
pub(crate) struct Loaded {
    /// To be written to.
    pub(crate) positions: Positions,
    /// The newest whole position, with the tensors that belong to it.
    pub(crate) found: Option<(Position, HashMap<String, Tensor>)>,
    /// Why newer ones were not taken.
    pub(crate) refused: Vec<String>,
}

impl Positions {
    /// Finds the newest whole position of a job. Its kept checkpoint must be there.
    ///
    /// # Errors
    /// Fails for a position of another job, and when it is asked to end. One that is damaged is refused, not an error.
    pub(crate) fn load(workspace: &Path, spec: &Spec, cancel: &Cancel) -> Result<Loaded> {
        let mut positions = Self { workspace: workspace.to_owned(), cancel: cancel.clone(), whole: None };
        let mut refused = Vec::new();
        if positions.folder().join(POSITION).exists() {
            refused.push("it was saved by another version of Hone".to_owned());
        }
        for number in positions.numbers() {
            match positions.read(number, cancel) {
                Ok((position, _)) if position.spec != *spec => {
                    let folder = positions.folder();
                    return Err(Error::precondition(format!("{} belongs to another job", folder.display())));
                }
                Ok((position, tensors)) => {
                    let kept = position.kept.as_ref().map(|kept| kept.epoch);
                    positions.whole = Some(Whole { number, kept });
                    return Ok(Loaded { positions, found: Some((position, tensors)), refused });
                }
                Err(error) if error.kind() == Kind::Cancelled => return Err(error),
                Err(error) => refused.push(error.message().to_owned()),
            }
        }
        Ok(Loaded { positions, found: None, refused })
    }

    /// Writes a position and waits until it is on the disk. The one before stays, and so does the checkpoint that each of
    /// both names; the others go.
    ///
    /// # Errors
    /// Fails when something cannot be written, or the job is cancelled meanwhile. The position before is whole then.
    pub(super) fn write(&mut self, snapshot: &Snapshot) -> Result<()> {
        let (folder, fresh) = (self.folder(), self.folder().join(FRESH));
        let written = self.make_room().and_then(|()| self.fill(&fresh, snapshot));
        if let Err(error) = written {
            // It would only take room on a disk that may be full.
            let _ = fs::remove_dir_all(&fresh);
            return Err(error);
        }
        let position = snapshot.position()?;
        let number = self.whole.map_or(1, |whole| whole.number + 1);
        let target = self.place(number);
        fs::rename(&fresh, &target).map_err(|error| Error::io("rename a folder to", &target, &error))?;
        retention::sync(&folder)?;
        retention::sync(&self.workspace)?;
        let kept = position.kept.as_ref().map(|kept| kept.epoch);
        let before = self.whole.replace(Whole { number, kept }).and_then(|whole| whole.kept);
        retention::forget(&self.workspace, position.epoch, &[kept, before]);
        Ok(())
    }

    /// Writes the files of a position, each synced, into a folder.
    fn fill(&self, fresh: &Path, snapshot: &Snapshot) -> Result<()> {
        fs::create_dir_all(fresh).map_err(|error| Error::io("create", fresh, &error))?;
        let json = snapshot.position()?.to_json()?;
        write_file(&fresh.join(POSITION), &json)?;
        let tensors = write_tensors(&fresh.join(TENSORS), snapshot, &self.cancel)?;
        let sums = format!("{}  {POSITION}\n{tensors}  {TENSORS}\n", digest::of_bytes(&json));
        write_file(&fresh.join(SUMS), sums.as_bytes())?;
        retention::sync(fresh)
    }

    /// Removes whatever is there but the newest whole position.
    fn make_room(&self) -> Result<()> {
        let folder = self.folder();
        fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, &error))?;
        let stays = self.whole.map(|whole| whole.number.to_string());
        let entries = fs::read_dir(&folder).map_err(|error| Error::io("list", &folder, &error))?;
        for entry in entries.flatten().filter(|entry| entry.file_name().to_str() != stays.as_deref()) {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| Error::io("remove", &path, &error))?;
        }
        Ok(())
    }

    fn read(&self, number: u64, cancel: &Cancel) -> Result<(Position, HashMap<String, Tensor>)> {
        let folder = self.place(number);
        let at = |name: &str| folder.join(name);
        let read = |name: &str| fs::read(at(name)).map_err(|error| Error::io("read", &at(name), &error));
        let sums = String::from_utf8_lossy(&read(SUMS)?).into_owned();
        for name in [POSITION, TENSORS] {
            cancel.check()?;
            let sum = digest::of_file(&at(name), name.to_owned())?.sha256;
            if !sums.lines().any(|line| line == format!("{sum}  {name}")) {
                return Err(Error::corrupt(format!("{} is damaged", at(name).display())));
            }
        }
        let position = Position::from_json(&read(POSITION)?)?;
        cancel.check()?;
        if let Some(kept) = &position.kept {
            let weights = retention::folder(&self.workspace, kept.epoch).join(WEIGHTS);
            if digest::of_file(&weights, WEIGHTS.to_owned())?.sha256 != kept.weights_sha256 {
                return Err(Error::corrupt(format!("{} is damaged", weights.display())));
            }
        }
        cancel.check()?;
        let tensors = file::read(&at(TENSORS)).map_err(|error| Error::io("read", &at(TENSORS), &error))?;
        let tensors = candle_core::safetensors::load_buffer(&tensors, &Device::Cpu)
            .map_err(|error| Error::corrupt(format!("{} is damaged: {error}", at(TENSORS).display())))?;
        Ok((position, tensors))
    }

    /// The numbers of all positions, the newest first.
    fn numbers(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let mut numbers: Vec<u64> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers
    }

    fn folder(&self) -> PathBuf {
        self.workspace.join(FOLDER)
    }

    fn place(&self, number: u64) -> PathBuf {
        self.folder().join(number.to_string())
    }
}

/// Writes the tensors, waits until they are on the disk, and returns the digest of the file.
fn write_tensors(path: &Path, snapshot: &Snapshot, cancel: &Cancel) -> Result<String> {
    let write = || {
        let mut file = Digesting { file: Durable::create(path)?, hasher: Hasher::default(), cancel };
        snapshot.write_tensors(&mut file)?;
        file.file.finish()?;
        Ok(file.hasher.finish())
    };
    write().map_err(|error| Error::io("write", path, &error))
}

/// A file whose digest is taken while it is written. A job that was cancelled does not wait for the end.
struct Digesting<'a> {
    file: Durable,
    hasher: Hasher,
    cancel: &'a Cancel,
}

impl Write for Digesting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.reason() == Some(Reason::Cancelled) {
            return Err(io::Error::other("the job was cancelled"));
        }
        let written = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Numbers;
    use super::super::snapshot::tests::parameters;
    use super::*;
    use crate::metrics::Tally;
    use crate::spec::Source;
    use hone_engine::model::objective;

    fn spec(name: &str) -> Spec {
        Spec {
            name: name.to_owned(),
            encoder: "tiny".to_owned(),
            train: Source { dataset: "0".repeat(64), name: "train.csv".to_owned() },
            validation: None,
            test: None,
            validation_split: 0.2,
            columns: Default::default(),
            train_limit: None,
            validation_limit: None,
            test_limit: None,
            hyperparameters: Default::default(),
            promotion: None,
        }
    }

    /// The position after so many steps, its numbers all that.
    fn snapshot(step: u64) -> Snapshot {
        let mut position = Position::start(&spec("a"), Tally::new(objective::Kind::SingleLabel, 2));
        position.step = step;
        let parameters = parameters();
        let values = vec![step as f32; parameters.values().len()];
        let mut snapshot = Snapshot::default();
        snapshot.take(&position, &Numbers { list: parameters.list(), sections: vec![("", &values)] });
        snapshot
    }

    /// None yet.
    fn positions(workspace: &Path) -> Positions {
        Positions { workspace: workspace.to_owned(), cancel: Cancel::default(), whole: None }
    }

    /// The step of the position that a run would continue from, whose numbers belong to it, and how many are refused.
    fn load(workspace: &Path) -> (Option<u64>, usize) {
        let loaded = Positions::load(workspace, &spec("a"), &Cancel::default()).unwrap();
        let step = loaded.found.map(|(position, tensors)| {
            assert_eq!(tensors["classifier.bias"].to_vec1::<f32>().unwrap(), [position.step as f32; 3]);
            position.step
        });
        (step, loaded.refused.len())
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_position_is_loaded_and_the_one_before_stays() {
        let workspace = tempfile::tempdir().unwrap();
        assert_eq!(load(workspace.path()), (None, 0));
        let mut positions = positions(workspace.path());
        for (step, expected) in [(3, vec!["1"]), (5, vec!["1", "2"]), (9, vec!["2", "3"])] {
            positions.write(&snapshot(step)).unwrap();
            assert_eq!(load(workspace.path()), (Some(step), 0));
            assert_eq!(names(&workspace.path().join(FOLDER)), expected);
        }
        // A run that continues writes after what it has found.
        let mut positions =
            Positions::load(workspace.path(), &spec("a"), &Cancel::default()).unwrap().positions;
        positions.write(&snapshot(12)).unwrap();
        assert_eq!(names(&workspace.path().join(FOLDER)), ["3", "4"]);
        assert_eq!(load(workspace.path()), (Some(12), 0));
    }

    #[test]
    fn a_crash_at_any_moment_of_writing_leaves_the_position_before() {
        let written = tempfile::tempdir().unwrap();
        positions(written.path()).write(&snapshot(7)).unwrap();
        let files: Vec<(&str, Vec<u8>)> = [POSITION, TENSORS, SUMS]
            .map(|name| (name, fs::read(written.path().join("state/1").join(name)).unwrap()))
            .into();
        let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        // Cut off after so many bytes; under its final name too, as if the disk had not done what it was told.
        for (cut, name) in (0..bytes).step_by(97).flat_map(|cut| [(cut, FRESH), (cut, "2")]) {
            let workspace = tempfile::tempdir().unwrap();
            let mut positions = positions(workspace.path());
            positions.write(&snapshot(5)).unwrap();
            let fresh = workspace.path().join(FOLDER).join(name);
            fs::create_dir(&fresh).unwrap();
            let mut left = cut;
            for (name, bytes) in &files {
                let part = bytes.get(..left.min(bytes.len())).unwrap();
                fs::write(fresh.join(name), part).unwrap();
                left -= part.len();
                if left == 0 {
                    break;
                }
            }
            let refused = usize::from(name != FRESH);
            assert_eq!(load(workspace.path()), (Some(5), refused), "cut off after {cut} bytes as {name}");
            let mut positions =
                Positions::load(workspace.path(), &spec("a"), &Cancel::default()).unwrap().positions;
            positions.write(&snapshot(8)).unwrap();
            assert_eq!(load(workspace.path()), (Some(8), 0));
        }
    }

    #[test]
    fn a_position_that_cannot_be_written_leaves_the_one_before_and_nothing_else() {
        let workspace = tempfile::tempdir().unwrap();
        let mut positions = positions(workspace.path());
        positions.write(&snapshot(5)).unwrap();
        positions.cancel.ask(Reason::Cancelled);
        assert!(positions.write(&snapshot(6)).unwrap_err().message().ends_with("the job was cancelled"));
        assert_eq!(load(workspace.path()), (Some(5), 0));
        assert_eq!(names(&workspace.path().join(FOLDER)), ["1"]);
    }

    #[test]
    fn a_position_of_another_job_is_an_error_and_whoever_asks_to_end_is_heard() {
        let workspace = tempfile::tempdir().unwrap();
        positions(workspace.path()).write(&snapshot(5)).unwrap();
        let error = Positions::load(workspace.path(), &spec("b"), &Cancel::default()).err().unwrap();
        assert_eq!(error.kind(), Kind::Precondition);
        let cancel = Cancel::default();
        cancel.ask(Reason::Shutdown);
        let error = Positions::load(workspace.path(), &spec("a"), &cancel).err().unwrap();
        assert_eq!(error.kind(), Kind::Cancelled);
    }
}
