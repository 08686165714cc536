//! Parsers of single values. Each refuses what cannot be meant, in words about the value.

use std::fmt::Display;
use std::str::FromStr;

fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(value) if value.is_infinite() => Err("must be finite".to_owned()),
        _ => Err("not a number".to_owned()),
    }
}

fn number_that(text: &str, holds: impl Fn(f64) -> bool, words: &str) -> Result<f64, String> {
    let value = number(text)?;
    if holds(value) { Ok(value) } else { Err(format!("must be {words}")) }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    number_that(text, |value| value > 0.0, "greater than 0")
}

pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    number_that(text, |value| value >= 0.0, "0 or greater")
}

/// A share that may be everything: a warm-up ratio.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    number_that(text, |value| (0.0..=1.0).contains(&value), "from 0 to 1")
}

/// A share that must leave something on both sides: a split.
pub(super) fn split(text: &str) -> Result<f64, String> {
    number_that(text, |value| value > 0.0 && value < 1.0, "between 0 and 1, for example 0.2")
}

/// A share that must not be everything: dropout and the betas.
pub(super) fn below_one(text: &str) -> Result<f64, String> {
    number_that(text, |value| (0.0..1.0).contains(&value), "from 0 to less than 1")
}

/// A share that must be neither nothing nor everything: the decay of a moving average.
pub(super) fn inside_one(text: &str) -> Result<f64, String> {
    number_that(text, |value| value > 0.0 && value < 1.0, "greater than 0 and less than 1")
}

/// A share that must not be nothing: the decay from layer to layer.
pub(super) fn up_to_one(text: &str) -> Result<f64, String> {
    number_that(text, |value| value > 0.0 && value <= 1.0, "greater than 0 and at most 1")
}

fn whole<T: FromStr + Display + PartialOrd + From<u8>>(text: &str, max: T) -> Result<T, String> {
    let text = text.trim();
    if let Ok(value) = text.parse::<T>() {
        return if value >= T::from(1) { Ok(value) } else { Err("must be at least 1".to_owned()) };
    }
    match text.strip_prefix('-').unwrap_or(text) {
        digits if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err("must be a whole number".to_owned())
        }
        digits if digits.len() < text.len() => Err("must be at least 1".to_owned()),
        _ => Err(format!("must be at most {max}")),
    }
}

pub(super) fn positive_u32(text: &str) -> Result<u32, String> {
    whole(text, u32::MAX)
}

pub(super) fn positive_u64(text: &str) -> Result<u64, String> {
    whole(text, u64::MAX)
}

/// Zero is a value here: steps of warm-up, a seed.
pub(super) fn whole_u64(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| "must be a whole number, 0 or greater".to_owned())
}

/// Zero is a value here: layers that are frozen.
pub(super) fn whole_u32(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| "must be a whole number, 0 or greater".to_owned())
}

/// The name of an encoding, as the WHATWG lists them.
pub(super) fn encoding(text: &str) -> Result<String, String> {
    let known = hone::text_file::Encoding::named(text).ok_or_else(|| {
        format!("no encoding is called \"{text}\"; usual ones are utf-8, utf-16le, windows-1252, iso-8859-2, gbk, shift_jis")
    })?;
    Ok(known.name().to_owned())
}

/// The one character between fields.
pub(super) fn delimiter(text: &str) -> Result<char, String> {
    let mut chars = if text == "\\t" { "\t" } else { text }.chars();
    match (chars.next(), chars.next()) {
        (Some(delimiter), None) if !matches!(delimiter, '"' | '\n' | '\r') => Ok(delimiter),
        _ => Err("must be one character, and no quote; \\t is a tab".to_owned()),
    }
}

/// What stands between labels.
pub(super) fn separator(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// A model's name.
pub(super) fn model_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        return Err("must be 1 to 64 letters, digits, '-', '_' and '.'".to_owned());
    }
    Ok(text.to_owned())
}
