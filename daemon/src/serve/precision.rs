//! What a model answers in: what is asked for, in which order it is tried, and what it costs.

use hone_storage::ServePrecision;

/// What the factors of a served model's matrix products are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 8-bit integers, with a scale for each channel of the weights and each token.
    Int8,
    /// bfloat16; sums are float32.
    Bf16,
    /// float32
    Fp32,
}

impl Precision {
    /// The name that flags, messages and the protocol use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::Fp32 => "fp32",
        }
    }
}

/// What a device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The fastest, integers left out.
    pub fastest: Precision,
    /// The most exact of those that it is worth using the device for.
    pub exact: Precision,
}

/// The precisions to try for what is asked for, one after the other: each is more exact than the one before, and the last
/// is float32. After int8 comes bfloat16 only where that is faster than float32. What is chosen by itself is the fastest for a
/// version that can be checked, and exact for another.
pub fn ladder(asked: ServePrecision, offer: Offer, is_checked: bool) -> Vec<Precision> {
    let first = match asked {
        ServePrecision::Auto if is_checked => offer.fastest,
        ServePrecision::Auto => offer.exact,
        ServePrecision::Fp32 => Precision::Fp32,
        ServePrecision::Bf16 => Precision::Bf16,
        ServePrecision::Int8 => Precision::Int8,
    };
    match first {
        Precision::Fp32 => vec![Precision::Fp32],
        Precision::Bf16 => vec![Precision::Bf16, Precision::Fp32],
        Precision::Int8 if offer.fastest == Precision::Bf16 => {
            vec![Precision::Int8, Precision::Bf16, Precision::Fp32]
        }
        Precision::Int8 => vec![Precision::Int8, Precision::Fp32],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_precision_is_followed_by_the_next_better_one_that_is_worth_it() {
        use Precision::{Bf16, Fp32, Int8};
        let fast = Offer { fastest: Bf16, exact: Fp32 };
        let slow = Offer { fastest: Fp32, exact: Fp32 };
        let ladder = |asked, offer| super::ladder(asked, offer, true);
        assert_eq!(ladder(ServePrecision::Int8, fast), [Int8, Bf16, Fp32]);
        assert_eq!(ladder(ServePrecision::Int8, slow), [Int8, Fp32]);
        assert_eq!(ladder(ServePrecision::Auto, fast), [Bf16, Fp32]);
        assert_eq!(ladder(ServePrecision::Auto, slow), [Fp32]);
        assert_eq!(ladder(ServePrecision::Bf16, slow), [Bf16, Fp32]);
        assert_eq!(ladder(ServePrecision::Fp32, fast), [Fp32]);
        assert_eq!(super::ladder(ServePrecision::Auto, fast, false), [Fp32]);
    }
}
