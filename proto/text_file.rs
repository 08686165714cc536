//! What the bytes of a text file are, for the daemon, which reads labelled files, and the client, which reads texts to
//! classify: their encoding (the WHATWG's names and tables, by the crate `encoding_rs`), and the formats that people
//! take for text files.

use std::fmt;
use std::io::{self, BufRead, Read};

use encoding_rs::{DecoderResult, UTF_8, UTF_16BE, UTF_16LE};

/// Bytes of a file's head that [`recognise`] looks at.
pub const HEAD_BYTES: usize = 64 << 10;

/// Bytes that a decoder takes at once.
const STEP: usize = 32 << 10;

/// A character encoding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Encoding(&'static encoding_rs::Encoding);

impl Encoding {
    /// UTF-8.
    pub const UTF_8: Self = Self(UTF_8);

    /// By a name of the WHATWG's list, in any case: `utf-8`, `utf-16le`, `windows-1252`, `latin1`, `gbk`, `shift_jis`.
    pub fn named(name: &str) -> Option<Self> {
        encoding_rs::Encoding::for_label_no_replacement(name.as_bytes()).map(Self)
    }

    /// The WHATWG's name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether it is UTF-8.
    pub fn is_utf8(self) -> bool {
        self.0 == UTF_8
    }
}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the head of a file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// Text, as far as can be seen; `mark` bytes of it are a byte order mark.
    Text {
        /// The encoding that a mark or the pattern of zero bytes tells, else UTF-8.
        encoding: Encoding,
        /// Bytes of the byte order mark, to be passed over.
        mark: usize,
    },
    /// No text: what it is and what to do, to follow the file's name.
    Foreign(&'static str),
}

/// Recognises a file by its first bytes ([`HEAD_BYTES`] of them, or all there are), after unpacking.
pub fn recognise(head: &[u8]) -> Recognised {
    if let Some(what) = foreign(head) {
        return Recognised::Foreign(what);
    }
    let (encoding, mark) = match encoding_rs::Encoding::for_bom(head) {
        Some((encoding, mark)) => (Encoding(encoding), mark),
        None => (zero_bytes(head).unwrap_or(Encoding::UTF_8), 0),
    };
    Recognised::Text { encoding, mark }
}

/// UTF-16 without a mark: text in it has a zero byte beside each ASCII character, always on the same side.
fn zero_bytes(head: &[u8]) -> Option<Encoding> {
    let zeros = |side: usize| head.iter().skip(side).step_by(2).filter(|&&byte| byte == 0).count();
    let (first, second) = (zeros(0), zeros(1));
    // Even Chinese text has ASCII delimiters, digits and ends of lines; one stray zero byte is no encoding.
    let enough = (head.len() / 64).max(2);
    match () {
        () if second >= enough && first * 10 <= second => Some(Encoding(UTF_16LE)),
        () if first >= enough && second * 10 <= first => Some(Encoding(UTF_16BE)),
        () => None,
    }
}

