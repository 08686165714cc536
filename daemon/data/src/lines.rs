//! A labelled file as lines of text, within bounds.

use std::io::{BufRead, Read};

use hone::text_file::not_utf8;

use super::source::Source;
use hone_base::error::{Error, Result};

/// The bytes that one row may have.
pub(super) const MAX_ROW_BYTES: usize = 16 << 20;

/// The lines of a file, one after the other.
pub(super) struct Lines {
    source: Source,
    bytes: Vec<u8>,
    number: u64,
}

impl Lines {
    /// The lines of a file that was opened.
    pub(super) fn of(source: Source) -> Self {
        Self { source, bytes: Vec::new(), number: 0 }
    }

    /// The name that messages use.
    pub(super) fn name(&self) -> &str {
        &self.source.name
    }

    /// The number of the line that was read last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The failure of a row that starts at `line`.
    pub(super) fn invalid(&self, line: u64, message: impl std::fmt::Display) -> Error {
        self.source.invalid(line, message)
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
        Err(Error::invalid(format!("{}: the file is empty", self.source.name)))
    }

    /// Appends the next line with its ending to `row`; false at the end of the file.
    pub(super) fn read(&mut self, row: &mut String) -> Result<bool> {
        self.bytes.clear();
        let room = MAX_ROW_BYTES.saturating_sub(row.len()) as u64;
        let read = (&mut self.source.input).take(room + 1).read_until(b'\n', &mut self.bytes);
        self.number += 1;
        if read.map_err(|error| self.source.unreadable(self.number, &error))? == 0 {
            return Ok(false);
        }
        if let Some(place) = self.bytes.iter().position(|&byte| byte == 0) {
            return Err(self.invalid(self.number, zero_byte(place)));
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
                format!(
                    "not UTF-8 at byte {} of the line (0x{:02X}); {}",
                    error.valid_up_to() + 1,
                    self.bytes.get(error.valid_up_to()).copied().unwrap_or_default(),
                    not_utf8(&self.bytes),
                ),
            )),
        }
    }
}

/// What to say of a zero byte at this place of a line.
pub(super) fn zero_byte(place: usize) -> String {
    format!(
        "a zero byte (NUL) at byte {} of the line; text has none: remove it (tr -d '\\000' < FILE > CLEAN), or, if the \
         file is in UTF-16 or UTF-32, save it as UTF-8",
        place + 1
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use flate2::{Compression, write::GzEncoder};
    use hone::text_file::Encoding;

    use super::super::limits::Limits;
    use super::*;
    use hone_base::error::Kind;

    fn lines(bytes: &[u8]) -> Result<Vec<String>> {
        lines_in(bytes, None)
    }

    fn lines_in(bytes: &[u8], encoding: Option<&str>) -> Result<Vec<String>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let encoding = encoding.and_then(Encoding::named);
        let mut lines = Lines::of(Source::open(file.path(), "reviews.csv", encoding, &Limits::default())?);
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
    fn another_encoding_is_recognised_or_named() {
        let utf16: Vec<u8> = "text,label\ngrün,1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(lines(&utf16).unwrap(), ["text,label\n", "grün,1\n"]);
        assert_eq!(lines(&gzip(&utf16)).unwrap(), ["text,label\n", "grün,1\n"]);
        assert_eq!(lines_in(b"it\x92s\n", Some("windows-1252")).unwrap(), ["it’s\n"]);
        // A mark says more than the flag.
        assert_eq!(lines_in(b"\xef\xbb\xbfgr\xc3\xbcn", Some("windows-1252")).unwrap(), ["grün"]);
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
            (b"a\nb\nc\0d\n", "reviews.csv, line 3: a zero byte (NUL) at byte 2 of the line"),
            (b"\xff\xfea\0\0\xd8b\0", "line 1: there are bytes that UTF-16LE does not have"),
            (b"PK\x03\x04\0\0xl/workbook.xml", "reviews.csv: this is an Excel workbook"),
            (&gzip(&gzip(b"a")), "packed with gzip twice"),
            (b"it\x92s", "looks like Windows-1252"),
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
        let error = Source::open(Path::new("/nowhere/a.csv"), "a.csv", None, &Limits::default())
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.message().contains("/nowhere/a.csv"), "{error}");
    }
}
