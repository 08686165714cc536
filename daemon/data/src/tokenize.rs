//! Texts to tokens.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use tokenizers::{EncodeInput, PostProcessorWrapper, TruncationDirection, TruncationParams};

use super::Example;
use super::frame::Frame;
use super::tokenizer_files;
use super::truncation::{Cut, Truncation};
use hone_base::cancel::Cancel;
use hone_base::error::{Error, Result};
pub use hone_engine::batch::Tokens;

/// Bytes that a text may have: tokens are counted before truncation, so a longer one would cost its whole length.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// Examples that a thread takes at once.
const CHUNK: usize = 64;

/// A `tokenizer.json` with truncation at a set length and no padding, whatever the file says. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    shared: Arc<Shared>,
    truncation: Truncation,
}

#[derive(Debug)]
struct Shared {
    /// Neither cuts nor pads nor adds special tokens: one pass tells the full length, and cutting ids is all that
    /// truncation needs.
    inner: tokenizers::Tokenizer,
    /// What `inner` was read with, for writing it.
    processor: Option<PostProcessorWrapper>,
    single: Frame,
    pair: Frame,
    max_length: usize,
    /// The token for what the vocabulary does not have, if there is one.
    unknown: Option<u32>,
    notices: Vec<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` from an encoder's or a checkpoint's folder; an old folder may have a vocabulary instead
    /// (`vocab.txt`; `vocab.json` and `merges.txt`). `max_length` counts special tokens. Texts are cut on the side that the folder's files name, as the
    /// Python library would.
    pub fn from_folder(folder: &Path, max_length: usize) -> Result<Self> {
        let mut inner = tokenizer_files::read(folder)?;
        let within = |error: Error| error.within(folder.display());
        let single = Frame::single(&inner).map_err(within)?;
        let pair = Frame::pair(&inner).map_err(within)?;
        if max_length <= single.special_tokens() {
            return Err(Error::invalid(format!(
                "a maximum length of {max_length} has no room for text: the tokenizer adds {} special tokens",
                single.special_tokens()
            )));
        }
        let notices = tokenizer_files::notices(folder, &inner);
        let processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let truncation = tokenizer_files::truncation(folder)?;
        let unknown = unknown_token(&inner);
        let shared = Shared { inner, processor, single, pair, max_length, unknown, notices };
        Ok(Self { shared: Arc::new(shared), truncation })
    }

    /// The same tokenizer, which cuts long texts in this way.
    pub fn with_truncation(self, truncation: Truncation) -> Self {
        Self { truncation, ..self }
    }

    /// What is kept of a text that is too long.
    pub fn truncation(&self) -> Truncation {
        self.truncation
    }

    /// How texts are cut.
    pub fn cut(&self) -> Cut {
        Cut { max_length: self.shared.max_length, truncation: self.truncation }
    }

    /// Tokens of a sequence at most.
    pub fn max_length(&self) -> usize {
        self.shared.max_length
    }

    /// What is odd about the tokenizer, though it is as the Python library has it.
    pub fn notices(&self) -> &[String] {
        &self.shared.notices
    }

    /// The smallest number of rows that an embedding of these tokens has: the largest token id and one.
    pub fn vocab_size(&self) -> usize {
        let words = self.shared.inner.get_vocab(true).into_values().max();
        // A post-processor has numbers of its own, which need not be those of any token.
        let largest = words.max(self.shared.single.largest()).max(self.shared.pair.largest());
        largest.map_or(0, |id| id as usize + 1)
    }

    /// The last of the tokens that an embedding of so many rows has no row for, at most so many.
    pub fn beyond(&self, rows: usize, most: usize) -> Vec<String> {
        let vocab = self.shared.inner.get_vocab(true).into_iter();
        let mut tokens: Vec<(u32, String)> =
            vocab.map(|(token, id)| (id, token)).filter(|(id, _)| *id as usize >= rows).collect();
        tokens.sort();
        tokens.into_iter().rev().take(most).map(|(_, token)| token).collect()
    }

    /// Whether a text has tokens, and each of them stands for what the vocabulary does not have.
    pub fn knows_nothing_of(&self, tokens: &Tokens) -> bool {
        let is_special = |id: &u32| self.shared.single.has_special(*id) || self.shared.pair.has_special(*id);
        let mut of_text = tokens.ids.iter().filter(|id| !is_special(id)).peekable();
        of_text.peek().is_some() && of_text.all(|id| Some(*id) == self.shared.unknown)
    }

    /// Special tokens that are added to one text.
    pub fn special_tokens_count(&self) -> usize {
        self.shared.single.special_tokens()
    }

    /// The tokens of one text or pair. A pair is cut longest first: that tells how much each text keeps, and the way of
    /// truncation tells which part of it.
    ///
    /// # Errors
    /// `Invalid` for a text above [`MAX_TEXT_BYTES`], and where the maximum length has no room for special tokens.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Tokens> {
        self.encode_cut(text, pair, self.cut())
    }

    /// The same, cut in another way, or to another length.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_cut(&self, text: &str, pair: Option<&str>, cut: Cut) -> Result<Tokens> {
        let mut first = self.ids(text)?;
        let second = pair.map(|pair| self.ids(pair)).transpose()?;
        let frame = if second.is_some() { &self.shared.pair } else { &self.shared.single };
        let mut second = second.unwrap_or_default();
        let Cut { max_length, truncation } = cut;
        let Some(budget) = max_length.checked_sub(frame.special_tokens()) else {
            return Err(Error::invalid(format!(
                "a maximum length of {max_length} has no room for the {} special tokens of a pair",
                frame.special_tokens()
            )));
        };
        let full_length = frame.special_tokens() + first.len() + second.len();
        let (first_kept, second_kept) = longest_first(first.len(), second.len(), budget);
        truncation.cut(&mut first, first_kept);
        truncation.cut(&mut second, second_kept);
        let (ids, types) = frame.fill(&first, &second);
        Ok(Tokens { ids, types, full_length })
    }

    /// The tokens of every example, in order, on all threads of the current rayon pool.
    ///
    /// # Errors
    /// Fails for a text without tokens, and with [`Kind::Cancelled`](hone_base::error::Kind::Cancelled) when `cancel` is asked.
    pub fn encode_examples(&self, examples: &[Example], cancel: &Cancel) -> Result<Vec<Tokens>> {
        let encode = |example: &Example| {
            cancel.check()?;
            let tokens = self.encode(&example.text, example.text_pair.as_deref());
            tokens.map_err(|error| error.within(format!("line {}", example.line)))
        };
        let chunks: Vec<Result<Vec<Tokens>>> =
            examples.par_chunks(CHUNK).map(|chunk| chunk.iter().map(encode).collect()).collect();
        let mut tokens = Vec::with_capacity(examples.len());
        for chunk in chunks {
            tokens.append(&mut chunk?);
        }
        Ok(tokens)
    }

    /// The `tokenizer.json` of a checkpoint: truncation at this length, no padding.
    pub fn to_json(&self) -> Result<String> {
        let failed =
            |error: tokenizers::Error| Error::internal(format!("the tokenizer cannot be written: {error}"));
        let mut inner = self.shared.inner.clone();
        inner.with_post_processor(self.shared.processor.clone());
        let direction = match self.truncation {
            Truncation::Head => TruncationDirection::Right,
            // Of head and tail the library knows one side only; the tail is the larger part.
            Truncation::Tail | Truncation::HeadTail => TruncationDirection::Left,
        };
        let max_length = self.shared.max_length;
        let truncation = TruncationParams { max_length, direction, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(failed)?;
        inner.to_string(true).map_err(failed)
    }

    /// Writes the tokenizer's files into a checkpoint's folder: `tokenizer.json`, and what the Python library wants
    /// beside it, taken from the encoder's folder `source` as far as it is there.
    pub fn write_files(&self, source: &Path, target: &Path) -> Result<()> {
        let (max_length, truncation) = (self.shared.max_length, self.truncation);
        tokenizer_files::write(&self.to_json()?, max_length, truncation, source, target)
    }

    /// The ids of a text, without special tokens.
    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::invalid(format!(
                "the text has {} bytes; {MAX_TEXT_BYTES} is the most",
                text.len()
            )));
        }
        let encoding = self.shared.inner.encode_fast(EncodeInput::from(text), false);
        let encoding = encoding.map_err(|error| Error::internal(format!("a text has no tokens: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// The id of the token for what the vocabulary does not have.
fn unknown_token(tokenizer: &tokenizers::Tokenizer) -> Option<u32> {
    use tokenizers::ModelWrapper;
    let token = match tokenizer.get_model() {
        ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
        ModelWrapper::BPE(model) => model.unk_token.clone(),
        ModelWrapper::Unigram(_) => Some("<unk>".to_owned()),
    };
    tokenizer.token_to_id(&token?)
}

/// What is kept of two sequences: the longer one is cut first, then both alike.
fn longest_first(first: usize, second: usize, budget: usize) -> (usize, usize) {
    if first + second <= budget {
        return (first, second);
    }
    let shorter = first.min(second);
    let (short_kept, long_kept) = match 2 * shorter <= budget {
        true => (shorter, budget - shorter),
        false => (budget / 2, budget - budget / 2),
    };
    if first > second { (long_kept, short_kept) } else { (short_kept, long_kept) }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use tokenizers::models::wordpiece::WordPiece;
    use tokenizers::normalizers::BertNormalizer;
    use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
    use tokenizers::processors::bert::BertProcessing;
    use tokenizers::utils::truncation::truncate_encodings;
    use tokenizers::{AddedToken, PaddingParams};

    use super::*;
    use hone_base::error::Kind;

    pub(in super::super) const VOCAB: [&str; 16] = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "good", "##s", "##ly", "not", ",", ".",
        "##a", "b", "c",
    ];

    /// A small BERT tokenizer that truncates and pads, as many published ones do.
    pub(in super::super) fn tiny() -> tokenizers::Tokenizer {
        let vocab: [_; VOCAB.len()] = std::array::from_fn(|id| (VOCAB[id].to_owned(), id as u32));
        let model = WordPiece::builder().vocab(vocab).build().unwrap();
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_normalizer(Some(BertNormalizer::default())).unwrap();
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.with_post_processor(Some(BertProcessing::new(("[SEP]".into(), 3), ("[CLS]".into(), 2))));
        tokenizer.add_special_tokens(VOCAB[..5].iter().map(|&token| AddedToken::from(token, true))).unwrap();
        tokenizer.with_truncation(Some(TruncationParams { max_length: 6, ..Default::default() })).unwrap();
        tokenizer.with_padding(Some(PaddingParams::default()));
        tokenizer
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        tiny().save(folder.path().join("tokenizer.json"), false).unwrap();
        folder
    }

    fn tokenizer(max_length: usize) -> Tokenizer {
        Tokenizer::from_folder(folder().path(), max_length).unwrap()
    }

    fn example(text: String, line: u64) -> Example {
        Example { text, text_pair: None, labels: ["x".to_owned()].into(), line }
    }

    #[test]
    fn the_length_is_the_given_one_whatever_the_file_says() {
        let long = tokenizer(9);
        let tokens = long.encode("Good films, not good. Not a film!", None).unwrap();
        assert_eq!(tokens.ids, [2, 7, 6, 8, 11, 10, 7, 12, 3]);
        assert_eq!(tokens.types, [0; 9]);
        assert_eq!(tokens.full_length, 13);
        assert_eq!(long.encode("", None).unwrap().ids, [2, 3]);
        let pair = long.encode("good", Some("a film")).unwrap();
        assert_eq!(pair.ids, [2, 7, 3, 5, 6, 3]);
        assert_eq!(pair.types, [0, 0, 0, 1, 1, 1]);
        assert_eq!(pair.full_length, 6);
        assert_eq!((long.max_length(), long.vocab_size(), long.special_tokens_count()), (9, 16, 2));
    }

    #[test]
    fn a_text_may_be_cut_in_another_way_than_the_tokenizers() {
        let tokenizer = tokenizer(9);
        let cut = |max_length, truncation| {
            tokenizer.encode_cut("a film not good", None, Cut { max_length, truncation }).unwrap()
        };
        let head = cut(4, Truncation::Head);
        assert_eq!((head.ids, head.full_length), (vec![2, 5, 6, 3], 6));
        assert_eq!(cut(4, Truncation::Tail).ids, [2, 10, 7, 3]);
        assert_eq!(cut(9, Truncation::Tail), tokenizer.encode("a film not good", None).unwrap());
    }

    #[test]
    fn a_length_without_room_is_refused() {
        let error = Tokenizer::from_folder(folder().path(), 2).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert_eq!(tokenizer(3).encode("a b", None).unwrap().ids, [2, 5, 3]);
        assert_eq!(tokenizer(3).encode("a", Some("b")).unwrap().ids, [2, 3, 3]);
    }

    #[test]
    fn a_text_above_the_bound_is_refused_with_its_line() {
        let tokenizer = tokenizer(8);
        assert!(tokenizer.encode(&"a".repeat(MAX_TEXT_BYTES), None).is_ok());
        let examples = [example("a".to_owned(), 2), example("a ".repeat(MAX_TEXT_BYTES), 3)];
        let error = tokenizer.encode_examples(&examples, &Cancel::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.message().starts_with("line 3: the text has 2097152 bytes"), "{error}");
    }

    #[test]
    fn examples_keep_their_order_whatever_the_number_of_threads() {
        let examples: Vec<Example> =
            (0..1000).map(|row| example("good film ".repeat(row as usize % 7), row)).collect();
        let tokenizer = tokenizer(8);
        let expected: Vec<Tokens> =
            examples.iter().map(|row| tokenizer.encode(&row.text, None).unwrap()).collect();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(
                pool.install(|| tokenizer.encode_examples(&examples, &Cancel::default())).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn what_is_written_truncates_at_the_length_and_does_not_pad() {
        let json = tokenizer(7).to_json().unwrap();
        let written = tokenizers::Tokenizer::from_bytes(json.as_bytes()).unwrap();
        assert_eq!(written.get_truncation().map(|truncation| truncation.max_length), Some(7));
        assert!(written.get_padding().is_none());
        let text = "good good good good good good good";
        assert_eq!(
            written.encode(text, true).unwrap().get_ids(),
            tokenizer(7).encode(text, None).unwrap().ids
        );
    }

    #[test]
    fn what_is_kept_of_a_long_text_is_chosen() {
        let encode = |truncation, pair| {
            tokenizer(8).with_truncation(truncation).encode("a good film . not b , c", pair).unwrap().ids
        };
        assert_eq!(encode(Truncation::Head, None), [2, 5, 7, 6, 12, 10, 14, 3]);
        assert_eq!(encode(Truncation::Tail, None), [2, 6, 12, 10, 14, 11, 15, 3]);
        assert_eq!(encode(Truncation::HeadTail, None), [2, 5, 7, 10, 14, 11, 15, 3]);
        let pair = Some("a b c");
        assert_eq!(encode(Truncation::Tail, pair), [2, 14, 11, 15, 3, 14, 15, 3], "each text keeps its end");
    }

    #[test]
    fn a_checkpoint_cuts_as_its_training_did() {
        let (source, text) = (folder(), "a good film . not b , c");
        for truncation in [Truncation::Head, Truncation::Tail, Truncation::HeadTail] {
            let trained = tokenizer(8).with_truncation(truncation);
            let target = tempfile::tempdir().unwrap();
            trained.write_files(source.path(), target.path()).unwrap();
            let served = Tokenizer::from_folder(target.path(), 8).unwrap();
            assert_eq!(served.truncation(), truncation);
            assert_eq!(served.encode(text, None).unwrap(), trained.encode(text, None).unwrap());
        }
    }

    proptest! {
        /// `encode` of the library stops to tokenize at the maximum length, and so does not know which text of a
        /// pair is the longer one when both are; its definition is in `truncate_encodings`.
        #[test]
        fn cutting_agrees_with_the_library(
            text in "[abc ,.x]{0,40}", pair in prop::option::of("[abc ,.x]{0,40}"), max_length in 4usize..40,
            tail in any::<bool>(),
        ) {
            let (ours, direction) = match tail {
                true => (Truncation::Tail, TruncationDirection::Left),
                false => (Truncation::Head, TruncationDirection::Right),
            };
            let tokenizer = tokenizer(max_length).with_truncation(ours);
            let tokens = tokenizer.encode(&text, pair.as_deref()).unwrap();
            let mut library = tiny();
            library.with_padding(None).with_truncation(None).unwrap();
            let encode = |text: &str| library.encode(text, false).unwrap();
            let (first, second) = (encode(&text), pair.as_deref().map(encode));
            let special = if pair.is_some() { 3 } else { 2 };
            let full_length = special + first.len() + second.as_ref().map_or(0, |second| second.len());
            prop_assert_eq!(tokens.full_length, full_length);
            let params = TruncationParams { max_length: max_length - special, direction, ..Default::default() };
            let (first, second) = truncate_encodings(first, second, &params).unwrap();
            let expected = library.post_process(first, second, true).unwrap();
            prop_assert_eq!(&tokens.ids, expected.get_ids());
            prop_assert_eq!(&tokens.types, expected.get_type_ids());
        }
    }
}
