//! What reading a file may take, so that no file, however well it is packed, takes the daemon's memory.

use hone_base::error::{Error, Kind};

/// Bounds of one file, each counted while the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the file has when it is unpacked.
    pub unpacked: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of memory that what is kept of its rows takes.
    pub memory: u64,
}

impl Limits {
    /// Bytes of an unpacked file, where the operator says nothing.
    pub const UNPACKED: u64 = 8 << 30;

    /// Rows of a file, where the operator says nothing.
    pub const ROWS: u64 = 20_000_000;

    /// The same with so many bytes of memory.
    #[must_use]
    pub fn with_memory(self, memory: u64) -> Self {
        Self { memory, ..self }
    }

    /// The failure of a file that unpacks to more.
    pub(super) fn too_large(&self, name: &str, line: u64) -> Error {
        Error::new(
            Kind::Exhausted,
            format!(
                "{name}: the file unpacks to more than {}, the most that this daemon reads (--max-unpacked); that is \
                 reached in line {line}. Send a part of its rows",
                in_words(self.unpacked),
            ),
        )
    }

    /// The failure of a file with more rows.
    pub(super) fn too_many_rows(&self, name: &str, unpacked: u64) -> Error {
        Error::new(
            Kind::Exhausted,
            format!(
                "{name}: there are more than {} rows, the most that this daemon reads of a file (--max-rows); they come \
                 to {}. Send a part of them",
                self.rows,
                in_words(unpacked),
            ),
        )
    }

    /// The failure of a file whose rows do not fit into the memory that there is.
    pub(super) fn too_heavy(&self, name: &str, rows: u64, unpacked: u64) -> Error {
        Error::new(
            Kind::Exhausted,
            format!(
                "{name}: what is to be kept of its rows takes more memory than the {} that the daemon can give it now \
                 (--memory-limit); that is reached with {rows} rows, which come to {}. Take fewer rows, or try again when \
                 the daemon has less to do",
                in_words(self.memory),
                in_words(unpacked),
            ),
        )
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { unpacked: Self::UNPACKED, rows: Self::ROWS, memory: u64::MAX }
    }
}

/// A number of bytes for people: rounded to a unit, and exactly where that is short.
pub fn in_words(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} bytes");
    }
    let power = (bytes.ilog2() / 10).min(4);
    let unit = UNITS.get(power as usize - 1).copied().unwrap_or_default();
    let value = bytes as f64 / (1u64 << (10 * power)) as f64;
    match bytes.is_multiple_of(1 << (10 * power)) {
        true => format!("{value:.0} {unit}"),
        false => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        for (bytes, words) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1 << 10, "1 KiB"),
            (1536, "1.5 KiB"),
            (8 << 30, "8 GiB"),
            ((16.4 * (1u64 << 30) as f64) as u64, "16.4 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(in_words(bytes), words);
        }
    }
}
