//! A stream of JSON objects in one list, cut into objects without reading the list into memory.

use std::io::BufRead;

use hone::text_file::not_utf8;

use super::lines::{MAX_ROW_BYTES, zero_byte};
use super::source::Source;
use hone_base::error::{Error, Result};

/// How the objects of a JSON file stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One object a line.
    Lines,
    /// `[{…}, …]`
    List,
    /// `{"data": [{…}, …]}`
    Wrapped,
    /// One object after the other, over several lines.
    Sequence,
}

impl Shape {
    /// As the head of a file tells, which begins with `{` or `[`.
    pub(super) fn of(head: &str, is_whole: bool) -> Self {
        let text = head.trim_start();
        if text.starts_with('[') {
            return Self::List;
        }
        let mut scanner = Scanner::default();
        let (mut list_of_objects, mut before) = (false, b' ');
        for (at, byte) in text.bytes().enumerate() {
            let depth = scanner.depth;
            scanner.step(byte);
            if depth == 2 && byte == b'{' && before == b'[' && scanner.depth == 3 {
                list_of_objects = true;
            }
            if !byte.is_ascii_whitespace() {
                before = byte;
            }
            if scanner.depth == 0 {
                let object = text.get(..=at).unwrap_or_default();
                let is_alone = is_whole && text.get(at + 1..).unwrap_or_default().trim().is_empty();
                return match (is_alone && list_of_objects, object.contains('\n')) {
                    (true, _) => Self::Wrapped,
                    (false, true) => Self::Sequence,
                    (false, false) => Self::Lines,
                };
            }
        }
        match (list_of_objects, is_whole, text.contains('\n')) {
            (true, false, _) => Self::Wrapped,
            // A row of JSON Lines whose object is not closed is told by its line.
            (_, true, _) | (_, _, false) => Self::Lines,
            _ => Self::Sequence,
        }
    }
}

/// Where in nested braces and brackets a text stands.
#[derive(Clone, Copy, Default)]
struct Scanner {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Scanner {
    fn step(&mut self, byte: u8) {
        match (self.in_string, byte) {
            (true, _) if self.is_escaped => self.is_escaped = false,
            (true, b'\\') => self.is_escaped = true,
            (true, b'"') => self.in_string = false,
            (true, _) => {}
            (false, b'"') => self.in_string = true,
            (false, b'{' | b'[') => self.depth += 1,
            (false, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
            (false, _) => {}
        }
    }
}

pub(super) struct JsonList {
    source: Source,
    shape: Shape,
    object: String,
    bytes: Vec<u8>,
    /// Of the next byte.
    here: u64,
    /// The line that `object` starts in.
    object_line: u64,
    has_begun: bool,
    has_ended: bool,
}

impl JsonList {
    /// At the start of a file.
    pub(super) fn open(source: Source) -> Result<Self> {
        let shape = Shape::of(&source.head, source.head_is_whole);
        Ok(Self {
            source,
            shape,
            object: String::new(),
            bytes: Vec::new(),
            here: 1,
            object_line: 1,
            has_begun: false,
            has_ended: false,
        })
    }

    /// The name that messages use.
    pub(super) fn name(&self) -> &str {
        &self.source.name
    }

    /// The line that the object starts in, from 1.
    pub(super) fn line(&self) -> u64 {
        self.object_line
    }

    /// The object's text.
    pub(super) fn object(&self) -> &str {
        &self.object
    }

    /// Goes to the next object; false at the end of the list.
    pub(super) fn advance(&mut self) -> Result<bool> {
        if self.has_ended {
            return Ok(false);
        }
        if !std::mem::replace(&mut self.has_begun, true) && !self.begin()? {
            return self.end();
        }
        let mut after_comma = self.object.is_empty();
        loop {
            match self.next()? {
                None if self.shape == Shape::Sequence => return self.end(),
                None => return Err(self.incomplete()),
                Some(byte) if byte.is_ascii_whitespace() => {}
                Some(b',') if !after_comma && self.shape != Shape::Sequence => after_comma = true,
                Some(b']') if self.shape != Shape::Sequence => {
                    if self.shape == Shape::Wrapped {
                        self.refuse_second_list()?;
                    }
                    return self.end();
                }
                Some(b'{') if after_comma || self.shape == Shape::Sequence => return self.take_object(),
                Some(byte) => return Err(self.unexpected(byte)),
            }
        }
    }

