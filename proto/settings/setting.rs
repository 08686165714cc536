//! What is said of a setting, and its value in a message.

use std::fmt;

use super::{Counts, MAX_TEXT, Message, Range, methods};
use crate::message::shown;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its field in [`v1::Hyperparameters`] or [`v1::Methods`]; messages and JSON use this name.
    pub field: &'static str,
    /// The client's flag, without the dashes.
    pub flag: &'static str,
    /// A second spelling of the flag; "" is none.
    pub alias: &'static str,
    /// What the help calls the value; "" for a switch.
    pub value: &'static str,
    /// What it does, as a sentence without its point.
    pub help: &'static str,
    /// What holds when it is not given: a value, or words where that depends on something else. "" goes without saying.
    pub default: &'static str,
    /// The publication that it comes from; "" is none.
    pub source: &'static str,
    /// What it may be, and where it stands in the message.
    pub kind: Kind,
    /// Of the settings with one name here, at most one is given; "" is a setting that stands alone.
    pub one_of: &'static str,
    title: &'static str,
    unit: &'static str,
    absent: &'static str,
}

/// What a setting may be, and where it stands in the message.
#[derive(Debug)]
pub enum Kind {
    /// A finite number.
    Number(Range, Place<f64>),
    /// A whole number of 32 bits.
    Count(Counts, Place<u32>),
    /// A whole number of 64 bits.
    Long(Counts, Place<u64>),
    /// On or off.
    Switch(Place<bool>),
    /// One word of a few: the numbers of an enum.
    Choice(&'static [Word], Place<i32>),
    /// 1 to [`MAX_TEXT`] bytes.
    Text(Place<String>),
}

/// Where a value stands in the message.
pub enum Place<T: 'static> {
    /// In a field of its own.
    Field(fn(&mut Message) -> &mut Option<T>),
    /// In one of several fields that exclude each other.
    OneOf {
        /// The value, if it is this field that is set.
        get: fn(&Message) -> Option<T>,
        /// Sets this field instead of the others.
        set: fn(&mut Message, T),
    },
}

/// A value of a choice.
#[derive(Debug)]
pub struct Word {
    /// As it is typed and shown.
    pub word: &'static str,
    /// Its number in the protocol.
    pub number: i32,
    /// What it means; "" where the word says it.
    pub help: &'static str,
}

