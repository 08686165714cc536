//! Dropout whose mask is a function of the position in training, and is never stored.

use rayon::prelude::*;

use super::buffer::with_scratch;
#[cfg(target_arch = "x86_64")]
use super::isa::Set;
use super::isa::vectorised;
use super::{Compute, Isa};
use hone_base::random::Stream;

/// Values that one task takes.
const PIECE: usize = 1 << 13;

/// Factors that one group of random blocks gives.
const GROUP: usize = 128;

/// Random blocks of a group.
const LANES: usize = 16;

/// A dropout at one place of the model at one position in training.
///
/// A factor takes half a random word: that of index `i` is half `i % 2` of word `i / 32 % 4` of the random block
/// `i / 128 * 16 + i % 32 / 2`, so that sixteen blocks drawn side by side give 128 factors in order. The probability is
/// rounded to a multiple of 2^-16, and the scale is that of the rounded one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    threshold: u16,
    scale: f32,
    stream: Stream,
}

impl Dropout {
    /// Drops each value with `probability`, at least 0 and less than 1, and scales the others by
    /// `1 / (1 - probability)`. `None` when nothing would be dropped.
    pub fn new(probability: f64, stream: Stream) -> Option<Self> {
        let steps = f64::from(1 << 16);
        let threshold = (probability * steps).round().min(steps - 1.0);
        let scale = (1.0 / (1.0 - threshold / steps)) as f32;
        (threshold > 0.0).then_some(Self { threshold: threshold as u16, scale, stream })
    }

    /// Indices that the probabilities of a head of so many tokens take: as if every token were a query, rounded up to
    /// where factors are drawn fastest.
    pub fn of_head(tokens: usize) -> u64 {
        (tokens * tokens).next_multiple_of(GROUP) as u64
    }

    /// The random numbers, the threshold below which a half word drops its value, and the scale of the others.
    pub(super) fn parts(&self) -> (Stream, u16, f32) {
        (self.stream, self.threshold, self.scale)
    }

    /// What the value at `index` is multiplied by.
    pub fn factor(&self, index: u64) -> f32 {
        let (group, place) = (index / GROUP as u64, (index % GROUP as u64) as usize);
        let block = group * LANES as u64 + (place % 32 / 2) as u64;
        let word = self.stream.block(block as u32)[place / 32];
        self.keep((word >> (16 * (place % 2))) as u16)
    }

    #[inline(always)]
    fn keep(&self, half: u16) -> f32 {
        if half < self.threshold { 0.0 } else { self.scale }
    }

    /// Writes the factors of the values from index `start` on.
    pub fn factors(&self, isa: Isa, start: u64, out: &mut [f32]) {
        let offset = (start % GROUP as u64) as usize;
        let mut group = start / GROUP as u64;
        let mut out = out;
        if offset > 0 {
            let count = out.len().min(GROUP - offset);
            let mut factors = [0f32; GROUP];
            self.groups(isa, group, &mut factors);
            let (head, rest) = out.split_at_mut(count);
            head.copy_from_slice(&factors[offset..][..count]);
            (out, group) = (rest, group + 1);
        }
        let whole = out.len() / GROUP * GROUP;
        let (middle, tail) = out.split_at_mut(whole);
        self.groups(isa, group, middle);
        if !tail.is_empty() {
            let mut factors = [0f32; GROUP];
            self.groups(isa, group + (whole / GROUP) as u64, &mut factors);
            tail.copy_from_slice(&factors[..tail.len()]);
        }
    }

    /// Multiplies all values by their factors, on all threads of the current pool.
    pub fn apply(&self, compute: Compute, values: &mut [f32]) {
        values.par_chunks_mut(PIECE).enumerate().for_each(|(piece, values)| {
            with_scratch(|[factors]| {
                let factors = factors.reserve(values.len());
                self.factors(compute.isa(), (piece * PIECE) as u64, factors);
                multiply(compute.isa(), values, factors);
            });
        });
    }

    /// Whole groups.
    fn groups(&self, isa: Isa, first: u64, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if isa.set() >= Set::Avx512 {
            // SAFETY: there is no `Isa` of a set that the processor lacks.
            unsafe { self.groups_avx512(first, out) };
            return;
        }
        groups(isa, *self, first, out);
    }

