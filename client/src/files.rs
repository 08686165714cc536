//! Local data files: checked before anything is sent, named by their digest, sent only if the daemon lacks them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use hone::v1;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::Daemon;
use crate::error::{Error, Kind, strip_os_code};
use crate::output::{Output, format};
use crate::progress;

/// The protocol's limit for a chunk.
const CHUNK: usize = 1 << 20;
/// Smaller files are sent before a bar could be read.
const WORTH_A_BAR: u64 = 4 << 20;

/// A file that can be read, with what the user called it.
#[derive(Debug, Clone)]
pub(crate) struct LocalFile {
    path: PathBuf,
    /// The base name: what messages about the file say.
    pub(crate) name: String,
    size: u64,
}

impl LocalFile {
    /// Looks at the file without reading it. `flag` is how the user named it: "--train", or "" for an argument.
    pub(crate) fn check(flag: &str, path: &Path) -> Result<Self, Error> {
        let named = [flag, &path.display().to_string()].join(" ");
        let named = named.trim_start();
        let refuse = |why: String| Err(Error::usage(format!("{named}: {why}")));
        if path == Path::new("-") {
            return refuse(
                "data cannot come from standard input, because they are read twice; write them to a file first"
                    .to_owned(),
            );
        }
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return refuse("there is no such file".to_owned());
            }
            Err(error) => return refuse(format!("the file cannot be opened: {}", reason(&error))),
        };
        if metadata.is_dir() {
            return refuse("this is a folder, not a file".to_owned());
        }
        if !metadata.is_file() {
            return refuse("this is not a regular file; it has to be read twice".to_owned());
        }
        if metadata.len() == 0 {
            return refuse("the file is empty".to_owned());
        }
        if let Err(error) = File::open(path) {
            return refuse(format!("the file cannot be opened: {}", reason(&error)));
        }
        let name =
            path.file_name().map_or_else(|| named.to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(Self { path: path.to_owned(), name, size: metadata.len() })
    }

    /// The SHA-256 of the bytes, read on a thread that may block.
    async fn digest(&self) -> Result<String, Error> {
        let path = self.path.clone();
        let digest = spawn_blocking(move || -> io::Result<String> {
            let mut file = File::open(path)?;
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; CHUNK];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(format::hex(&hasher.finalize())),
                    length => hasher.update(&buffer[..length]),
                }
            }
        });
        digest.await.map_err(io::Error::other).flatten().map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        Error::usage(format!("{} cannot be read: {}", self.path.display(), reason(error)))
    }
}

/// Why the system refuses, in words for the user: the system's own say it, but for the number behind them.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "you have no permission to read it".to_owned(),
        _ => strip_os_code(&error.to_string()).to_lowercase(),
    }
}

/// A file that the daemon has.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// The data set, its summary computed for the columns that were asked for.
    pub(crate) dataset: v1::Dataset,
    /// False if the daemon had the file already.
    pub(crate) sent: bool,
}

/// Sends files, each once, however often it is named.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    digests: Vec<(PathBuf, String)>,
}

impl Sender {
    /// Makes sure that the daemon has the file and can read it with these columns.
    pub(crate) async fn ensure(
        &mut self,
        daemon: &Daemon,
        file: &LocalFile,
        columns: Option<&v1::Columns>,
        output: &mut Output<'_>,
    ) -> Result<Known, Error> {
        let id = self.digest(file).await?;
        let name = Some(file.name.clone());
        let request = v1::GetDatasetRequest { id: id.clone(), columns: columns.cloned(), name };
        match daemon.call(daemon.datasets().get(request)).await {
            Ok(dataset) => Ok(Known { dataset, sent: false }),
            Err(error) if error.kind() == Kind::NotFound => {
                let dataset = upload(daemon, file, id, columns.cloned(), output).await?;
                Ok(Known { dataset, sent: true })
            }
            Err(error) => Err(error),
        }
    }

    async fn digest(&mut self, file: &LocalFile) -> Result<String, Error> {
        let place = std::fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone());
        if let Some((_, digest)) = self.digests.iter().find(|(known, _)| *known == place) {
            return Ok(digest.clone());
        }
        let digest = file.digest().await?;
        self.digests.push((place, digest.clone()));
        Ok(digest)
    }
}

async fn upload(
    daemon: &Daemon,
    file: &LocalFile,
    sha256: String,
    columns: Option<v1::Columns>,
    output: &mut Output<'_>,
) -> Result<v1::Dataset, Error> {
    let header = v1::UploadHeader { name: file.name.clone(), sha256: Some(sha256), format: 0, columns };
    let (chunks, reader) = read_chunks(file.path.clone());
    let (sent, mut progress) = mpsc::unbounded_channel();
    let mut total = 0;
    let chunks = ReceiverStream::new(chunks).map(move |chunk| {
        total += chunk.len() as u64;
        let _ = sent.send(total);
        part(v1::upload_dataset_request::Part::Chunk(chunk))
    });
    let requests = tokio_stream::once(part(v1::upload_dataset_request::Part::Header(header))).chain(chunks);

    let mut datasets = daemon.datasets();
    let answer = datasets.upload(requests);
    tokio::pin!(answer);
    let began = Instant::now();
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            Some(sent) = progress.recv() => if file.size >= WORTH_A_BAR {
                let width = output.bar_width();
                output.progress(progress::bytes("sending", &file.name, sent, file.size, began.elapsed(), width));
            },
        }
    };
    output.end_progress();
    // A file that could not be read to its end is the cause of whatever the daemon says about it.
    if let Ok(Err(error)) = reader.await {
        return Err(file.unreadable(&error));
    }
    answer.map(tonic::Response::into_inner).map_err(|status| daemon.error(&status))
}

fn part(part: v1::upload_dataset_request::Part) -> v1::UploadDatasetRequest {
    v1::UploadDatasetRequest { part: Some(part) }
}

type Chunks = mpsc::Receiver<Vec<u8>>;

/// Reads ahead by two chunks at most. Ends early when nobody wants more.
fn read_chunks(path: PathBuf) -> (Chunks, tokio::task::JoinHandle<io::Result<()>>) {
    let (send, receive) = mpsc::channel(2);
    let reader = spawn_blocking(move || {
        let mut file = File::open(path)?;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            if (&mut file).take(CHUNK as u64).read_to_end(&mut chunk)? == 0 {
                return Ok(());
            }
            if send.blocking_send(chunk).is_err() {
                return Ok(());
            }
        }
    });
    (receive, reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sent_is_refused_with_flag_and_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty.csv");
        std::fs::write(&empty, "").expect("written");
        for (path, words) in [
            (folder.path().join("absent.csv"), "there is no such file"),
            (folder.path().to_owned(), "this is a folder"),
            (empty, "the file is empty"),
            ("-".into(), "cannot come from standard input"),
            ("/dev/null".into(), "not a regular file"),
        ] {
            let error = LocalFile::check("--train", &path).expect_err("refused");
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.message().starts_with(&format!("--train {}: ", path.display())), "{error}");
            assert!(error.message().contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_is_named_by_the_digest_of_its_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("abc.csv");
        std::fs::write(&path, "abc").expect("written");
        let file = LocalFile::check("", &path).expect("usable");
        assert_eq!(file.name, "abc.csv");
        assert_eq!(
            file.digest().await.as_deref(),
            Ok("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
    }
}