/// A setting's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of [`Kind::Number`].
    Number(f64),
    /// Of [`Kind::Count`] and [`Kind::Long`].
    Whole(u64),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Choice`]: the number in the protocol.
    Choice(i32),
    /// Of [`Kind::Text`].
    Text(String),
}

/// A value that a setting cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub(super) field: &'static str,
    pub(super) why: String,
}

impl std::error::Error for Unfit {}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.field, self.why)
    }
}

impl Setting {
    pub(super) const fn new(
        field: &'static str,
        flag: &'static str,
        value: &'static str,
        kind: Kind,
    ) -> Self {
        Self {
            field,
            flag,
            alias: "",
            value,
            help: "",
            default: "",
            source: "",
            kind,
            one_of: "",
            title: "",
            unit: "",
            absent: "none",
        }
    }

    pub(super) const fn number(
        field: &'static str,
        flag: &'static str,
        value: &'static str,
        range: Range,
        at: fn(&mut Message) -> &mut Option<f64>,
    ) -> Self {
        Self::new(field, flag, value, Kind::Number(range, Place::Field(at)))
    }

    pub(super) const fn count(
        field: &'static str,
        flag: &'static str,
        value: &'static str,
        range: Counts,
        at: fn(&mut Message) -> &mut Option<u32>,
    ) -> Self {
        Self::new(field, flag, value, Kind::Count(range, Place::Field(at)))
    }

    pub(super) const fn switch(
        field: &'static str,
        flag: &'static str,
        at: fn(&mut Message) -> &mut Option<bool>,
    ) -> Self {
        Self::new(field, flag, "", Kind::Switch(Place::Field(at))).absent("off")
    }

    pub(super) const fn choice(
        field: &'static str,
        flag: &'static str,
        value: &'static str,
        words: &'static [Word],
        at: fn(&mut Message) -> &mut Option<i32>,
    ) -> Self {
        Self::new(field, flag, value, Kind::Choice(words, Place::Field(at)))
    }

    pub(super) const fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }

    pub(super) const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    pub(super) const fn source(self, source: &'static str) -> Self {
        Self { source, ..self }
    }

    pub(super) const fn alias(self, alias: &'static str) -> Self {
        Self { alias, ..self }
    }

    /// Its name in tables, where that is not the field's with spaces.
    pub(super) const fn titled(self, title: &'static str) -> Self {
        Self { title, ..self }
    }

    /// What its absence means, in tables. A value that says the same is no row.
    pub(super) const fn absent(self, absent: &'static str) -> Self {
        Self { absent, ..self }
    }

    pub(super) const fn one_of(self, one_of: &'static str, unit: &'static str) -> Self {
        Self { one_of, unit, ..self }
    }

    /// Its name in tables.
    pub fn title(&self) -> String {
        match self.title {
            "" => self.field.replace('_', " "),
            title => title.to_owned(),
        }
    }

    /// What stands behind its value in tables, after a space; "" is nothing.
    pub fn unit(&self) -> &'static str {
        self.unit
    }

    /// What its absence means, in tables.
    pub fn absent_word(&self) -> &'static str {
        self.absent
    }

    /// True for a field of [`v1::Methods`].
    pub fn is_method(&self) -> bool {
        methods::SETTINGS.iter().any(|method| method.field == self.field)
    }

    /// Its default as a value; none where the default is words.
    pub fn default_value(&self) -> Option<Value> {
        match &self.kind {
            Kind::Number(..) => self.default.parse().ok().map(Value::Number),
            Kind::Count(..) | Kind::Long(..) => self.default.parse().ok().map(Value::Whole),
            Kind::Switch(_) => Some(Value::Switch(false)),
            Kind::Choice(words, _) => {
                let word = words.iter().find(|word| word.word == self.default)?;
                Some(Value::Choice(word.number))
            }
            Kind::Text(_) => None,
        }
    }

    /// The word of a choice's number.
    pub fn word(&self, number: i32) -> Option<&'static str> {
        let Kind::Choice(words, _) = &self.kind else { return None };
        words.iter().find(|word| word.number == number).map(|word| word.word)
    }

    /// Its value in a message. The unspecified number of an enum is no value.
    pub(super) fn get(&self, message: &mut Message) -> Option<Value> {
        match &self.kind {
            Kind::Number(_, at) => at.get(message).map(Value::Number),
            Kind::Count(_, at) => at.get(message).map(u64::from).map(Value::Whole),
            Kind::Long(_, at) => at.get(message).map(Value::Whole),
            Kind::Switch(at) => at.get(message).map(Value::Switch),
            Kind::Choice(_, at) => at.get(message).filter(|&number| number != 0).map(Value::Choice),
            Kind::Text(at) => at.get(message).map(Value::Text),
        }
    }

    /// Puts a value into a message.
    ///
    /// # Errors
    /// When the setting cannot have this value; the message stays as it is.
    pub fn set(&self, message: &mut Message, value: Value) -> Result<(), Unfit> {
        self.check(&value)?;
        match (&self.kind, value) {
            (Kind::Number(_, at), Value::Number(value)) => at.set(message, value),
            (Kind::Count(_, at), Value::Whole(value)) => {
                at.set(message, u32::try_from(value).unwrap_or(u32::MAX))
            }
            (Kind::Long(_, at), Value::Whole(value)) => at.set(message, value),
            (Kind::Switch(at), Value::Switch(value)) => at.set(message, value),
            (Kind::Choice(_, at), Value::Choice(value)) => at.set(message, value),
            (Kind::Text(at), Value::Text(value)) => at.set(message, value),
            _ => {}
        }
        Ok(())
    }

    /// What it may be, in words that go on after "must be".
    pub fn range(&self) -> String {
        match &self.kind {
            Kind::Number(range, _) => format!("a number {range}"),
            Kind::Count(range, _) | Kind::Long(range, _) => format!("a whole number{range}"),
            Kind::Switch(_) => "true or false".to_owned(),
            Kind::Choice(words, _) => {
                format!("one of {}", words.iter().map(|word| word.word).collect::<Vec<_>>().join(", "))
            }
            Kind::Text(_) => format!("a text of 1 to {MAX_TEXT} bytes"),
        }
    }

    /// Whether it can have the value.
    ///
    /// # Errors
    /// When it cannot, with what it may be.
    pub fn check(&self, value: &Value) -> Result<(), Unfit> {
        let unfit = |why: String| Err(Unfit { field: self.field, why });
        let outside = |got: String| unfit(format!("must be {}; got {got}", self.range()));
        match (&self.kind, value) {
            (Kind::Number(range, _), Value::Number(value)) if !range.holds(*value) => {
                outside(value.to_string())
            }
            (Kind::Count(range, _) | Kind::Long(range, _), Value::Whole(value)) if !range.holds(*value) => {
                outside(value.to_string())
            }
            (Kind::Choice(..), Value::Choice(number)) if self.word(*number).is_none() => {
                unfit(format!("has the unknown value {number}; the client may be too new"))
            }
            (Kind::Text(_), Value::Text(text))
                if text.is_empty() || text.len() > MAX_TEXT || text.contains('\0') =>
            {
                outside(shown(text))
            }
            (Kind::Number(..), Value::Number(_))
            | (Kind::Count(..) | Kind::Long(..), Value::Whole(_))
            | (Kind::Switch(_), Value::Switch(_))
            | (Kind::Choice(..), Value::Choice(_))
            | (Kind::Text(_), Value::Text(_)) => Ok(()),
            _ => outside("a value of another kind".to_owned()),
        }
    }
}

impl<T: Clone> Place<T> {
    fn get(&self, message: &mut Message) -> Option<T> {
        match self {
            Self::Field(at) => at(message).clone(),
            Self::OneOf { get, .. } => get(message),
        }
    }

    fn set(&self, message: &mut Message, value: T) {
        match self {
            Self::Field(at) => *at(message) = Some(value),
            Self::OneOf { set, .. } => set(message, value),
        }
    }
}

impl<T> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Field(_) => "Field",
            Self::OneOf { .. } => "OneOf",
        })
    }
}
