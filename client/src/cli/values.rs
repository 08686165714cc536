//! Parsers of single values. Each refuses what cannot be meant, in words about the value.

use std::time::Duration;

use hone::text_file::Encoding;

/// A finite number.
pub(super) fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(value) if value.is_infinite() => Err("must be finite".to_owned()),
        _ => Err(match text.replacen(',', ".", 1).trim().parse::<f64>() {
            Ok(value) if value.is_finite() && text.contains(',') => {
                format!("not a number; the decimal point is a point: {}", text.trim().replacen(',', ".", 1))
            }
            _ => "not a number".to_owned(),
        }),
    }
}

fn number_that(text: &str, holds: impl Fn(f64) -> bool, words: &str) -> Result<f64, String> {
    let value = number(text)?;
    if holds(value) { Ok(value) } else { Err(format!("must be {words}")) }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    number_that(text, |value| value > 0.0, "greater than 0")
}

/// A share that must leave something on both sides: a split.
pub(super) fn split(text: &str) -> Result<f64, String> {
    number_that(text, |value| value > 0.0 && value < 1.0, "between 0 and 1, for example 0.2")
}

/// A score.
pub(super) fn score(text: &str) -> Result<f32, String> {
    number_that(text, |value| (0.0..=1.0).contains(&value), "from 0 to 1").map(|value| value as f32)
}

/// A share of callers: 5%, or 0.05.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => number(percent)? / 100.0,
        None => number(text)?,
    };
    match (0.0..1.0).contains(&share) {
        true => Ok(share),
        false => {
            Err("must be from 0 to less than 100%, for example 5%; promote without it completes it"
                .to_owned())
        }
    }
}

pub(super) fn positive_u64(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if let Ok(value) = text.parse() {
        return if value >= 1 { Ok(value) } else { Err("must be at least 1".to_owned()) };
    }
    match text.strip_prefix('-').unwrap_or(text) {
        digits if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err("must be a whole number, in digits alone".to_owned())
        }
        digits if digits.len() < text.len() => Err("must be at least 1".to_owned()),
        _ => Err(format!("must be at most {}", u64::MAX)),
    }
}

/// The one character between fields.
pub(super) fn delimiter(text: &str) -> Result<char, String> {
    let mut chars = if text == "\\t" { "\t" } else { text }.chars();
    match (chars.next(), chars.next()) {
        (Some(delimiter), None) if !matches!(delimiter, '"' | '\n' | '\r') => Ok(delimiter),
        _ => Err("must be one character, and no quote; \\t is a tab".to_owned()),
    }
}

/// A time: seconds, which may have a fraction, or a number with a unit.
fn seconds(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let text = text.trim();
    let unit = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?.trim_end(), seconds)));
    let (digits, unit) = unit.unwrap_or((text, &1.0));
    // Words that the parser of numbers knows ("inf", "nan") are no times.
    if digits.contains(|c: char| c.is_alphabetic() && !matches!(c, 'e' | 'E')) {
        return Err("not a time; write seconds, for example 0.5, or a unit: 500ms, 2s, 1m, 1h".to_owned());
    }
    let value = number(digits).map_err(|why| match why.as_str() {
        "not a number" => {
            "not a time; write seconds, for example 0.5, or a unit: 500ms, 2s, 1m, 1h".to_owned()
        }
        _ => why,
    })?;
    Ok(value * unit)
}

/// A time of at most some years, which every clock can add.
fn duration_that(text: &str, holds: impl Fn(f64) -> bool, words: &str) -> Result<Duration, String> {
    let value = seconds(text)?;
    if !holds(value) {
        return Err(format!("must be {words}"));
    }
    if value > LONGEST {
        return Err("must be at most 10 years".to_owned());
    }
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

/// Ten years in seconds.
const LONGEST: f64 = 10.0 * 365.0 * 86_400.0;

/// How long an answer is waited for: a millisecond at least.
pub(super) fn patience(text: &str) -> Result<Duration, String> {
    duration_that(text, |value| value >= 1e-3, "at least 1 ms")
}

/// Zero is a value here: do not try again.
pub(super) fn period(text: &str) -> Result<Duration, String> {
    duration_that(text, |value| value >= 0.0, "0 or greater")
}

/// An encoding by its name.
pub(super) fn encoding(text: &str) -> Result<Encoding, String> {
    Encoding::named(text.trim()).ok_or_else(|| {
        "not the name of an encoding; there are utf-8, utf-16le, utf-16be, windows-1252, latin1, windows-1251, gbk, \
         shift_jis, euc-kr and the others of the WHATWG's list"
            .to_owned()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_has_a_unit() {
        for (text, millis) in [
            ("0.5", 500),
            ("60", 60_000),
            ("500ms", 500),
            ("2s", 2000),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
            (" 2 s ", 2000),
        ] {
            assert_eq!(patience(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, words) in [
            ("0", "at least 1 ms"),
            ("-1", "at least 1 ms"),
            ("soon", "not a time"),
            ("1d", "not a time"),
            ("inf", "not a time"),
            ("nan", "not a time"),
            ("", "not a time"),
            ("ms", "not a time"),
            ("0,5", "the decimal point is a point: 0.5"),
            ("1e300", "at most 10 years"),
            ("1e999", "must be finite"),
        ] {
            let error = patience(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(period("0"), Ok(Duration::ZERO));
    }
}
