//! `client models download`: a checkpoint as a folder. Every file is checked, and the folder appears when all are there.

use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use hone::v1;
use hone::v1::download_model_response::Part;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::{hint_at_models, models};
use crate::cli::Global;
use crate::connect::Daemon;
use crate::error::{Error, Kind};
use crate::output::{Output, format};
use crate::progress;

/// A checkpoint has a handful of files.
const MOST_FILES: usize = 1000;

pub(super) async fn run(
    global: &Global,
    model: &str,
    to: Option<&Path>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    if let Some(to) = to {
        refuse_existing(to)?;
    }
    let daemon = Daemon::connect(global).await?;
    let (name, wanted) = model.split_once('@').unwrap_or((model, "latest"));
    let found = models::get(&daemon, name).await?;
    let version = resolve(&found, wanted)?;
    let target = to.map_or_else(|| default_target(&found.name, version.version), |to| Ok(to.to_owned()))?;
    refuse_existing(&target)?;

    let exact = format!("{}@{}", found.name, version.version);
    let mut download = Download::begin(&target)?;
    let files = receive(&daemon, &exact, version.size_bytes, &mut download, output).await?;
    check_weights(&files, version)?;
    download.finish(&target)?;
    output.end_progress();
    if output.is_json() {
        return output.json(&serde_json::json!({
            "model": exact,
            "folder": target.to_string_lossy(),
            "files": files.iter().map(|file| &file.name).collect::<Vec<_>>(),
            "weights_sha256": version.weights_sha256,
        }));
    }
    let count = format::plural(files.len() as u64, "file", "files");
    output.text(&format!("{exact} is in {} ({count}, digests checked)", target.display()))
}

/// The version that a number or an alias stands for.
fn resolve<'m>(model: &'m v1::Model, wanted: &str) -> Result<&'m v1::ModelVersion, Error> {
    let number = wanted
        .parse::<u32>()
        .ok()
        .or_else(|| model.aliases.iter().find(|alias| alias.name == wanted).map(|alias| alias.version));
    number.and_then(|number| model.versions.iter().find(|version| version.version == number)).ok_or_else(
        || {
            Error::new(Kind::NotFound, format!("{} has no version or alias \"{wanted}\"", model.name))
                .hint(format!("`client models show {}` lists them", model.name))
        },
    )
}

fn default_target(name: &str, version: u32) -> Result<PathBuf, Error> {
    plain(name).map(|name| PathBuf::from(format!("{name}-{version}")))
}

fn refuse_existing(target: &Path) -> Result<(), Error> {
    if std::fs::symlink_metadata(target).is_ok() {
        return Err(Error::usage(format!("{} exists already", target.display()))
            .hint("name a folder that does not exist with --to FOLDER"));
    }
    Ok(())
}

/// A name that stays within its folder, on this and on other systems. The daemon chooses it, so it is not trusted.
fn plain(name: &str) -> Result<&str, Error> {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    let fits = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':');
    if one && name.len() <= 255 && name.chars().all(fits) {
        return Ok(name);
    }
    Err(Error::other(format!("the daemon sent a file name that is not plain: {}", format::quoted(name)))
        .hint("nothing was kept; this daemon is not to be trusted"))
}

async fn receive(
    daemon: &Daemon,
    model: &str,
    size: u64,
    download: &mut Download,
    output: &mut Output<'_>,
) -> Result<Vec<v1::DownloadedFile>, Error> {
    let request = v1::DownloadModelRequest { model: model.to_owned() };
    let translate = |status: tonic::Status| hint_at_models(daemon.error(&status));
    let mut parts = daemon.models().download(request).await.map_err(translate)?.into_inner();
    let began = Instant::now();
    let mut received = 0;
    while let Some(response) = parts.message().await.map_err(translate)? {
        match response.part {
            Some(Part::File(file)) => download.open(file).await?,
            Some(Part::Chunk(chunk)) => {
                received += chunk.len() as u64;
                download.write(&chunk).await?;
                let (width, total) = (output.bar_width(), size.max(received));
                let line = progress::bytes("fetching", model, received, total, began.elapsed(), width);
                output.progress(line);
            }
            None => {}
        }
    }
    download.close().await?;
    if download.files.is_empty() {
        return Err(Error::other(format!("the daemon sent no files for {model}")));
    }
    Ok(std::mem::take(&mut download.files))
}

/// The weights must be those that the version was published with.
fn check_weights(files: &[v1::DownloadedFile], version: &v1::ModelVersion) -> Result<(), Error> {
    let weights = files.iter().find(|file| file.name == "model.safetensors");
    match weights {
        Some(file) if version.weights_sha256.is_empty() || file.sha256 == version.weights_sha256 => Ok(()),
        Some(_) => Err(Error::other("the weights are not those of the published version; nothing was kept")),
        None => Err(Error::other("the daemon sent no model.safetensors; nothing was kept")),
    }
}

