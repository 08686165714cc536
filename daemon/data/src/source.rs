//! A file's bytes: unpacked, recognised by their head, and decoded to UTF-8.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use hone::text_file::{Encoding, HEAD_BYTES, Recognised, Utf8Reader, recognise};

use hone_base::error::{Error, Result};

const BUFFER_BYTES: usize = 256 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// A file of text, at its start.
pub(super) struct Source {
    /// The name that messages use.
    pub(super) name: String,
    path: PathBuf,
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
    /// everything else must be UTF-8.
    pub(super) fn open(path: &Path, name: &str, encoding: Option<Encoding>) -> Result<Self> {
        let failed = |error| Error::io("read", path, &error);
        let mut plain = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(failed)?);
        let is_gzip = plain.fill_buf().map_err(failed)?.starts_with(GZIP_MAGIC);
        let input: Box<dyn BufRead> = match is_gzip {
            true => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(plain))),
            false => Box::new(plain),
        };
        let mut source = Self {
            name: name.to_owned(),
            path: path.to_owned(),
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