/// Formats that people take for text files, by their first bytes.
fn foreign(head: &[u8]) -> Option<&'static str> {
    let has = |words: &str| head.windows(words.len()).any(|window| window == words.as_bytes());
    let starts = |bytes: &[u8]| head.starts_with(bytes);
    Some(match () {
        () if starts(b"PK\x03\x04") && (has("xl/") || has("[Content_Types].xml") && !has("word/")) => {
            "this is an Excel workbook (.xlsx); save the sheet as \"CSV UTF-8\""
        }
        () if starts(b"PK\x03\x04") && has("word/") => {
            "this is a Word document (.docx); save its table as CSV"
        }
        () if starts(b"PK\x03\x04") && has("mimetypeapplication/vnd.oasis.opendocument") => {
            "this is an OpenDocument file (.ods); save the sheet as CSV"
        }
        () if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") => {
            "this is a zip archive; unpack it and pass the file inside (gzip may stay packed)"
        }
        () if starts(b"PAR1") => {
            "this is a Parquet file; write it as JSON Lines: python -c \"import pandas, sys; \
             pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True)\" FILE.parquet FILE.jsonl"
        }
        () if starts(b"ARROW1") => {
            "this is an Arrow file; write it as JSON Lines: python -c \"import pandas, sys; \
             pandas.read_feather(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True)\" FILE.arrow FILE.jsonl"
        }
        () if starts(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") => {
            "this is an old Office file (.xls or .doc); save the sheet as \"CSV UTF-8\""
        }
        () if starts(b"\x1f\x8b") => "this was packed with gzip twice; unpack it once",
        () if starts(b"\x28\xb5\x2f\xfd") => {
            "this is packed with Zstandard; unpack it (zstd -d) or pack it with gzip"
        }
        () if starts(b"BZh") && head.get(4..10) == Some(b"1AY&SY") => {
            "this is packed with bzip2; unpack it (bunzip2) or pack it with gzip"
        }
        () if starts(b"\xfd7zXZ\0") => "this is packed with xz; unpack it (unxz) or pack it with gzip",
        () if starts(b"7z\xbc\xaf\x27\x1c") => "this is a 7z archive; unpack it and pass the file inside",
        () if starts(b"Rar!\x1a\x07") => "this is a RAR archive; unpack it and pass the file inside",
        () if head.get(257..262) == Some(b"ustar") => {
            "this is a tar archive; unpack it and pass the file inside"
        }
        () if starts(b"%PDF-") => "this is a PDF; a labelled text file is needed",
        () if starts(b"{\\rtf") => "this is an RTF document; save it as plain text",
        () if starts(b"SQLite format 3\0") => "this is an SQLite database; export the table as CSV",
        () if starts(b"\x89HDF\r\n") => "this is an HDF5 file; write the table as CSV or JSON Lines",
        () if starts(b"\x93NUMPY") => "this is a NumPy array; write texts and labels as CSV or JSON Lines",
        () if matches!(head, [0x80, 2..=5, ..]) => {
            "this is a Python pickle, which is never opened, because it could run code; write the table as CSV or JSON Lines"
        }
        () if starts(b"version https://git-lfs.github.com/spec/v1") => {
            "this is a Git LFS pointer, not the file; fetch the file itself with `git lfs pull`"
        }
        () if starts(b"\xff\xfe\0\0") || starts(b"\0\0\xfe\xff") => "the file is UTF-32; save it as UTF-8",
        () if is_html(head) => {
            "this is a web page, not a data file; a download often needs another link (\"raw\") or a login"
        }
        () => return None,
    })
}

fn is_html(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let starts =
        |tag: &str| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    starts("<!doctype html") || starts("<html")
}

/// What to say where bytes are not UTF-8, to follow their place: which encoding they look like, and the field that
/// names it.
pub fn not_utf8(bytes: &[u8]) -> &'static str {
    // Windows-1252 has no character at these five; letters and curly quotes stand alone between ASCII.
    let is_western = !bytes.iter().any(|byte| matches!(byte, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d));
    let high = bytes.iter().filter(|byte| **byte >= 0x80).count();
    if is_western && high * 4 <= bytes.len() {
        "it looks like Windows-1252 (Excel's \"ANSI\"); set `columns.dialect.encoding = windows-1252`, or save the file \
         as UTF-8"
    } else {
        "name the file's encoding with `columns.dialect.encoding` (windows-1251, gbk, shift_jis, …), or save the file \
         as UTF-8"
    }
}

/// Turns bytes of an encoding into UTF-8 as they are read. Bytes that do not belong to the encoding are an error of the
/// kind `InvalidData`: nothing is replaced in silence.
pub struct Utf8Reader<R> {
    input: R,
    encoding: Encoding,
    decoder: encoding_rs::Decoder,
    text: Vec<u8>,
    at: usize,
    is_malformed: bool,
    has_ended: bool,
}

impl<R: BufRead> Utf8Reader<R> {
    /// Reads `input`, whose byte order mark was passed over.
    pub fn new(input: R, encoding: Encoding) -> Self {
        let decoder = encoding.0.new_decoder_without_bom_handling();
        Self { input, encoding, decoder, text: Vec::new(), at: 0, is_malformed: false, has_ended: false }
    }

    /// Decodes the next bytes into `text`.
    fn refill(&mut self) -> io::Result<()> {
        self.at = 0;
        self.text.clear();
        let buffer = self.input.fill_buf()?;
        let bytes = buffer.get(..STEP.min(buffer.len())).unwrap_or(buffer);
        let is_last = bytes.is_empty();
        let room = self.decoder.max_utf8_buffer_length_without_replacement(bytes.len()).unwrap_or(STEP * 4);
        self.text.resize(room, 0);
        let (result, read, written) =
            self.decoder.decode_to_utf8_without_replacement(bytes, &mut self.text, is_last);
        self.text.truncate(written);
        self.input.consume(read);
        self.is_malformed = matches!(result, DecoderResult::Malformed(..));
        self.has_ended = is_last;
        Ok(())
    }
}