    fn end(&mut self) -> Result<bool> {
        self.has_ended = true;
        Ok(false)
    }

    /// Goes to just behind the bracket that opens the list.
    fn begin(&mut self) -> Result<bool> {
        match self.shape {
            Shape::Lines | Shape::Sequence => Ok(true),
            Shape::List => {
                while self.next()?.is_some_and(|byte| byte != b'[') {}
                Ok(true)
            }
            Shape::Wrapped => self.find_list(),
        }
    }

    /// Goes to just behind the bracket of the next list of objects in the object around it; false at its end.
    fn find_list(&mut self) -> Result<bool> {
        let mut scanner = Scanner { depth: usize::from(self.bytes_behind_list()), ..Scanner::default() };
        let mut before = b' ';
        loop {
            let Some(byte) = self.peek()? else { return Err(self.incomplete()) };
            if scanner.depth == 2 && before == b'[' && byte == b'{' {
                return Ok(true);
            }
            self.next()?;
            scanner.step(byte);
            if !byte.is_ascii_whitespace() {
                before = byte;
            }
            if scanner.depth == 0 && byte == b'}' {
                return Ok(false);
            }
        }
    }

    /// Whether the list was found, so that the object around it is open.
    fn bytes_behind_list(&self) -> bool {
        !self.object.is_empty()
    }

    fn refuse_second_list(&mut self) -> Result<()> {
        if self.object.is_empty() || !self.find_list()? {
            return Ok(());
        }
        Err(self.source.invalid(
            self.here,
            "the file has two lists of rows; write each into a file of its own (`jq -c '.train[]' FILE > train.jsonl`)",
        ))
    }

    fn take_object(&mut self) -> Result<bool> {
        self.object_line = self.here;
        self.bytes.clear();
        self.bytes.push(b'{');
        let mut scanner = Scanner { depth: 1, ..Scanner::default() };
        while scanner.depth > 0 {
            let Some(byte) = self.next()? else { return Err(self.incomplete()) };
            if byte == 0 {
                return Err(self.source.invalid(self.here, zero_byte(self.bytes.len())));
            }
            scanner.step(byte);
            self.bytes.push(byte);
            if self.bytes.len() > MAX_ROW_BYTES {
                let message = format!(
                    "a row has more than {} MiB; is a quote or brace not closed?",
                    MAX_ROW_BYTES >> 20
                );
                return Err(self.source.invalid(self.object_line, message));
            }
        }
        match std::str::from_utf8(&self.bytes) {
            Ok(object) => {
                self.object.clear();
                self.object.push_str(object);
                Ok(true)
            }
            Err(error) => {
                let before = self.bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = self.object_line + before.iter().filter(|&&byte| byte == b'\n').count() as u64;
                Err(self.source.invalid(line, format!("not UTF-8; {}", not_utf8(&self.bytes))))
            }
        }
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        let buffer = self.source.input.fill_buf();
        match buffer.map(|buffer| buffer.first().copied()) {
            Ok(byte) => Ok(byte),
            Err(error) => Err(self.source.unreadable(self.here, &error)),
        }
    }

    fn next(&mut self) -> Result<Option<u8>> {
        let byte = self.peek()?;
        if let Some(byte) = byte {
            self.source.input.consume(1);
            self.here += u64::from(byte == b'\n');
        }
        Ok(byte)
    }

    fn incomplete(&self) -> Error {
        self.source.invalid(self.here, "the file ends inside the list of rows: it is not complete")
    }

