//! Where a tokenizer puts its special tokens around one text or a pair.
//!
//! The place of special tokens does not depend on the text, so it is asked for once, with markers in the place of
//! texts; whatever kind of post-processor the tokenizer has, the answer is a list of pieces.

use tokenizers::{Encoding, Token};

use hone_base::error::{Error, Result};

const FIRST: u32 = u32::MAX;
const SECOND: u32 = u32::MAX - 1;

/// The pieces of a sequence, each with its token type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame(Vec<(Piece, u32)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    First,
    Second,
    Special(u32),
}

impl Frame {
    /// Around one text.
    pub(super) fn single(tokenizer: &tokenizers::Tokenizer) -> Result<Self> {
        Self::probe(tokenizer, None)
    }

    /// Around two texts.
    pub(super) fn pair(tokenizer: &tokenizers::Tokenizer) -> Result<Self> {
        Self::probe(tokenizer, Some(marker(SECOND, 1)))
    }

    fn probe(tokenizer: &tokenizers::Tokenizer, second: Option<Encoding>) -> Result<Self> {
        let texts = 1 + usize::from(second.is_some());
        let odd =
            |why: String| Error::precondition(format!("the tokenizer's post-processor is unusual: {why}"));
        let framed =
            tokenizer.post_process(marker(FIRST, 0), second, true).map_err(|error| odd(error.to_string()))?;
        let piece = |&id: &u32| match id {
            FIRST => Piece::First,
            SECOND => Piece::Second,
            id => Piece::Special(id),
        };
        let pieces = framed.get_ids().iter().map(piece).zip(framed.get_type_ids().iter().copied());
        let frame = Self(pieces.collect());
        match frame.0.len() - frame.special_tokens() {
            found if found == texts => Ok(frame),
            found => Err(odd(format!("of {texts} texts it keeps {found}"))),
        }
    }

    /// The largest of the tokens that it adds.
    pub(super) fn largest(&self) -> Option<u32> {
        let special = |&(piece, _): &(Piece, u32)| match piece {
            Piece::Special(id) => Some(id),
            _ => None,
        };
        self.0.iter().filter_map(special).max()
    }

    /// How many tokens it adds.
    pub(super) fn special_tokens(&self) -> usize {
        self.0.iter().filter(|(piece, _)| matches!(piece, Piece::Special(_))).count()
    }

    /// Whether a token is one that it adds.
    pub(super) fn has_special(&self, id: u32) -> bool {
        self.0.iter().any(|(piece, _)| *piece == Piece::Special(id))
    }

    /// Ids and types with the texts in their places.
    pub(super) fn fill(&self, first: &[u32], second: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let length = self.special_tokens() + first.len() + second.len();
        let (mut ids, mut types) = (Vec::with_capacity(length), Vec::with_capacity(length));
        for &(piece, kind) in &self.0 {
            match piece {
                Piece::First => ids.extend_from_slice(first),
                Piece::Second => ids.extend_from_slice(second),
                Piece::Special(id) => ids.push(id),
            }
            types.resize(ids.len(), kind);
        }
        (ids, types)
    }
}

fn marker(id: u32, kind: u32) -> Encoding {
    Encoding::from_tokens(vec![Token::new(id, String::new(), (0, 0))], kind)
}
