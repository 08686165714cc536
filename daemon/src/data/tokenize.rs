//! Texts to tokens.

use std::path::Path;

use super::Example;

/// Bytes that a text may have.
pub const MAX_TEXT_BYTES: usize = 1 << 20;
use crate::error::{Error, Result};

/// The tokens of one text or pair, special tokens included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids, at most the tokenizer's maximum length.
    pub ids: Vec<u32>,
    /// 0 for the first text, 1 for the second.
    pub types: Vec<u32>,
    /// How many there were before truncation.
    pub full_length: usize,
}

/// A `tokenizer.json` with truncation at a set length and no padding, whatever the file says.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` from an encoder's or a checkpoint's folder.
    pub fn from_folder(folder: &Path, max_length: usize) -> Result<Self> {
        let _ = (folder, max_length);
        Err(Error::internal("not built"))
    }

    /// Tokens of a sequence at most.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The tokens of one text or pair. A pair is cut longest first.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Tokens> {
        let _ = (text, pair);
        Err(Error::internal("not built"))
    }

    /// The tokens of every example, in order, on all threads of the current rayon pool.
    pub fn encode_examples(&self, examples: &[Example]) -> Result<Vec<Tokens>> {
        let _ = examples;
        Err(Error::internal("not built"))
    }

    /// The `tokenizer.json` of a checkpoint: truncation at this length, no padding.
    pub fn to_json(&self) -> Result<String> {
        let _ = &self.inner;
        Err(Error::internal("not built"))
    }
}