    fn unexpected(&self, byte: u8) -> Error {
        let what = match byte {
            b'[' => "a list in the list of rows; each row must be an object with named columns, such as \
                     {\"text\": …, \"label\": …}"
                .to_owned(),
            b',' => "a comma without a row before it".to_owned(),
            b'{' => "a comma is missing between two rows".to_owned(),
            byte if byte.is_ascii_graphic() => {
                format!(
                    "\"{}\" where a row should begin; each row must be an object such as {{\"text\": …, \"label\": …}}",
                    char::from(byte)
                )
            }
            _ => "no JSON where a row should begin".to_owned(),
        };
        self.source.invalid(self.here, what)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::limits::Limits;
    use super::*;

    fn objects(text: &str) -> Result<Vec<(u64, String)>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut list = JsonList::open(Source::open(file.path(), "f.json", None, &Limits::default())?)?;
        let mut all = vec![];
        while list.advance()? {
            all.push((list.line(), list.object().to_owned()));
        }
        Ok(all)
    }

    #[test]
    fn the_shape_is_told_by_the_head() {
        for (head, is_whole, shape) in [
            ("{\"a\": 1}\n{\"a\": 2}\n", true, Shape::Lines),
            ("{\"a\": 1}", true, Shape::Lines),
            ("[{\"a\": 1}]", true, Shape::List),
            ("{\"v\": 1, \"data\": [ {\"a\": 1}]}", true, Shape::Wrapped),
            ("{\n \"data\": [\n  {\"a\": 1}", false, Shape::Wrapped),
            // A row with a list of objects is a row where another row follows.
            ("{\"t\": 1, \"spans\": [{\"a\": 1}]}\n{\"t\": 2}\n", true, Shape::Lines),
            ("{\n \"a\": 1\n}\n{\n \"a\": 2\n}\n", true, Shape::Sequence),
            ("{\"a\": \"[{\"}\n{\"a\": 1}", true, Shape::Lines),
            ("{\"a\": 1\n{\"a\": 2}\n", true, Shape::Lines),
        ] {
            assert_eq!(Shape::of(head, is_whole), shape, "{head}");
        }
    }

    #[test]
    fn objects_are_cut_where_braces_close_outside_of_strings() {
        let expected = [(2, "{\"a\": \"}]\\\"\"}"), (3, "{\"b\": {\"c\": [1]}}")];
        let expected = expected.map(|(line, text)| (line, text.to_owned()));
        assert_eq!(objects("[\n{\"a\": \"}]\\\"\"},\n{\"b\": {\"c\": [1]}}]\n").unwrap(), expected);
        let wrapped = "{\"n\": [1],\n\"rows\": [{\"a\": \"}]\\\"\"}\n,{\"b\": {\"c\": [1]}}], \"end\": [2]}";
        assert_eq!(objects(wrapped).unwrap(), expected);
        let sequence = "\n{\"a\":\n1}\n{\"a\":\n2}\n";
        assert_eq!(
            objects(sequence).unwrap(),
            [(2, "{\"a\":\n1}".to_owned()), (4, "{\"a\":\n2}".to_owned())]
        );
        assert_eq!(objects("[]").unwrap(), []);
    }

    #[test]
    fn what_is_no_list_of_objects_is_refused_with_its_line() {
        for (text, expected) in [
            ("[{\"a\": 1},\n", "f.json, line 2: the file ends inside the list"),
            ("[{\"a\": 1}\n{\"a\": 2}]", "line 2: a comma is missing"),
            ("[{\"a\": 1},,{}]", "a comma without a row"),
            ("[[\"a\", 1]]", "each row must be an object"),
            ("[1]", "\"1\" where a row should begin"),
            ("{\"train\": [{\"a\": 1}], \"test\": [{\"a\": 2}]}", "two lists of rows"),
        ] {
            let error = objects(text).unwrap_err();
            assert!(error.message().contains(expected), "{text}: {error}");
        }
    }
}
