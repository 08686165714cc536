//! Large files, read, written and synced in pieces.
//!
//! A kernel that is not preemptible (the usual build for servers) gives the core to no other thread before a system call has
//! returned, whatever their priorities: 90 MB in one `write` kept an answer waiting for 40 ms.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Bytes that one system call moves at most.
const PIECE: usize = 256 << 10;

/// Bytes that are written before the disk has them.
const UNSYNCED: usize = 32 << 20;

/// The content of a file.
///
/// # Errors
/// Those of opening and reading it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut bytes = Vec::new();
    // Memory that cannot be had is an error like any other.
    bytes.try_reserve_exact(size)?;
    while Read::by_ref(&mut file).take(PIECE as u64).read_to_end(&mut bytes)? > 0 {}
    Ok(bytes)
}

/// A new file, which is on the disk when it is finished.
#[derive(Debug)]
pub struct Durable {
    file: File,
    unsynced: usize,
}

impl Durable {
    /// An empty file.
    ///
    /// # Errors
    /// Those of creating it.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, unsynced: 0 })
    }

    /// Waits until all of it is on the disk.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Write for Durable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes.get(..PIECE).unwrap_or(bytes))?;
        self.unsynced += written;
        if self.unsynced >= UNSYNCED {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_pieces_is_read_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, PIECE - 1, PIECE, 2 * PIECE + 7, UNSYNCED + 1] {
            let bytes: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
            let mut file = Durable::create(&path).unwrap();
            file.write_all(&bytes).unwrap();
            file.finish().unwrap();
            assert_eq!(read(&path).unwrap(), bytes);
        }
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
