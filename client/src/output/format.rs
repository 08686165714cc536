//! Numbers, times and names as people read them.

pub(crate) use hone::message::quoted;
use prost_types::Timestamp;

use crate::fields::with_flags;

/// 1234567 as "1,234,567".
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: "1 row", "2 rows".
pub(crate) fn plural(value: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(value), if value == 1 { one } else { many })
}

/// Bytes in the largest unit that keeps a digit before the point.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// Seconds as a clock in tqdm's manner: "00:07", "12:03", "1:02:03".
pub(crate) fn clock(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    let seconds = seconds as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}

/// Seconds in words: "4.2 s", "1m 50s", "2h 03m".
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    let whole = seconds.round() as u64;
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else if whole < 3600 {
        format!("{}m {:02}s", whole / 60, whole % 60)
    } else {
        format!("{}h {:02}m", whole / 3600, whole / 60 % 60)
    }
}

/// Steps a second, or seconds a step where that is the clearer number.
pub(crate) fn rate(steps_per_second: f64) -> String {
    if !steps_per_second.is_finite() || steps_per_second <= 0.0 {
        "? steps/s".to_owned()
    } else if steps_per_second < 1.0 {
        format!("{:.2} s/step", 1.0 / steps_per_second)
    } else if steps_per_second < 10.0 {
        format!("{steps_per_second:.2} steps/s")
    } else {
        format!("{steps_per_second:.0} steps/s")
    }
}

/// A metric with four decimals.
pub(crate) fn metric(value: f64) -> String {
    format!("{value:.4}")
}

/// A hyperparameter in the shortest form that means the same number: 2e-5, 0.9, 1e-8, 3.
pub(crate) fn number(value: f64) -> String {
    if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e7) {
        format!("{value:e}")
    } else {
        format!("{value}")
    }
}

/// A learning rate with two digits: it moves at every step.
pub(crate) fn learning_rate(value: f64) -> String {
    format!("{value:.1e}")
}

/// A share as a percentage; small shares keep a decimal.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0%".to_owned();
    }
    let share = part as f64 / whole as f64 * 100.0;
    if share > 0.0 && share < 1.0 { format!("{share:.1}%") } else { format!("{share:.0}%") }
}

/// A share of 1 in hundredths, without needless zeros: 5%, 12.5%.
pub(crate) fn share(share: f64) -> String {
    format!("{}%", (share * 1e4).round() / 1e2)
}

/// RFC 3339 in UTC, always to the millisecond so that the texts sort as the times do.
pub(crate) fn rfc3339(time: &Timestamp) -> String {
    let seconds = Timestamp { seconds: time.seconds, nanos: 0 }.to_string();
    let millis = time.nanos.clamp(0, 999_999_999) / 1_000_000;
    format!("{}.{millis:03}Z", seconds.trim_end_matches('Z'))
}

/// Date and minute in UTC, for tables.
pub(crate) fn minute(time: Option<&Timestamp>) -> String {
    let Some(time) = time else { return "-".to_owned() };
    let text = Timestamp { seconds: time.seconds, nanos: 0 }.to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

/// Seconds from one time to another.
pub(crate) fn seconds_between(from: &Timestamp, to: &Timestamp) -> f64 {
    (to.seconds - from.seconds) as f64 + f64::from(to.nanos - from.nanos) / 1e9
}

/// The beginning of a digest, which is all that people compare.
pub(crate) fn short_digest(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Text that stays on its line and sends nothing to the terminal but characters.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What the daemon says to people: on one line, and with flags instead of fields.
pub(crate) fn told(text: &str) -> String {
    one_line(&with_flags(text))
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(440_000_000), "419.6 MiB");
        assert_eq!(number(2e-5), "2e-5");
        assert_eq!(number(1e-8), "1e-8");
        assert_eq!(number(0.01), "0.01");
        assert_eq!(number(0.0), "0");
        assert_eq!(percent(1, 3), "33%");
        assert_eq!(percent(1, 400), "0.2%");
        assert_eq!(percent(0, 0), "0%");
    }

    #[test]
    fn times_read_as_a_clock_and_in_words() {
        assert_eq!(clock(7.9), "00:07");
        assert_eq!(clock(3723.0), "1:02:03");
        assert_eq!(clock(f64::INFINITY), "?");
        assert_eq!(duration(4.21), "4.2 s");
        assert_eq!(duration(110.0), "1m 50s");
        assert_eq!(duration(7380.0), "2h 03m");
        assert_eq!(rate(0.667), "1.50 s/step");
        assert_eq!(rate(8.5), "8.50 steps/s");
        assert_eq!(rate(0.0), "? steps/s");
    }

    #[test]
    fn times_of_day_are_utc() {
        let time = Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 };
        assert_eq!(rfc3339(&time), "2023-11-14T22:13:20.123Z");
        assert_eq!(minute(Some(&time)), "2023-11-14 22:13");
        assert_eq!(minute(None), "-");
    }

    #[test]
    fn nothing_but_characters_reaches_the_terminal() {
        assert_eq!(one_line("a\x1b[31mb\nc\td"), "a [31mb c d");
    }
}