    /// The same, sixteen blocks at once in registers: what the compiler makes of 64-bit products is several times
    /// slower.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn groups_avx512(&self, first: u64, out: &mut [f32]) {
        use std::arch::x86_64::*;
        let all = |word: u32| _mm512_set1_epi32(word as i32);
        let (site, [low, high]) = (all(self.stream.site()), self.stream.position().map(all));
        let key = self.stream.key();
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let (threshold, scale) = (_mm512_set1_epi16(self.threshold as i16), _mm512_set1_ps(self.scale));
        let multipliers = [all(0xD251_1F53), all(0xCD9E_8D57)];
        // The low and the high words of sixteen products.
        let product = |a: __m512i, b: __m512i| {
            let even = _mm512_mul_epu32(a, b);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), b);
            let low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd));
            let high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<32>(even), odd);
            (low, high)
        };
        for (group, out) in (first..).zip(out.chunks_exact_mut(GROUP)) {
            let block = _mm512_add_epi32(all((group as u32).wrapping_mul(LANES as u32)), lanes);
            let mut counter = [block, site, low, high];
            let mut key = key;
            for _ in 0..10 {
                let (low0, high0) = product(counter[0], multipliers[0]);
                let (low1, high1) = product(counter[2], multipliers[1]);
                let mix = |high, word, key: u32| _mm512_xor_si512(_mm512_xor_si512(high, word), all(key));
                counter = [mix(high1, counter[1], key[0]), low1, mix(high0, counter[3], key[1]), low0];
                key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
            }
            for (words, out) in counter.into_iter().zip(out.chunks_exact_mut(2 * LANES)) {
                let kept = _mm512_cmpge_epu16_mask(words, threshold);
                // SAFETY: a chunk of `out` has 32 values.
                unsafe {
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_maskz_mov_ps(kept as u16, scale));
                    let high = _mm512_maskz_mov_ps((kept >> LANES) as u16, scale);
                    _mm512_storeu_ps(out.as_mut_ptr().add(LANES), high);
                }
            }
        }
    }
}

vectorised! {
    fn groups<FMA>(dropout: Dropout, first: u64, out: &mut [f32]) {
        let _ = FMA;
        for (group, out) in (first..).zip(out.chunks_exact_mut(GROUP)) {
            for (lane, block) in (group as u32 * LANES as u32..).take(LANES).enumerate() {
                for (word, value) in dropout.stream.block(block).into_iter().enumerate() {
                    let place = word * 2 * LANES + 2 * lane;
                    out[place] = dropout.keep(value as u16);
                    out[place + 1] = dropout.keep((value >> 16) as u16);
                }
            }
        }
    }
}

vectorised! {
    /// `x *= factors`.
    pub(super) fn multiply<FMA>(x: &mut [f32], factors: &[f32]) {
        let _ = FMA;
        x.iter_mut().zip(factors).for_each(|(x, f)| *x *= f);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::isas;
    use hone_base::random::Purpose;

    fn at(probability: f64, site: u32) -> Option<Dropout> {
        Dropout::new(probability, Stream::new(5, Purpose::Dropout, 3, site))
    }

    fn factors(isa: Isa, dropout: Dropout, start: u64, count: usize) -> Vec<f32> {
        let mut factors = vec![f32::NAN; count];
        dropout.factors(isa, start, &mut factors);
        factors
    }

    #[test]
    fn drops_the_given_share_and_keeps_the_mean() {
        let values = factors(Isa::PORTABLE, at(0.3, 1).expect("a dropout"), 0, 100_000);
        let dropped = values.iter().filter(|x| **x == 0.0).count() as f64 / 100_000.0;
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / 100_000.0;
        assert!((dropped - 0.3).abs() < 0.01, "{dropped}");
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_mask_depends_neither_on_how_it_is_cut_nor_on_the_instruction_set() {
        let dropout = at(0.5, 9).expect("a dropout");
        let each: Vec<f32> = (0..403).map(|index| dropout.factor(index)).collect();
        for isa in isas() {
            for start in (0..70).chain([127, 128, 129, 400]) {
                for count in [403 - start, 1.min(403 - start), 65.min(403 - start)] {
                    let part = factors(isa, dropout, start as u64, count);
                    assert_eq!(part, each[start..start + count], "{isa:?} from {start}");
                }
            }
        }
    }

    #[test]
    fn two_sites_have_different_masks_and_zero_drops_nothing() {
        let masked = |dropout: Dropout| factors(Isa::PORTABLE, dropout, 0, 256);
        assert_ne!(at(0.5, 1).map(masked), at(0.5, 2).map(masked));
        assert_eq!(at(0.0, 1), None);
    }
}
