//! Which of two versions answers a caller, where both share an alias. Pure.

use std::sync::atomic::{AtomicU64, Ordering};

use hone_base::digest;

/// Numbers for callers that have no key.
#[derive(Debug, Default)]
pub struct Callers(AtomicU64);

impl Callers {
    /// Whether the new version answers. With a key it is always the same one, and a larger share only adds callers.
    pub fn choose(&self, model: &str, alias: &str, version: u32, key: Option<&str>, share: f64) -> bool {
        match key.filter(|key| !key.is_empty()) {
            Some(key) => place(&format!("{model}@{alias} {version} {key}")) < share,
            None => spread(self.0.fetch_add(1, Ordering::Relaxed)) < share,
        }
    }
}

/// The place of a key from 0 to 1: the first 52 bits of its SHA-256. Other versions have other places, so that it is not
/// always the same callers who try what is new.
fn place(key: &str) -> f64 {
    let digest = digest::of_bytes(key.as_bytes());
    let first = digest.get(..13).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0);
    first as f64 / (1u64 << 52) as f64
}

/// The place of a number from 0 to 1, far from those of its neighbours: multiples of the golden ratio.
fn spread(number: u64) -> f64 {
    let turned = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (turned >> 12) as f64 / (1u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: usize = 20_000;

    fn chosen(share: f64) -> Vec<bool> {
        let callers = Callers::default();
        let choose = |key: usize| callers.choose("reviews", "live", 2, Some(&format!("user-{key}")), share);
        (0..KEYS).map(choose).collect()
    }

    #[test]
    fn the_share_of_the_keys_is_the_one_that_was_asked_for() {
        for share in [0.01, 0.05, 0.5, 0.99] {
            let part = chosen(share).into_iter().filter(|is_new| *is_new).count() as f64 / KEYS as f64;
            assert!((part - share).abs() < 0.01, "{part} instead of {share}");
        }
        assert!(!chosen(0.0).contains(&true));
    }

    #[test]
    fn a_key_stays_where_it_is_and_a_larger_share_never_moves_one_back() {
        let shares = [0.01, 0.05, 0.2, 0.8].map(chosen);
        assert_eq!(shares[1], chosen(0.05));
        for pair in shares.windows(2) {
            assert!(pair[0].iter().zip(&pair[1]).all(|(before, after)| !before || *after));
        }
    }

    #[test]
    fn other_versions_are_tried_by_other_keys() {
        let callers = Callers::default();
        let of = |version| -> Vec<bool> {
            (0..KEYS)
                .map(|key| callers.choose("reviews", "live", version, Some(&key.to_string()), 0.5))
                .collect()
        };
        let same = of(2).iter().zip(of(3)).filter(|(a, b)| **a == *b).count();
        assert!((same as f64 / KEYS as f64 - 0.5).abs() < 0.05, "{same}");
    }

    #[test]
    fn calls_without_a_key_are_shared_evenly_also_over_a_few() {
        let callers = Callers::default();
        for _ in 0..10 {
            let new = (0..100).filter(|_| callers.choose("reviews", "live", 2, None, 0.05)).count();
            assert!((4..=6).contains(&new), "{new}");
        }
        assert_eq!((0..100).filter(|_| callers.choose("reviews", "live", 2, Some(""), 0.0)).count(), 0);
    }
}
