//! Answers to texts that come again: logits by what computed them and the text. Off unless the operator gives it memory.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::dispatcher::Scored;
use super::queue::ModelId;
use hone_data::Cut;

/// Bytes that an entry takes besides its logits, about: the key, the answer, and their places in the cache's tables.
const ENTRY: usize = 160;

/// Answers of all models, as many as have room. Those that are asked for seldom leave first.
#[derive(Debug)]
pub struct AnswerCache {
    answers: Cache<Key, Arc<Scored>, Bytes>,
}

/// What an answer is to: the SHA-256 of the loaded model's number, of how texts are cut, and of the texts. A model that is
/// loaded again, in another precision for instance, has a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Key, Arc<Scored>> for Bytes {
    fn weight(&self, _: &Key, scored: &Arc<Scored>) -> u64 {
        (ENTRY + size_of_val(scored.logits.as_slice())) as u64
    }
}

impl Key {
    /// The key of a text, or a pair.
    pub fn new(model: ModelId, cut: Cut, text: &str, pair: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        hash.update(model.0.to_le_bytes());
        hash.update((cut.max_length as u64).to_le_bytes());
        hash.update([cut.truncation as u8]);
        // Lengths first, so that no text runs into its pair.
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
        if let Some(pair) = pair {
            hash.update((pair.len() as u64).to_le_bytes());
            hash.update(pair);
        }
        Self(hash.finalize().into())
    }
}

impl AnswerCache {
    /// A cache of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let entries = usize::try_from(bytes).unwrap_or(usize::MAX) / (ENTRY + 8);
        Self { answers: Cache::with_weighter(entries.clamp(1, 1 << 20), bytes, Bytes) }
    }

    /// The answer that was given before.
    pub fn get(&self, key: &Key) -> Option<Arc<Scored>> {
        self.answers.get(key)
    }

    /// Keeps an answer.
    pub fn keep(&self, key: Key, scored: Arc<Scored>) {
        self.answers.insert(key, scored);
    }

    /// Bytes that its answers take.
    pub fn bytes(&self) -> u64 {
        self.answers.weight()
    }
}

#[cfg(test)]
mod tests {
    use hone_data::Truncation;

    use super::*;

    const CUT: Cut = Cut { max_length: 128, truncation: Truncation::Head };

    fn scored(logit: f32) -> Arc<Scored> {
        Arc::new(Scored { logits: vec![logit, 0.0], tokens: 3, truncated: false })
    }

    #[test]
    fn an_answer_is_that_of_the_same_model_the_same_cut_and_the_same_text() {
        let key = |model, cut, text, pair| Key::new(ModelId(model), cut, text, pair);
        let one = key(1, CUT, "ab", None);
        let shorter = Cut { max_length: 64, ..CUT };
        let end = Cut { truncation: Truncation::Tail, ..CUT };
        let others = [
            key(2, CUT, "ab", None),
            key(1, shorter, "ab", None),
            key(1, end, "ab", None),
            key(1, CUT, "a", Some("b")),
            key(1, CUT, "ab", Some("")),
            key(1, CUT, "", Some("ab")),
        ];
        let cache = AnswerCache::new(1 << 16);
        cache.keep(one, scored(1.0));
        assert_eq!(cache.get(&key(1, CUT, "ab", None)), Some(scored(1.0)));
        for (place, other) in others.iter().enumerate() {
            assert_eq!(cache.get(other), None, "{place}");
            assert!(!others[..place].contains(other));
        }
    }

    #[test]
    fn it_takes_no_more_memory_than_it_was_given() {
        let cache = AnswerCache::new(10_000);
        for text in 0..1000 {
            cache.keep(Key::new(ModelId(1), CUT, &text.to_string(), None), scored(0.0));
            assert!(cache.bytes() <= 10_000);
        }
        assert!(cache.bytes() > 5000);
    }
}
