//! A checkpoint folder as a stream of files. A download holds a thread only while a piece is read; between two pieces a
//! caller may be as slow as it likes, up to a bound.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use hone_base::digest::{FileDigest, Hasher};
use hone_base::error::{Error, Kind, Result};

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;

/// A piece of a stream of files.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A file begins.
    File(FileDigest),
    /// The next bytes of the file.
    Chunk(Vec<u8>),
}

/// Streams files in the given order. The reading ends when the stream is dropped, or with an error when nobody takes a
/// piece for `idle`. `turn` is dropped when the reading ends, even if the stream is not.
pub fn stream(
    folder: PathBuf,
    files: Vec<FileDigest>,
    idle: Duration,
    turn: impl Send + 'static,
) -> impl Stream<Item = Result<Piece>> + Send + 'static {
    let (pieces, receiver) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    // Ends by itself: each wait has a bound.
    tokio::spawn(async move {
        let _turn = turn;
        let mut reader = Reader { folder, files: files.into(), open: None };
        loop {
            let piece;
            (reader, piece) = match tokio::task::spawn_blocking(|| reader.next()).await {
                Ok(next) => next,
                Err(error) => {
                    break drop(end.send(Error::internal(format!("reading a file failed: {error}"))));
                }
            };
            let Some(piece) = piece.transpose() else { break };
            let failed = piece.is_err();
            match tokio::time::timeout(idle, pieces.send(piece)).await {
                Ok(Ok(())) if !failed => {}
                Ok(_) => break,
                Err(_) => break drop(end.send(given_up(idle))),
            }
        }
    });
    let end = futures::stream::once(async move { ended.await.ok().map(Err) });
    ReceiverStream::new(receiver).chain(end.filter_map(std::future::ready))
}

fn given_up(idle: Duration) -> Error {
    Error::new(
        Kind::Cancelled,
        format!(
            "nothing of the download was taken for {} s, so it was given up; start it again",
            idle.as_secs()
        ),
    )
}

/// Reads files piece by piece.
struct Reader {
    folder: PathBuf,
    files: VecDeque<FileDigest>,
    open: Option<Open>,
}

/// A file that has begun.
struct Open {
    path: PathBuf,
    sha256: String,
    file: File,
    hasher: Hasher,
    left: u64,
}

impl Reader {
    /// The next piece; `None` at the end of the last file. Blocking.
    fn next(mut self) -> (Self, Result<Option<Piece>>) {
        let piece = self.piece();
        (self, piece)
    }

    fn piece(&mut self) -> Result<Option<Piece>> {
        if let Some(mut open) = self.open.take() {
            if open.left > 0 {
                let chunk = open.chunk()?;
                self.open = Some(open);
                return Ok(Some(Piece::Chunk(chunk)));
            }
            open.finish()?;
        }
        let Some(next) = self.files.pop_front() else { return Ok(None) };
        let path = self.folder.join(&next.name);
        let file = File::open(&path).map_err(|error| damaged(&path, &error.to_string()))?;
        let (sha256, left) = (next.sha256.clone(), next.size);
        self.open = Some(Open { path, sha256, file, hasher: Hasher::default(), left });
        Ok(Some(Piece::File(next)))
    }
}

impl Open {
    fn chunk(&mut self) -> Result<Vec<u8>> {
        let mut chunk = vec![0; CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK))];
        self.file.read_exact(&mut chunk).map_err(|error| damaged(&self.path, &error.to_string()))?;
        self.hasher.update(&chunk);
        self.left -= chunk.len() as u64;
        Ok(chunk)
    }

    fn finish(self) -> Result<()> {
        if self.hasher.finish() != self.sha256 {
            return Err(damaged(&self.path, "its SHA-256 is not the one that was recorded"));
        }
        Ok(())
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::corrupt(format!("{} is damaged: {why}; restore the file or delete the version", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_base::digest;

    const LATER: Duration = Duration::from_secs(3600);

    async fn all(pieces: impl Stream<Item = Result<Piece>>) -> Result<Vec<(String, Vec<u8>)>> {
        let mut pieces = std::pin::pin!(pieces);
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        while let Some(piece) = pieces.next().await {
            match piece? {
                Piece::File(file) => files.push((file.name, Vec::new())),
                Piece::Chunk(chunk) => files.last_mut().unwrap().1.extend(chunk),
            }
        }
        Ok(files)
    }

    /// A folder with a file of several chunks and an empty one.
    fn folder() -> (tempfile::TempDir, Vec<u8>, Vec<FileDigest>) {
        let folder = tempfile::tempdir().unwrap();
        let big: Vec<u8> = (0..600_000u32).map(|i| i as u8).collect();
        std::fs::write(folder.path().join("big"), &big).unwrap();
        std::fs::write(folder.path().join("empty"), "").unwrap();
        let files = digest::of_folder(folder.path()).unwrap();
        (folder, big, files)
    }

    #[tokio::test]
    async fn every_file_comes_whole_and_a_damaged_one_is_an_error() {
        let (folder, big, files) = folder();
        let pieces = || stream(folder.path().to_owned(), files.clone(), LATER, ());
        assert_eq!(
            all(pieces()).await.unwrap(),
            [("big".to_owned(), big.clone()), ("empty".to_owned(), vec![])]
        );
        for damaged in [&big[..1000], &vec![0; big.len()]] {
            std::fs::write(folder.path().join("big"), damaged).unwrap();
            let error = all(pieces()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
        }
    }

    #[tokio::test]
    async fn a_download_that_nobody_takes_is_given_up_and_leaves_its_turn() {
        let (folder, _, files) = folder();
        let turn = std::sync::Arc::new(());
        let pieces = stream(folder.path().to_owned(), files, Duration::from_millis(5), turn.clone());
        while std::sync::Arc::strong_count(&turn) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let error = all(pieces).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Cancelled);
        assert!(error.message().contains("start it again"), "{error}");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_ends_the_reading() {
        let (folder, _, files) = folder();
        let turn = std::sync::Arc::new(());
        drop(stream(folder.path().to_owned(), files, LATER, turn.clone()));
        while std::sync::Arc::strong_count(&turn) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
