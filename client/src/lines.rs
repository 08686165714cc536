//! Texts from a file or a pipe, one a line, in batches, with bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use hone::text_file::{self, Encoding, Recognised, Utf8Reader};
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::fields::with_flags;
use crate::files::reason;

/// A batch ends after this many lines, or when the next one would have to be waited for.
const BATCH_LINES: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
const LONGEST_LINE: usize = 1 << 20;
const BUFFER: usize = 64 << 10;

/// One line of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// Can be classified.
    Text(String),
    /// Cannot, but keeps its place.
    Bad { text: String, why: Why },
}

/// Why a line cannot be classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Empty,
    TooLong,
    /// A zero byte, which no text has.
    Zero,
    /// And what its encoding may be.
    NotUtf8(&'static str),
}

impl Why {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Empty => "the line is empty",
            Self::TooLong => "the line is longer than 1 MiB",
            Self::Zero => "the line has a zero byte",
            Self::NotUtf8(_) => "the line is no UTF-8",
        }
    }

    /// What to do about it.
    pub(crate) fn hint(self) -> Option<String> {
        match self {
            Self::NotUtf8(hint) => Some(with_flags(hint)),
            Self::Zero => Some(
                "it is no plain text, or in another encoding: say --encoding utf-16le, for example"
                    .to_owned(),
            ),
            Self::Empty | Self::TooLong => None,
        }
    }
}

/// Whether a text has nothing that anybody would see: spaces, or characters that only join or separate others.
pub(crate) fn is_blank(text: &str) -> bool {
    let is_invisible = |c| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
    text.chars().all(|c| c.is_whitespace() || is_invisible(c))
}

pub(crate) type Batches = mpsc::Receiver<Result<Vec<Line>, Error>>;

/// Opens a file, or standard input for "-", and reads it on a thread of its own that stays two batches ahead at most.
/// Says what it is read as, where that is not what the user names, or UTF-8 where nothing is named.
pub(crate) async fn read(path: &Path, named: Option<Encoding>) -> Result<(Batches, Option<Encoding>), Error> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        format!("--file {}", path.display())
    };
    let refuse = move |why: &str| Error::usage(format!("{name}: {why}"));
    let input: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refuse("there is no such file"),
            _ => refuse(&format!("the file cannot be opened: {}", reason(&error))),
        })?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(refuse("this is a folder, not a file"));
        }
        Box::new(file)
    };
    let (send, receive) = mpsc::channel(2);
    let (told, encoding) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let (input, encoding) = match text_of(input, named, refuse) {
            Ok(text) => text,
            Err(error) => {
                let _ = told.send(Err(error));
                return;
            }
        };
        let unexpected = encoding != named.unwrap_or(Encoding::UTF_8);
        let _ = told.send(Ok(unexpected.then_some(encoding)));
        let mut reader = LineReader::new(BufReader::with_capacity(BUFFER, input));
        loop {
            let batch = match reader.batch() {
                Ok(batch) if batch.is_empty() => return,
                Ok(batch) => Ok(batch),
                Err(error) => Err(unreadable(&error, reader.lines + 1)),
            };
            let failed = batch.is_err();
            if send.blocking_send(batch).is_err() || failed {
                return;
            }
        }
    });
    match encoding.await {
        Ok(encoding) => Ok((receive, encoding?)),
        Err(_) => Err(Error::other("the thread that reads the texts ended")),
    }
}

fn unreadable(error: &io::Error, line: u64) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData => Error::usage(format!("line {line} of the input: {error}"))
            .hint("name the file's encoding with --encoding, or save it as UTF-8"),
        _ => Error::other(format!("the input cannot be read: {}", reason(error))),
    }
}

type Input = Box<dyn Read + Send>;

/// The input as UTF-8, and what it was. Waits for no more than the first piece of a pipe.
fn text_of(
    mut input: Input,
    named: Option<Encoding>,
    refuse: impl Fn(&str) -> Error,
) -> Result<(Input, Encoding), Error> {
    let mut head = vec![0; text_file::HEAD_BYTES];
    let mut length = 0;
    // Two bytes of a byte order mark may come one by one.
    while length < 4 {
        let space = head.get_mut(length..).unwrap_or_default();
        match input.read(space) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refuse(&format!("it cannot be read: {}", reason(&error)))),
        }
        if head.get(..length).is_some_and(|head| head.contains(&b'\n')) {
            break;
        }
    }
    head.truncate(length);
    if head.starts_with(b"\x1f\x8b") {
        return Err(refuse(
            "this is packed with gzip; unpack it and pass it on: gzip -dc FILE | client classify -",
        ));
    }
    let (found, mark) = match text_file::recognise(&head) {
        Recognised::Foreign(what) => return Err(refuse(what)),
        Recognised::Text { encoding, mark } => (encoding, mark),
    };
    // A mark is more certain than what the user believes; a pattern of zero bytes is not.
    let encoding = named.filter(|_| mark == 0).unwrap_or(found);
    let rest = io::Cursor::new(head.split_off(mark.min(length))).chain(input);
    let input: Input = if encoding.is_utf8() {
        Box::new(rest)
    } else {
        Box::new(Utf8Reader::new(BufReader::with_capacity(BUFFER, rest), encoding))
    };
    Ok((input, encoding))
}

struct LineReader<R> {
    input: BufReader<R>,
    at_start: bool,
    /// Lines that were read whole.
    lines: u64,
    /// What ended the input, until the lines before it are handed on.
    failed: Option<io::Error>,
}

impl<R: Read> LineReader<R> {
    fn new(input: BufReader<R>) -> Self {
        Self { input, at_start: true, lines: 0, failed: None }
    }

