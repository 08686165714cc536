//! What a number may be.

use std::fmt;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::RangeBounds as _;

/// What a number with a fraction may be: its lower and its upper bound. It is finite in any case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range(pub Bound<f64>, pub Bound<f64>);

impl Range {
    /// A rate, a weight.
    pub const ABOVE_0: Self = Self(Excluded(0.0), Unbounded);
    /// A number that 0 switches off.
    pub const FROM_0: Self = Self(Included(0.0), Unbounded);
    /// A share.
    pub const FROM_0_TO_1: Self = Self(Included(0.0), Included(1.0));
    /// A share that is not everything.
    pub const FROM_0_BELOW_1: Self = Self(Included(0.0), Excluded(1.0));
    /// A share that is not nothing.
    pub const ABOVE_0_TO_1: Self = Self(Excluded(0.0), Included(1.0));
    /// A share that is neither nothing nor everything.
    pub const ABOVE_0_BELOW_1: Self = Self(Excluded(0.0), Excluded(1.0));

    /// Whether a number is finite and within the bounds.
    pub fn holds(self, number: f64) -> bool {
        number.is_finite() && (self.0, self.1).contains(&number)
    }
}

/// In words that go on after "a number".
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (Included(low), Included(high)) => write!(f, "from {low} to {high}"),
            (Included(low), Excluded(high)) => write!(f, "from {low} to less than {high}"),
            (Excluded(low), Included(high)) => write!(f, "greater than {low} and at most {high}"),
            (Excluded(low), Excluded(high)) => write!(f, "greater than {low} and less than {high}"),
            (Included(low), Unbounded) => write!(f, "of at least {low}"),
            (Excluded(low), Unbounded) => write!(f, "greater than {low}"),
            (Unbounded, Included(high)) => write!(f, "of at most {high}"),
            (Unbounded, Excluded(high)) => write!(f, "less than {high}"),
            (Unbounded, Unbounded) => Ok(()),
        }
    }
}

/// What a whole number may be: the least and, where there is one, the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The least.
    pub least: u64,
    /// The greatest.
    pub most: u64,
    /// Whether `most` is a rule, and not just what the field can hold.
    pub bounded: bool,
}

impl Counts {
    /// Any number of 32 bits, also 0.
    pub const ANY: Self = Self { least: 0, most: u32::MAX as u64, bounded: false };
    /// Any number of 64 bits, also 0.
    pub const ANY_LONG: Self = Self { least: 0, most: u64::MAX, bounded: false };

    /// From the least to the greatest.
    pub const fn between(least: u32, most: u32) -> Self {
        Self { least: least as u64, most: most as u64, bounded: true }
    }

    /// Whether a number is within the bounds.
    pub fn holds(self, number: u64) -> bool {
        (self.least..=self.most).contains(&number)
    }
}

/// In words that go on after "a whole number".
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bounded {
            true => write!(f, " from {} to {}", self.least, self.most),
            false => write!(f, ", {} or greater", self.least),
        }
    }
}