impl<R: BufRead> Read for Utf8Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.text.len() {
            if self.is_malformed {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("there are bytes that {} does not have", self.encoding.name()),
                ));
            }
            if self.has_ended {
                return Ok(0);
            }
            self.refill()?;
        }
        let left = self.text.get(self.at..).unwrap_or_default();
        let length = left.len().min(out.len());
        if let (Some(out), Some(left)) = (out.get_mut(..length), left.get(..length)) {
            out.copy_from_slice(left);
        }
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, is_little: bool) -> Vec<u8> {
        text.encode_utf16()
            .flat_map(|unit| if is_little { unit.to_le_bytes() } else { unit.to_be_bytes() })
            .collect()
    }

    fn encoding(head: &[u8]) -> (&'static str, usize) {
        match recognise(head) {
            Recognised::Text { encoding, mark } => (encoding.name(), mark),
            Recognised::Foreign(what) => panic!("{what}"),
        }
    }

    #[test]
    fn an_encoding_is_told_by_its_mark_or_by_where_zero_bytes_stand() {
        let text = "text,label\ngut,pos\n很好的酒店 房间干净,1\n很好的酒店 房间干净,0\n";
        assert_eq!(encoding(text.as_bytes()), ("UTF-8", 0));
        assert_eq!(encoding(&[b"\xef\xbb\xbf", text.as_bytes()].concat()), ("UTF-8", 3));
        assert_eq!(encoding(&utf16(text, true)), ("UTF-16LE", 0));
        assert_eq!(encoding(&utf16(text, false)), ("UTF-16BE", 0));
        assert_eq!(encoding(&[b"\xff\xfe".to_vec(), utf16(text, true)].concat()), ("UTF-16LE", 2));
        assert_eq!(encoding(&[b"\xfe\xff".to_vec(), utf16(text, false)].concat()), ("UTF-16BE", 2));
        assert_eq!(encoding(b"a text with one \0 in it\n"), ("UTF-8", 0));
    }

    #[test]
    fn what_is_no_text_is_named_with_what_to_do() {
        let zip = |inside: &str| [b"PK\x03\x04\x14\0", inside.as_bytes()].concat();
        let tar = [vec![b'a'; 257], b"ustar\0".to_vec()].concat();
        for (head, words) in [
            (zip("[Content_Types].xml"), "Excel"),
            (zip("reviews.csv"), "zip archive"),
            (b"PAR1\x15\0".to_vec(), "Parquet"),
            (b"\x1f\x8b\x08".to_vec(), "twice"),
            (b"\x80\x04\x95".to_vec(), "pickle"),
            (b"\xff\xfe\0\0a\0\0\0".to_vec(), "UTF-32"),
            (b"\n<!DOCTYPE HTML>".to_vec(), "web page"),
            (tar, "tar archive"),
        ] {
            let Recognised::Foreign(what) = recognise(&head) else { panic!("{words}") };
            assert!(what.contains(words), "{what}");
        }
    }

    #[test]
    fn any_encoding_is_read_as_utf8_whatever_the_size_of_reads() {
        let text = "Grüße, 很好 😀 – “curly”\n".repeat(4000);
        let read = |bytes: &[u8], name: &str| {
            let mut read = String::new();
            let input = io::BufReader::with_capacity(7, bytes);
            Utf8Reader::new(input, Encoding::named(name).unwrap()).read_to_string(&mut read).map(|_| read)
        };
        assert_eq!(read(&utf16(&text, true), "utf-16le").unwrap(), text);
        assert_eq!(read(&utf16(&text, false), "UTF-16BE").unwrap(), text);
        assert_eq!(read(b"it\x92s \x80 5 \x96 caf\xe9", "windows-1252").unwrap(), "it’s € 5 – café");
        assert_eq!(read(b"", "windows-1252").unwrap(), "");
    }

    #[test]
    fn bytes_that_the_encoding_does_not_have_are_an_error_behind_what_came_before() {
        let mut reader = Utf8Reader::new(&b"a\0b\0\0\xd8c\0"[..], Encoding::named("utf-16le").unwrap());
        let mut read = Vec::new();
        let error = reader.read_to_end(&mut read).unwrap_err();
        assert_eq!((read.as_slice(), error.kind()), (&b"ab"[..], io::ErrorKind::InvalidData));
        assert!(error.to_string().contains("UTF-16LE"), "{error}");
    }

    #[test]
    fn a_guess_is_made_of_what_is_not_utf8() {
        assert!(not_utf8(b"it\x92s a fine day").contains("`columns.dialect.encoding = windows-1252`"));
        assert!(not_utf8(b"\xcf\xf0\xe8\xe2\xe5\xf2").contains("gbk"));
    }
}
