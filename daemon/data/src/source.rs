//! A file's bytes: unpacked, recognised by their head, and decoded to UTF-8.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use hone::text_file::{Encoding, HEAD_BYTES, Recognised, Utf8Reader, recognise};

use super::limits::Limits;
use hone_base::error::{Error, Result};

const BUFFER_BYTES: usize = 256 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Bytes of a packed file at least: its head and its end (RFC 1952).
const PACKED_AT_LEAST: u64 = 18;

/// About how many bytes a file has when it is unpacked, without unpacking it: of a packed one that is what its end says, which
/// is too little beyond 4 GiB and where it has several parts. 0 if it cannot be known.
pub fn unpacked_size(path: &Path) -> u64 {
    let read = || {
        let metadata = std::fs::metadata(path)?;
        let size = metadata.len();
        let mut head = [0; GZIP_MAGIC.len()];
        if !metadata.is_file() || size < PACKED_AT_LEAST {
            return Ok(size);
        }
        let mut file = File::open(path)?;
        file.read_exact(&mut head)?;
        if head != GZIP_MAGIC {
            return Ok(size);
        }
        let mut end = [0; 4];
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut end)?;
        Ok::<_, std::io::Error>(size.max(u32::from_le_bytes(end).into()))
    };
    read().unwrap_or(0)
}

/// A file of text, at its start.
pub(super) struct Source {
    /// The name that messages use.
    pub(super) name: String,
    path: PathBuf,
    limits: Limits,
    /// Bytes that were unpacked so far.
    pub(super) unpacked: Arc<AtomicU64>,
    /// UTF-8 as far as the decoder made it so; bytes that were UTF-8 from the start are not checked yet.
    pub(super) input: Box<dyn BufRead>,
    /// The first bytes of `input`, which are still to be read from it; cut at a character.
    pub(super) head: String,
    /// Whether the head is the whole file.
    pub(super) head_is_whole: bool,
    /// What was decoded.
    pub(super) encoding: Encoding,
}

impl Source {
    /// Opens the file; messages call it `name`. `encoding` is what the user says; without it UTF-16 is recognised, and
    /// everything else must be UTF-8. Bytes are counted as they are unpacked; beyond the limit reading fails.
    pub(super) fn open(path: &Path, name: &str, encoding: Option<Encoding>, limits: &Limits) -> Result<Self> {
        let failed = |error| Error::io("read", path, &error);
        let mut plain = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(failed)?);
        let is_gzip = plain.fill_buf().map_err(failed)?.starts_with(&GZIP_MAGIC);
        let unpacked = Arc::new(AtomicU64::new(0));
        let counted: Box<dyn Read> = match is_gzip {
            true => Box::new(Counted::new(MultiGzDecoder::new(plain), limits, &unpacked)),
            false => Box::new(Counted::new(plain, limits, &unpacked)),
        };
        let input = Box::new(BufReader::with_capacity(BUFFER_BYTES, counted));
        let mut source = Self {
            name: name.to_owned(),
            path: path.to_owned(),
            limits: *limits,
            unpacked,
            input,
            head: String::new(),
            head_is_whole: false,
            encoding: Encoding::UTF_8,
        };
        let head = source.peek()?;
        let (found, mark) = match recognise(&head) {
            Recognised::Text { encoding, mark } => (encoding, mark),
            Recognised::Foreign(what) => return Err(Error::invalid(format!("{name}: {what}"))),
        };
        // A mark says more than a flag that was meant for other files.
        source.encoding = if mark > 0 { found } else { encoding.unwrap_or(found) };
        source.input.consume_all(mark).map_err(|error| source.unreadable(0, &error))?;
        if !source.encoding.is_utf8() {
            let input = std::mem::replace(&mut source.input, Box::new(Cursor::new([])));
            let decoded = Utf8Reader::new(input, source.encoding);
            source.input = Box::new(BufReader::with_capacity(BUFFER_BYTES, decoded));
        }
        let head = source.peek()?;
        source.head = match String::from_utf8(head) {
            Ok(head) => head,
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default()).into_owned()
            }
        };
        Ok(source)
    }

    /// The next bytes of `input`, which stay in it. An error in them is met again when they are read.
    fn peek(&mut self) -> Result<Vec<u8>> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let read = (&mut self.input).take(HEAD_BYTES as u64).read_to_end(&mut head);
        let rest = std::mem::replace(&mut self.input, Box::new(Cursor::new([])));
        self.head_is_whole = matches!(read, Ok(length) if length < HEAD_BYTES);
        self.input = match read {
            Ok(_) => Box::new(Cursor::new(head.clone()).chain(rest)),
            Err(error) => {
                let failing = BufReader::new(Failing(Some(error)));
                Box::new(Cursor::new(head.clone()).chain(failing))
            }
        };
        Ok(head)
    }

    /// The failure of a row that starts at `line`.
    pub(super) fn invalid(&self, line: u64, message: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}, line {line}: {message}", self.name))
    }

    /// The failure of reading at `line`.
    pub(super) fn unreadable(&self, line: u64, error: &std::io::Error) -> Error {
        match error.kind() {
            _ if error.get_ref().is_some_and(|error| error.is::<TooLarge>()) => {
                self.limits.too_large(&self.name, line)
            }
            _ if error.raw_os_error().is_some() => Error::io("read", &self.path, error),
            ErrorKind::InvalidData if !self.encoding.is_utf8() => self.invalid(
                line,
                format!("{error}; is the file in another encoding? Name it with `columns.dialect.encoding`"),
            ),
            ErrorKind::UnexpectedEof => {
                self.invalid(line, "the gzip data ends early: the file is not complete")
            }
            _ => self.invalid(line, format!("the gzip data is damaged ({error})")),
        }
    }
}

/// Counts the bytes that it gives, and fails beyond the limit.
struct Counted<R> {
    from: R,
    limit: u64,
    unpacked: Arc<AtomicU64>,
}

/// The file unpacks to more than the limit.
#[derive(Debug)]
struct TooLarge;

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the file unpacks to more than the limit")
    }
}

impl std::error::Error for TooLarge {}

impl<R> Counted<R> {
    fn new(from: R, limits: &Limits, unpacked: &Arc<AtomicU64>) -> Self {
        Self { from, limit: limits.unpacked, unpacked: unpacked.clone() }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.limit - self.unpacked.load(Ordering::Relaxed);
        if left == 0 && !buffer.is_empty() {
            return match self.from.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(std::io::Error::other(TooLarge)),
            };
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.from.read(buffer.get_mut(..room).unwrap_or_default())?;
        self.unpacked.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Gives an error that was met while peeking.
struct Failing(Option<std::io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

trait ConsumeAll {
    fn consume_all(&mut self, bytes: usize) -> std::io::Result<()>;
}

impl ConsumeAll for Box<dyn BufRead> {
    fn consume_all(&mut self, bytes: usize) -> std::io::Result<()> {
        std::io::copy(&mut self.take(bytes as u64), &mut std::io::sink()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_size_of_a_file_is_known_without_unpacking_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            unpacked_size(&path)
        };
        let text = "many a word ".repeat(10_000);
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(text.as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        assert!(packed.len() < 1000);
        assert_eq!((of(&packed), of(text.as_bytes()), of(b"a")), (120_000, 120_000, 1));
        assert_eq!(unpacked_size(&folder.path().join("none")), 0);
    }
}
