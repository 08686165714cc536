//! Texts from a file or a pipe, one a line, in batches, with bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use tokio::sync::mpsc;

use crate::error::Error;

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
    Bad { text: String, why: &'static str },
}

pub(crate) type Batches = mpsc::Receiver<Result<Vec<Line>, Error>>;

/// Reads a file, or standard input for "-", on a thread of its own that stays two batches ahead at most.
pub(crate) fn read(path: &Path) -> Result<Batches, Error> {
    let input: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let refuse = |why: &str| Error::usage(format!("--file {}: {why}", path.display()));
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refuse("there is no such file"),
            _ => refuse(&format!("the file cannot be opened: {error}")),
        })?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(refuse("this is a folder, not a file"));
        }
        Box::new(file)
    };
    let (send, receive) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut reader = LineReader::new(BufReader::with_capacity(BUFFER, input));
        loop {
            let batch = match reader.batch() {
                Ok(batch) if batch.is_empty() => return,
                Ok(batch) => Ok(batch),
                Err(error) => Err(Error::other(format!("the input cannot be read: {error}"))),
            };
            let failed = batch.is_err();
            if send.blocking_send(batch).is_err() || failed {
                return;
            }
        }
    });
    Ok(receive)
}

struct LineReader<R> {
    input: BufReader<R>,
    at_start: bool,
}

impl<R: Read> LineReader<R> {
    fn new(input: BufReader<R>) -> Self {
        Self { input, at_start: true }
    }

    /// The next lines; none at the end. Does not wait for more as long as it has one.
    fn batch(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        while let Some(line) = self.line()? {
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
            return Ok(Some(Line::Bad { text: String::new(), why: "the line is longer than 1 MiB" }));
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
            Ok(text) if text.trim().is_empty() => Line::Bad { text, why: "the line is empty" },
            Ok(text) => Line::Text(text),
            Err(error) => Line::Bad {
                text: String::from_utf8_lossy(error.as_bytes()).into_owned(),
                why: "the line is no UTF-8",
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
        let empty = Line::Bad { text: String::new(), why: "the line is empty" };
        assert_eq!(lines("\u{feff}one\r\n\ntwo\n"), [text("one"), empty.clone(), text("two")]);
        assert_eq!(lines("no end"), [text("no end")]);
        assert_eq!(lines(""), []);
        assert_eq!(lines("\n"), [empty]);
    }

    #[test]
    fn what_is_no_text_is_bad_and_the_rest_goes_on() {
        let found = lines(b"a\n\xff\xfe\nb\n");
        assert_eq!(found[0], text("a"));
        assert!(matches!(&found[1], Line::Bad { why: "the line is no UTF-8", .. }));
        assert_eq!(found[2], text("b"));
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let input = format!("{}\nshort\n", "x".repeat(3 << 20));
        assert_eq!(
            lines(input),
            [Line::Bad { text: String::new(), why: "the line is longer than 1 MiB" }, text("short")]
        );
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut reader =
            LineReader::new(BufReader::with_capacity(1 << 20, "a\n".repeat(1000).leak().as_bytes()));
        assert_eq!(reader.batch().expect("readable").len(), BATCH_LINES);
    }
}
