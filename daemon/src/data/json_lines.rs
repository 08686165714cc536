//! One JSON object a line.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::lines::Lines;
use super::row::{Cell, Rows};
use crate::error::{Error, Result};

pub(super) struct JsonLines {
    lines: Lines,
    columns: Vec<String>,
    raw: String,
    cells: Vec<Cell<'static>>,
    /// The first object was read to learn the columns, and is a row too.
    first_is_pending: bool,
}

impl JsonLines {
    /// Takes the columns from the first object, whose line was read already.
    pub(super) fn open(lines: Lines, first: String) -> Result<Self> {
        if first.trim_start().starts_with('[') {
            return Err(lines.invalid(
                lines.number(),
                "a JSON array; JSON Lines has one object a line (`jq -c '.[]'` turns one into the other)",
            ));
        }
        let mut rows = Self { lines, columns: vec![], raw: first, cells: vec![], first_is_pending: true };
        let mut keys = Keys::default();
        rows.parse(&mut keys)?;
        rows.columns = keys.0;
        rows.fill()?;
        Ok(rows)
    }

    fn parse<'a, S: DeserializeSeed<'a>>(&'a self, seed: S) -> Result<S::Value> {
        let mut parser = serde_json::Deserializer::from_str(&self.raw);
        let parsed = seed.deserialize(&mut parser);
        parsed.and_then(|value| parser.end().map(|()| value)).map_err(|error| self.broken(&error))
    }

    fn fill(&mut self) -> Result<()> {
        let mut cells = std::mem::take(&mut self.cells);
        cells.clear();
        cells.resize(self.columns.len(), Cell::Missing);
        let filled = self.parse(Row { columns: &self.columns, cells: &mut cells });
        self.cells = cells;
        filled
    }

    fn broken(&self, error: &serde_json::Error) -> Error {
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        let place = format!("{}, line {}, column {}", self.lines.name(), self.lines.number(), error.column());
        Error::invalid(format!("{place}: not a JSON object: {message}"))
    }
}

impl Rows for JsonLines {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn advance(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.first_is_pending) {
            return Ok(true);
        }
        loop {
            self.raw.clear();
            if !self.lines.read(&mut self.raw)? {
                return Ok(false);
            }
            if !self.raw.trim().is_empty() {
                break;
            }
        }
        self.fill()?;
        Ok(true)
    }

    fn line(&self) -> u64 {
        self.lines.number()
    }

    fn take(&mut self, column: usize) -> Cell<'_> {
        self.cells.get_mut(column).map_or(Cell::Missing, |cell| std::mem::replace(cell, Cell::Missing))
    }
}

/// The keys of an object, in their order.
#[derive(Default)]
struct Keys(Vec<String>);

impl<'de> DeserializeSeed<'de> for &mut Keys {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Keys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, IgnoredAny)) = map.next_entry::<String, _>()? {
            self.0.push(key);
        }
        Ok(())
    }
}

/// An object, put into one cell for each column; a key that is no column is passed over.
struct Row<'a> {
    columns: &'a [String],
    cells: &'a mut [Cell<'static>],
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let place = self.columns.iter().position(|column| *column == key);
            match place.and_then(|place| self.cells.get_mut(place)) {
                Some(cell @ Cell::Missing) => *cell = map.next_value::<Value>()?.0,
                Some(cell) => {
                    map.next_value::<IgnoredAny>()?;
                    *cell = Cell::Other("given twice");
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A value as a cell.
struct Value(Cell<'static>);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Self)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Cell<'static>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Owned(text)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Cell::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Cell::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Cell::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Cell::Other("a number with a fraction"))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Cell::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut labels = Some(Vec::new());
        while let Some(Value(item)) = items.next_element()? {
            match (item, &mut labels) {
                (Cell::Text(text), Some(labels)) => labels.push(text.into_owned()),
                (Cell::Plain(text), Some(labels)) => labels.push(text),
                _ => labels = None,
            }
        }
        Ok(labels.map_or(Cell::Other("a list of other things than strings and integers"), Cell::List))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Other("an object"))
    }
}
