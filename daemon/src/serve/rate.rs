//! How long a model takes for its tokens, measured as it answers. Without threads and clocks.

use std::time::Duration;

/// Seconds for a token before anything was measured: a small encoder on a slow processor.
const FIRST_SECONDS: f64 = 1e-4;

/// Bytes of a token before any was counted: about a word of English.
const FIRST_BYTES: f64 = 4.0;

/// Tokens after which a measurement counts half: about eight full batches on a CPU.
const HALF_LIFE: f64 = 16_384.0;

/// Tokens that the first guesses weigh as much as.
const FIRST_WEIGHT: f64 = 64.0;

/// What is known of one model's speed. Batches weigh by their tokens, so that full ones, of which a queue is made, say
/// more than a text that came alone.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    tokens: f64,
    seconds: f64,
    /// Of texts whose tokens were counted.
    counted: f64,
    bytes: f64,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            tokens: FIRST_WEIGHT,
            seconds: FIRST_WEIGHT * FIRST_SECONDS,
            counted: FIRST_WEIGHT,
            bytes: FIRST_WEIGHT * FIRST_BYTES,
        }
    }
}

impl Rate {
    /// How long so many tokens probably take.
    pub fn cost(&self, tokens: usize) -> Duration {
        Duration::from_secs_f64(tokens as f64 * self.seconds / self.tokens)
    }

    /// How many tokens a text of so many bytes probably has, special tokens included.
    pub fn tokens(&self, bytes: usize) -> usize {
        2 + (bytes as f64 * self.counted / self.bytes).ceil() as usize
    }

    /// A batch of so many tokens took so long.
    pub fn computed(&mut self, tokens: usize, took: Duration) {
        let keep = (-(tokens as f64) / HALF_LIFE).exp2();
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + took.as_secs_f64();
    }

    /// A text of so many bytes had so many tokens, special tokens included.
    pub fn counted(&mut self, bytes: usize, tokens: usize) {
        let keep = (-(tokens as f64) / HALF_LIFE).exp2();
        self.counted = self.counted * keep + tokens.saturating_sub(2) as f64;
        self.bytes = self.bytes * keep + bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn microseconds(rate: &Rate, tokens: usize) -> f64 {
        rate.cost(tokens).as_secs_f64() * 1e6
    }

    #[test]
    fn what_was_measured_takes_the_place_of_the_first_guess() {
        let mut rate = Rate::default();
        assert!((microseconds(&rate, 10) - 1000.0).abs() < 1.0);
        (0..20).for_each(|_| rate.computed(2048, Duration::from_micros(2048 * 20)));
        assert!((microseconds(&rate, 10) - 200.0).abs() < 5.0, "{rate:?}");
    }

    #[test]
    fn a_text_alone_hardly_changes_what_full_batches_have_told() {
        let mut rate = Rate::default();
        (0..20).for_each(|_| rate.computed(2048, Duration::from_micros(2048 * 20)));
        (0..20).for_each(|_| rate.computed(20, Duration::from_micros(20 * 150)));
        assert!(microseconds(&rate, 1) < 27.0, "{rate:?}");
        // All of them alone, they are what the model takes.
        (0..5000).for_each(|_| rate.computed(20, Duration::from_micros(20 * 150)));
        assert!(microseconds(&rate, 1) > 140.0, "{rate:?}");
    }

    #[test]
    fn a_text_has_as_many_tokens_as_texts_of_its_size_had() {
        let mut rate = Rate::default();
        assert_eq!(rate.tokens(40), 12);
        (0..10_000).for_each(|_| rate.counted(60, 22));
        assert_eq!(rate.tokens(300), 102);
        assert_eq!(rate.tokens(0), 2);
    }
}