    /// The next lines; none at the end. Does not wait for more as long as it has one.
    fn batch(&mut self) -> io::Result<Vec<Line>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            let line = match self.line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) if lines.is_empty() => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            };
            self.lines += 1;
            bytes += match &line {
                Line::Text(text) | Line::Bad { text, .. } => text.len(),
            };
            lines.push(line);
            if lines.len() >= BATCH_LINES || bytes >= BATCH_BYTES || self.input.buffer().is_empty() {
                break;
            }
        }
        Ok(lines)
    }

    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let length = (&mut self.input).take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut bytes)?;
        if length == 0 {
            return Ok(None);
        }
        let complete = bytes.last() == Some(&b'\n');
        if !complete && bytes.len() > LONGEST_LINE {
            self.skip_line()?;
            return Ok(Some(Line::Bad { text: String::new(), why: Why::TooLong }));
        }
        if complete {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if std::mem::take(&mut self.at_start) && bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..3);
        }
        Ok(Some(match String::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => Line::Bad { text, why: Why::Zero },
            Ok(text) if is_blank(&text) => Line::Bad { text, why: Why::Empty },
            Ok(text) => Line::Text(text),
            Err(error) => Line::Bad {
                text: String::from_utf8_lossy(error.as_bytes()).into_owned(),
                why: Why::NotUtf8(text_file::not_utf8(error.as_bytes())),
            },
        }))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            if let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                self.input.consume(end + 1);
                return Ok(());
            }
            let length = buffer.len();
            self.input.consume(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: impl AsRef<[u8]>) -> Vec<Line> {
        let mut reader = LineReader::new(BufReader::new(input.as_ref()));
        let mut lines = Vec::new();
        loop {
            match reader.batch().expect("readable") {
                batch if batch.is_empty() => return lines,
                batch => lines.extend(batch),
            }
        }
    }

    fn text(text: &str) -> Line {
        Line::Text(text.to_owned())
    }

    #[test]
    fn every_line_keeps_its_place() {
        let empty = Line::Bad { text: String::new(), why: Why::Empty };
        assert_eq!(lines("\u{feff}one\r\n\ntwo\n"), [text("one"), empty.clone(), text("two")]);
        assert_eq!(lines("no end"), [text("no end")]);
        assert_eq!(lines(""), []);
        assert_eq!(lines("\n"), [empty]);
        let blank = " \u{200b}\u{a0}".to_owned();
        assert_eq!(lines(&blank), [Line::Bad { text: blank.clone(), why: Why::Empty }]);
    }

    #[test]
    fn what_is_no_text_is_bad_and_the_rest_goes_on() {
        let found = lines(b"a\n\xff\xfe\nb\n");
        assert_eq!(found[0], text("a"));
        assert!(matches!(&found[1], Line::Bad { why: Why::NotUtf8(_), .. }));
        assert_eq!(found[2], text("b"));
        assert!(matches!(&lines("a\0b\n")[..], [Line::Bad { why: Why::Zero, .. }]));
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let input = format!("{}\nshort\n", "x".repeat(3 << 20));
        assert_eq!(lines(input), [Line::Bad { text: String::new(), why: Why::TooLong }, text("short")]);
    }

    /// What a file of these bytes is read as, and its lines.
    async fn file(bytes: &[u8], named: Option<&str>) -> Result<(Option<Encoding>, Vec<Line>), Error> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        let named = named.map(|name| Encoding::named(name).expect("an encoding"));
        let (mut batches, encoding) = read(file.path(), named).await?;
        let mut lines = Vec::new();
        while let Some(batch) = batches.recv().await {
            lines.extend(batch?);
        }
        Ok((encoding, lines))
    }

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[tokio::test]
    async fn utf16_is_recognised_with_and_without_a_mark_and_told() {
        for mark in ["", "\u{feff}"] {
            let (encoding, lines) =
                file(&utf16(&format!("{mark}gut\r\nschön\r\n")), None).await.expect("read");
            assert_eq!(encoding.map(Encoding::name), Some("UTF-16LE"));
            assert_eq!(lines, [text("gut"), text("schön")]);
        }
    }

    #[tokio::test]
    async fn an_encoding_that_is_named_is_used_and_a_guess_is_made_where_none_is() {
        let bytes = b"it\x92s good\ncaf\xe9\n";
        let (encoding, lines) = file(bytes, Some("windows-1252")).await.expect("read");
        assert_eq!((encoding, lines), (None, vec![text("it’s good"), text("café")]));
        let (_, lines) = file(bytes, None).await.expect("read");
        let Some(Line::Bad { why, .. }) = lines.first() else { panic!("{lines:?}") };
        assert!(why.hint().is_some_and(|hint| hint.contains("--encoding windows-1252")), "{why:?}");
    }

    #[tokio::test]
    async fn bytes_that_the_encoding_does_not_have_are_an_error_with_their_line() {
        let error = file(&[utf16("the first\nthe second\n"), vec![0, 0xd8, b'c', 0]].concat(), None)
            .await
            .expect_err("refused");
        assert_eq!(error.message(), "line 3 of the input: there are bytes that UTF-16LE does not have");
    }

    #[tokio::test]
    async fn what_is_no_text_is_refused_by_what_it_is() {
        for (bytes, words) in [(&b"PAR1\x15"[..], "Parquet"), (b"\x1f\x8b\x08", "packed with gzip")] {
            let error = file(bytes, None).await.expect_err("refused");
            assert_eq!(error.kind(), crate::error::Kind::Usage);
            assert!(error.message().contains(words), "{error}");
        }
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut reader =
            LineReader::new(BufReader::with_capacity(1 << 20, "a\n".repeat(1000).leak().as_bytes()));
        assert_eq!(reader.batch().expect("readable").len(), BATCH_LINES);
    }
}
