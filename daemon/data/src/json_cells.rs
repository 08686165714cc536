//! A JSON object as the cells of a row. Objects inside are columns with dotted names.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::row::Cell;

/// Columns that objects may have.
const MAX_COLUMNS: usize = 4096;

/// Items of a list that are kept; no row has as many labels.
const MAX_ITEMS: usize = 100_000;

/// Puts an object's values into one cell for each column.
///
/// # Errors
/// Fails where the text is not one JSON object.
pub(super) fn fill(
    object: &str,
    columns: &mut Vec<String>,
    cells: &mut Vec<Cell<'static>>,
    may_add: bool,
) -> serde_json::Result<()> {
    cells.clear();
    cells.resize(columns.len(), Cell::Missing);
    let mut parser = serde_json::Deserializer::from_str(object);
    Row { columns, cells, may_add, prefix: "" }.deserialize(&mut parser)?;
    parser.end()
}

/// What is wrong with an object, in words for people.
pub(super) fn in_words(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    match message {
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            "half an emoji (an escape such as \\ud83d without its second half) stands in a string; remove it or replace \
             it with \\ufffd"
                .to_owned()
        }
        message => format!("not a JSON object: {message}"),
    }
}

/// An object whose keys become columns.
struct Row<'a> {
    columns: &'a mut Vec<String>,
    cells: &'a mut Vec<Cell<'static>>,
    /// A key that is no column yet becomes one; else it is passed over.
    may_add: bool,
    /// The dotted name of the object, with a dot behind it, or nothing.
    prefix: &'a str,
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
        let Self { columns, cells, may_add, prefix } = self;
        while let Some(Key(key)) = map.next_key()? {
            let name = if prefix.is_empty() { key } else { format!("{prefix}{key}").into() };
            map.next_value_seed(Value { name: &name, columns, cells, may_add })?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The value of a key: a cell, or the cells of an object.
struct Value<'a> {
    name: &'a str,
    columns: &'a mut Vec<String>,
    cells: &'a mut Vec<Cell<'static>>,
    may_add: bool,
}

impl Value<'_> {
    fn put<E: serde::de::Error>(self, value: Cell<'static>) -> Result<(), E> {
        let place = match self.columns.iter().position(|column| column == self.name) {
            Some(place) => place,
            None if !self.may_add => return Ok(()),
            None if self.columns.len() == MAX_COLUMNS => {
                return Err(E::custom(format!(
                    "the objects have more than {MAX_COLUMNS} different keys; each row needs the same few (in pandas: \
                                          to_json(FILE, orient=\"records\", lines=True))"
                )));
            }
            None => {
                self.columns.push(self.name.to_owned());
                self.cells.push(Cell::Missing);
                self.cells.len() - 1
            }
        };
        match self.cells.get_mut(place) {
            Some(cell @ Cell::Missing) => *cell = value,
            Some(cell) => *cell = Cell::Other("given twice"),
            None => {}
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let prefix = format!("{}.", self.name);
        Row { columns: self.columns, cells: self.cells, may_add: self.may_add, prefix: &prefix }
            .visit_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut list = Ok(Vec::new());
        while let Some(Item(item)) = items.next_element()? {
            let Ok(kept) = &mut list else { continue };
            match item {
                Some(_) if kept.len() == MAX_ITEMS => list = Err("a list of more than 100,000 items"),
                Some(item) => kept.push(item),
                None => list = Err("a list of other things than strings and numbers"),
            }
        }
        self.put(list.map_or_else(Cell::Other, Cell::List))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.put(Cell::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<(), E> {
        self.put(Cell::Text(Cow::Owned(text)))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.put(Cell::Plain(value.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.put(Cell::Plain(value.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.put(Cell::Plain(value.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.put(Cell::Plain(number(value)))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.put(Cell::Null)
    }
}

/// A number with a fraction as CSV would have it: `1.0` and not `1`.
fn number(value: f64) -> String {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string(), |number| number.to_string())
}

/// An item of a list, if it is a text, a number or a boolean.
struct Item(Option<String>);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor).map(Self)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(number(value)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(object: &str) -> (Vec<String>, Vec<Cell<'static>>) {
        let (mut columns, mut cells) = (vec![], vec![]);
        fill(object, &mut columns, &mut cells, true).unwrap();
        (columns, cells)
    }

    #[test]
    fn objects_inside_are_columns_with_dotted_names() {
        let (columns, cells) =
            row(r#"{"data": {"text": "a", "meta": {"id": 7}}, "label": 1.0, "x": null, "y": [1, true]}"#);
        assert_eq!(columns, ["data.text", "data.meta.id", "label", "x", "y"]);
        let plain = |text: &str| Cell::Plain(text.to_owned());
        let list = Cell::List(vec!["1".into(), "true".into()]);
        assert_eq!(cells, [Cell::Text("a".into()), plain("7"), plain("1.0"), Cell::Null, list]);
    }

    #[test]
    fn a_key_that_is_given_twice_and_one_that_comes_late_are_told_apart() {
        let (mut columns, mut cells) = (vec!["a".to_owned()], vec![]);
        fill(r#"{"a": 1, "a": 2, "b": 3}"#, &mut columns, &mut cells, false).unwrap();
        assert_eq!((columns.len(), &cells[..]), (1, &[Cell::Other("given twice")][..]));
    }

    #[test]
    fn half_an_emoji_is_told_in_words() {
        for text in [r#"{"a": "\ud83d"}"#, r#"{"a": "\ud83dx"}"#, r#"{"a": "\ude00"}"#] {
            let error = fill(text, &mut vec![], &mut vec![], true).unwrap_err();
            assert!(in_words(&error).contains("half an emoji"), "{error}");
        }
    }
}
