//! A checkpoint folder as a stream of files.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use tokio::sync::mpsc;

use hone_base::digest::{FileDigest, Hasher};
use hone_base::error::{Error, Result};

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;

/// Pieces that wait for a slow reader at most.
const AHEAD: usize = 4;

/// A piece of a stream of files.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A file begins.
    File(FileDigest),
    /// The next bytes of the file.
    Chunk(Vec<u8>),
}

/// Streams files in the given order. The reading ends when the receiver is dropped.
pub fn stream(folder: std::path::PathBuf, files: Vec<FileDigest>) -> mpsc::Receiver<Result<Piece>> {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        for file in files {
            match send(&folder, file, &pieces) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let _ = pieces.blocking_send(Err(error));
                    return;
                }
            }
        }
    });
    receiver
}

/// Sends one file; false when nobody listens any more.
fn send(folder: &Path, file: FileDigest, pieces: &mpsc::Sender<Result<Piece>>) -> Result<bool> {
    let path = folder.join(&file.name);
    let damaged = |why: String| {
        Error::corrupt(format!(
            "{} is damaged: {why}; restore the file or delete the version",
            path.display()
        ))
    };
    let mut reader = File::open(&path).map_err(|error| damaged(error.to_string()))?;
    if pieces.blocking_send(Ok(Piece::File(file.clone()))).is_err() {
        return Ok(false);
    }
    let mut hasher = Hasher::default();
    let mut left = file.size;
    while left > 0 {
        let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        reader.read_exact(&mut chunk).map_err(|error| damaged(error.to_string()))?;
        hasher.update(&chunk);
        left -= chunk.len() as u64;
        if pieces.blocking_send(Ok(Piece::Chunk(chunk))).is_err() {
            return Ok(false);
        }
    }
    if hasher.finish() != file.sha256 {
        return Err(damaged("its SHA-256 is not the one that was recorded".to_owned()));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_base::digest;
    use hone_base::error::Kind;

    async fn all(mut pieces: mpsc::Receiver<Result<Piece>>) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        while let Some(piece) = pieces.recv().await {
            match piece? {
                Piece::File(file) => files.push((file.name, Vec::new())),
                Piece::Chunk(chunk) => files.last_mut().unwrap().1.extend(chunk),
            }
        }
        Ok(files)
    }

    #[tokio::test]
    async fn every_file_comes_whole_and_a_damaged_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let big: Vec<u8> = (0..600_000u32).map(|i| i as u8).collect();
        std::fs::write(folder.path().join("big"), &big).unwrap();
        std::fs::write(folder.path().join("empty"), "").unwrap();
        let files = digest::of_folder(folder.path()).unwrap();
        let received = all(stream(folder.path().to_owned(), files.clone())).await.unwrap();
        assert_eq!(received, [("big".to_owned(), big.clone()), ("empty".to_owned(), vec![])]);
        for damaged in [&big[..1000], &vec![0; big.len()]] {
            std::fs::write(folder.path().join("big"), damaged).unwrap();
            let error = all(stream(folder.path().to_owned(), files.clone())).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
        }
    }
}
