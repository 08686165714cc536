//! A labelled file as lines of text: unpacked, decoded, and within bounds.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

/// The bytes that one row may have.
pub(super) const MAX_ROW_BYTES: usize = 16 << 20;

const BUFFER_BYTES: usize = 256 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";
const UTF16_BOMS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// The lines of a file, gzip or plain, one after the other.
pub(super) struct Lines {
    name: String,
    path: PathBuf,
    input: Box<dyn BufRead>,
    bytes: Vec<u8>,
    number: u64,
}

impl Lines {
    /// Opens the file; messages call it `name`.
    pub(super) fn open(path: &Path, name: &str) -> Result<Self> {
        let failed = |error| Error::io("read", path, &error);
        let mut plain = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(failed)?);
        let is_gzip = plain.fill_buf().map_err(failed)?.starts_with(GZIP_MAGIC);
        let input: Box<dyn BufRead> = match is_gzip {
            true => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(plain))),
            false => Box::new(plain),
        };
        Ok(Self { name: name.to_owned(), path: path.to_owned(), input, bytes: Vec::new(), number: 0 })
    }

    /// The name that messages use.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The number of the line that was read last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The failure of a row that starts at `line`.
    pub(super) fn invalid(&self, line: u64, message: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}, line {line}: {message}", self.name))
    }

    /// The first line that is not blank. Fails when there is none.
    pub(super) fn first(&mut self) -> Result<String> {
        let mut line = String::new();
        while self.read(&mut line)? {
            if !line.trim().is_empty() {
                return Ok(line);
            }
            line.clear();
        }
        Err(Error::invalid(format!("{}: the file is empty", self.name)))
    }

    /// Appends the next line with its ending to `row`; false at the end of the file.
    pub(super) fn read(&mut self, row: &mut String) -> Result<bool> {
        self.bytes.clear();
        let room = MAX_ROW_BYTES.saturating_sub(row.len()) as u64;
        let read = (&mut self.input).take(room + 1).read_until(b'\n', &mut self.bytes);
        self.number += 1;
        if read.map_err(|error| self.unreadable(&error))? == 0 {
            return Ok(false);
        }
        if self.number == 1 {
            self.strip_mark()?;
        }
        if self.bytes.contains(&0) {
            return Err(self.invalid(
                self.number,
                "a NUL byte: this looks like a binary file, not like CSV, TSV or JSON Lines",
            ));
        }
        match std::str::from_utf8(&self.bytes) {
            // A row that is cut at the bound may be cut inside a character, so length is told first.
            _ if self.bytes.len() as u64 > room => Err(self.invalid(
                self.number,
                format!("a row has more than {} MiB; is a quote not closed?", MAX_ROW_BYTES >> 20),
            )),
            Ok(line) => {
                row.push_str(line);
                Ok(true)
            }
            Err(error) => Err(self.invalid(
                self.number,
                format!("not UTF-8 at byte {} of the line; save the file as UTF-8", error.valid_up_to() + 1),
            )),
        }
    }

    fn strip_mark(&mut self) -> Result<()> {
        if UTF16_BOMS.iter().any(|mark| self.bytes.starts_with(mark)) {
            return Err(self.invalid(1, "the file is UTF-16; save it as UTF-8"));
        }
        if self.bytes.starts_with(UTF8_BOM) {
            self.bytes.drain(..UTF8_BOM.len());
        }
        Ok(())
    }

    fn unreadable(&self, error: &std::io::Error) -> Error {
        match error.kind() {
            _ if error.raw_os_error().is_some() => Error::io("read", &self.path, error),
            ErrorKind::UnexpectedEof => {
                self.invalid(self.number, "the gzip data ends early: the file is not complete")
            }
            _ => self.invalid(self.number, format!("the gzip data is damaged ({error})")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::error::Kind;

    fn lines(bytes: &[u8]) -> Result<Vec<String>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut lines = Lines::open(file.path(), "reviews.csv")?;
        let (mut all, mut line) = (vec![], String::new());
        while lines.read(&mut line)? {
            all.push(std::mem::take(&mut line));
        }
        Ok(all)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_keep_their_endings_and_lose_the_byte_order_mark() {
        assert_eq!(lines(b"\xef\xbb\xbfa\r\n\nb").unwrap(), ["a\r\n", "\n", "b"]);
    }

    #[test]
    fn gzip_is_known_by_its_first_bytes_and_may_have_several_members() {
        let packed = [gzip(b"a\nb"), gzip(b"c\n")].concat();
        assert_eq!(lines(&packed).unwrap(), ["a\n", "bc\n"]);
    }

    #[test]
    fn what_cannot_be_decoded_is_refused_with_its_line() {
        let text = "a line that repeats itself\n".repeat(5000);
        let packed = gzip(text.as_bytes());
        let mut damaged = packed.clone();
        let last = damaged.len() - 6;
        damaged[last] ^= 0xff;
        for (bytes, expected) in [
            (&b"a\nb\xff\n"[..], "reviews.csv, line 2: not UTF-8 at byte 2 of the line"),
            (b"a\nb\nc\0d\n", "reviews.csv, line 3: a NUL byte: this looks like a binary file"),
            (b"\xff\xfet\0e\0", "line 1: the file is UTF-16"),
            (&packed[..packed.len() / 2], "the gzip data ends early"),
            (&packed[..packed.len() - 2], "the gzip data ends early"),
            (&damaged, "the gzip data is damaged"),
        ] {
            let error = lines(bytes).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
            assert!(error.message().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_kept_in_memory() {
        let mut text = vec![b'x'; MAX_ROW_BYTES];
        assert_eq!(lines(&text).unwrap().len(), 1);
        text.extend_from_slice("é".as_bytes());
        let error = lines(&text).unwrap_err();
        assert!(error.message().contains("line 1: a row has more than 16 MiB"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Lines::open(Path::new("/nowhere/a.csv"), "a.csv").map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.message().contains("/nowhere/a.csv"), "{error}");
    }
}
