//! What a caller may ask for besides the answer: how texts are cut, what counts as no label, who goes first.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::engine::Tokenize;
use hone_base::error::{Error, Kind, Result};
use hone_data::{Cut, Truncation};

/// When what was refused for want of room may be asked for again.
pub const RETRY: Duration = Duration::from_secs(1);

/// Why nothing is answered any more.
pub(super) fn going_down() -> Error {
    let why = "the daemon is going down; try again when it is back";
    Error::new(Kind::Unavailable, why).retry_after(RETRY)
}

/// Bytes of a request's id and of its routing key at most.
pub const MAX_KEY: usize = 256;

/// What a caller asks for; the default asks for nothing out of the ordinary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Tokens of a text at most, special tokens included; `None` stands for the model's.
    pub max_length: Option<NonZeroUsize>,
    /// What becomes of a longer text.
    pub side: Side,
    /// The score below which a text has no label.
    pub min_score: Option<MinScore>,
    /// The request fails when one of its inputs does.
    pub all_or_nothing: bool,
    /// Who goes first.
    pub priority: Priority,
    /// Requests with the same key are answered by the same version while two share an alias.
    pub routing_key: Option<Box<str>>,
    /// When the caller gives the request up.
    pub deadline: Option<Instant>,
}

/// What becomes of a text that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// It is cut as in training.
    #[default]
    AsModel,
    /// It is cut on the right: its beginning is kept.
    Right,
    /// It is cut on the left: its end is kept.
    Left,
    /// It is an error.
    Refuse,
}

/// A score below which a text has no label: from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MinScore(f32);

impl MinScore {
    /// Takes a number from 0 to 1.
    ///
    /// # Errors
    /// `Invalid` for any other number.
    pub fn new(score: f32) -> Result<Self> {
        match (0.0..=1.0).contains(&score) {
            true => Ok(Self(score)),
            false => Err(Error::invalid_field(
                "min_score",
                format!("`min_score` is {score}; it must be from 0 to 1"),
            )),
        }
    }

    /// The number.
    pub fn get(self) -> f32 {
        self.0
    }
}

/// Who goes first: the higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(i8);

impl Priority {
    /// All priorities.
    pub const RANGE: RangeInclusive<i64> = -100..=100;

    /// Takes a number of the range.
    ///
    /// # Errors
    /// `Invalid` for any other number.
    pub fn new(priority: i64) -> Result<Self> {
        match i8::try_from(priority) {
            Ok(number) if Self::RANGE.contains(&priority) => Ok(Self(number)),
            _ => Err(Error::invalid_field(
                "priority",
                format!(
                    "`priority` is {priority}; it must be from {} to {}",
                    Self::RANGE.start(),
                    Self::RANGE.end()
                ),
            )),
        }
    }

    /// The number.
    pub fn get(self) -> i8 {
        self.0
    }
}

/// How the texts of a request are cut by a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    cut: Cut,
    /// A text that would be cut is an error.
    refuses: bool,
}

impl Options {
    /// How the texts are cut by a model.
    ///
    /// # Errors
    /// `Invalid` when `max_length` is more than the model takes, or has no room for a text.
    pub(super) fn fit(&self, tokenizer: &dyn Tokenize) -> Result<Fit> {
        let own = tokenizer.cut();
        let max_length = self.max_length.map_or(own.max_length, NonZeroUsize::get);
        let special = tokenizer.special_tokens();
        if max_length > own.max_length || max_length <= special {
            let why = format!(
                "`max_length` is {max_length}; it must be from {} to {}, which is what this model takes",
                special + 1,
                own.max_length
            );
            return Err(Error::invalid_field("max_length", why));
        }
        let truncation = match self.side {
            Side::AsModel | Side::Refuse => own.truncation,
            Side::Right => Truncation::Head,
            Side::Left => Truncation::Tail,
        };
        Ok(Fit { cut: Cut { max_length, truncation }, refuses: self.side == Side::Refuse })
    }
}

impl Fit {
    /// How texts are cut.
    pub(super) fn cut(self) -> Cut {
        self.cut
    }

    /// Whether a text that would be cut is an error.
    pub(super) fn refuses(self) -> bool {
        self.refuses
    }

    /// The tokens of a text or pair.
    ///
    /// # Errors
    /// As [`Tokenize::encode`], and `Invalid` for a text that is too long and shall not be cut.
    pub(super) fn encode(
        self,
        tokenizer: &dyn Tokenize,
        text: &str,
        pair: Option<&str>,
    ) -> Result<hone_data::tokenize::Tokens> {
        let tokens = tokenizer.encode(text, pair, self.cut)?;
        if self.refuses && tokens.full_length > self.cut.max_length {
            return Err(Error::invalid(format!(
                "it has {} tokens, and at most {} are taken; shorten it, or have it cut",
                tokens.full_length, self.cut.max_length
            )));
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_are_errors_of_their_field() {
        for score in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
            assert_eq!(MinScore::new(score).unwrap_err().wrong_field(), Some("min_score"));
        }
        assert_eq!(MinScore::new(0.5).unwrap().get(), 0.5);
        for priority in [-101, 101, 128, 1 << 40] {
            assert_eq!(Priority::new(priority).unwrap_err().wrong_field(), Some("priority"));
        }
        assert!(
            Priority::new(100).unwrap() > Priority::default()
                && Priority::default() > Priority::new(-100).unwrap()
        );
    }
}