/// A folder that is not there yet. Dropped before it is finished, it leaves nothing behind.
struct Download {
    folder: PathBuf,
    current: Option<Current>,
    files: Vec<v1::DownloadedFile>,
    finished: bool,
}

struct Current {
    file: File,
    hasher: Sha256,
    left: u64,
    sha256: String,
    name: String,
}

impl Download {
    /// Makes the temporary folder beside the target, so that the last step is a rename.
    fn begin(target: &Path) -> Result<Self, Error> {
        let Some(name) = target.file_name() else {
            return Err(Error::usage(format!("{} cannot be the name of a new folder", target.display())));
        };
        let name = format!(".{}.partial-{}", name.to_string_lossy(), std::process::id());
        let folder = target.with_file_name(name);
        std::fs::create_dir(&folder).map_err(|error| {
            Error::usage(format!("no folder can be made beside {}: {error}", target.display()))
        })?;
        Ok(Self { folder, current: None, files: Vec::new(), finished: false })
    }

    async fn open(&mut self, file: v1::DownloadedFile) -> Result<(), Error> {
        self.close().await?;
        let path = self.folder.join(plain(&file.name)?);
        if self.files.len() >= MOST_FILES || self.files.iter().any(|known| known.name == file.name) {
            return Err(Error::other(format!("the daemon sent {} twice, or too many files", file.name)));
        }
        self.current = Some(Current {
            file: File::create_new(&path).await.map_err(|error| disk(&path, &error))?,
            hasher: Sha256::new(),
            left: file.size_bytes,
            sha256: file.sha256.to_ascii_lowercase(),
            name: file.name.clone(),
        });
        self.files.push(file);
        Ok(())
    }

    async fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let Some(current) = &mut self.current else {
            return Err(Error::other("the daemon sent bytes without a file"));
        };
        let Some(left) = current.left.checked_sub(chunk.len() as u64) else {
            return Err(Error::other(format!("{} is longer than announced; nothing was kept", current.name)));
        };
        current.left = left;
        current.hasher.update(chunk);
        current.file.write_all(chunk).await.map_err(|error| disk(Path::new(&current.name), &error))
    }

    /// Checks length and digest of the file that was being written.
    async fn close(&mut self) -> Result<(), Error> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let digest = format::hex(&current.hasher.finalize());
        if current.left > 0 || digest != current.sha256 {
            return Err(
                Error::other(format!("{} arrived damaged; nothing was kept", current.name)).hint("try again")
            );
        }
        let path = Path::new(&current.name);
        current.file.flush().await.map_err(|error| disk(path, &error))?;
        current.file.sync_all().await.map_err(|error| disk(path, &error))
    }

    fn finish(mut self, target: &Path) -> Result<(), Error> {
        refuse_existing(target)?;
        std::fs::rename(&self.folder, target).map_err(|error| disk(target, &error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn disk(path: &Path, error: &std::io::Error) -> Error {
    Error::other(format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_written() {
        for name in ["config.json", "model.safetensors", ".gitattributes", "a b"] {
            assert_eq!(plain(name).ok(), Some(name));
        }
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", "a\0b", "a\nb", "x/"] {
            assert!(plain(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_version_is_found_by_number_and_by_alias() {
        let version = |version| v1::ModelVersion { version, ..Default::default() };
        let model = v1::Model {
            name: "m".into(),
            versions: vec![version(2), version(1)],
            aliases: vec![v1::Alias { name: "latest".into(), version: 2, ..Default::default() }],
            precision: None,
        };
        assert_eq!(resolve(&model, "latest").map(|version| version.version), Ok(2));
        assert_eq!(resolve(&model, "1").map(|version| version.version), Ok(1));
        assert_eq!(resolve(&model, "7").map_err(|error| error.kind()).err(), Some(Kind::NotFound));
    }

    #[tokio::test]
    async fn a_damaged_or_too_long_file_leaves_nothing_behind() {
        let parent = tempfile::tempdir().expect("a folder");
        let target = parent.path().join("model");
        for (size, bytes) in [(3, "abX"), (2, "abc"), (4, "abc")] {
            let mut download = Download::begin(&target).expect("begun");
            let file = v1::DownloadedFile {
                name: "config.json".into(),
                size_bytes: size,
                sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
            };
            download.open(file).await.expect("opened");
            let result = match download.write(bytes.as_bytes()).await {
                Ok(()) => download.close().await,
                Err(error) => Err(error),
            };
            assert!(result.is_err(), "{bytes}");
            drop(download);
            assert_eq!(std::fs::read_dir(parent.path()).expect("readable").count(), 0);
        }
    }
}
