//! Randomness without state: every random number is a pure function of a seed, a purpose, a position and an index.
//!
//! The generator is Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A mask
//! is therefore never stored, a backward pass draws it again, and a resumed job continues bit for bit.

/// What the numbers are for. Two purposes never share a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// The order of examples in an epoch.
    Shuffle = 1,
    /// Dropout masks.
    Dropout = 2,
    /// New parameters.
    Initialisation = 3,
    /// Which rows are held out for validation.
    Split = 4,
}

/// A sequence of random numbers that can be read at any index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    site: u32,
    position: [u32; 2],
}

impl Stream {
    /// The numbers of `seed` for `purpose` at `position` (a step or an epoch) and `site` (a place in the model,
    /// below 2^24).
    #[inline]
    pub fn new(seed: u64, purpose: Purpose, position: u64, site: u32) -> Self {
        debug_assert!(site < 1 << 24);
        Self { key: halves(seed), site: (purpose as u32) << 24 | site, position: halves(position) }
    }

    /// The generator's key.
    #[inline]
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// Purpose and site: the second word of the counter.
    #[inline]
    pub fn site(&self) -> u32 {
        self.site
    }

    /// The position: the last two words of the counter.
    #[inline]
    pub fn position(&self) -> [u32; 2] {
        self.position
    }

    /// Four random words: those of the indices `4 * block .. 4 * block + 4`.
    #[inline]
    pub fn block(&self, block: u32) -> [u32; 4] {
        let mut counter = [block, self.site, self.position[0], self.position[1]];
        let mut key = self.key;
        for _ in 0..10 {
            let [low0, high0] = halves(u64::from(counter[0]) * 0xD251_1F53);
            let [low1, high1] = halves(u64::from(counter[2]) * 0xCD9E_8D57);
            counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        counter
    }

    /// A random word.
    #[inline]
    pub fn word(&self, index: u64) -> u32 {
        self.block((index / 4) as u32)[(index % 4) as usize]
    }

    /// A uniform number, at least 0 and less than 1.
    #[inline]
    pub fn uniform(&self, index: u64) -> f64 {
        f64::from(self.word(index)) / 4_294_967_296.0
    }

    /// A number of the standard normal distribution (Box and Muller 1958).
    #[inline]
    pub fn normal(&self, index: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(2 * index)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * index + 1)).cos()
    }

    /// Puts the items into a random order (Fisher and Yates).
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            // The high half of a product maps a word to 0..=last with a bias below 2^-32 times the length.
            let other = (u64::from(self.word(last as u64)) * (last as u64 + 1)) >> 32;
            items.swap(last, other as usize);
        }
    }
}

#[inline]
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 library for Philox 4x32-10.
    #[test]
    fn agrees_with_the_reference_vectors() {
        let stream = |key, counter: [u32; 4]| {
            Stream { key, site: counter[1], position: [counter[2], counter[3]] }.block(counter[0])
        };
        assert_eq!(stream([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            stream([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            stream([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_depends_on_the_seed_and_the_epoch() {
        let shuffled = |seed, epoch| {
            let mut items: Vec<u32> = (0..1000).collect();
            Stream::new(seed, Purpose::Shuffle, epoch, 0).shuffle(&mut items);
            items
        };
        let mut sorted = shuffled(1, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(shuffled(1, 0), shuffled(1, 0));
        assert_ne!(shuffled(1, 0), shuffled(2, 0));
        assert_ne!(shuffled(1, 0), shuffled(1, 1));
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let stream = Stream::new(7, Purpose::Initialisation, 0, 0);
        let drawn: Vec<f64> = (0..20_000).map(|i| stream.normal(i)).collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
    }
}
