//! The texts of a request, and how they become tokens.

use super::options::Fit;
use super::worker::Ready;
use hone_base::error::{Error, Kind, Result};
use hone_data::tokenize::{MAX_TEXT_BYTES, Tokens};

/// Texts that one task turns into tokens at most.
const PIECE_TEXTS: usize = 16;

/// Bytes of texts from which on a task takes no further text.
const PIECE_BYTES: usize = 64 << 10;

/// Texts, and bytes, up to which tokens are made where the batch is computed: less than a tenth of a millisecond of work,
/// for which no other thread is woken.
const SMALL: (usize, usize) = (4, 2048);

/// A text or pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
}

impl Input {
    /// Bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.text_pair.as_ref().map_or(0, String::len)
    }
}

/// Whether texts of so many bytes are made tokens of where the batch is computed.
pub(super) fn is_small(bytes: &[usize]) -> bool {
    bytes.len() <= SMALL.0 && bytes.iter().sum::<usize>() <= SMALL.1
}

/// The inputs in order, with their places, a piece for each task.
pub(super) fn pieces(inputs: Vec<(usize, Input)>) -> Vec<Vec<(usize, Input)>> {
    let mut pieces: Vec<Vec<(usize, Input)>> = Vec::new();
    let mut bytes = 0;
    for input in inputs {
        let size = input.1.bytes();
        match pieces.last_mut().filter(|piece| piece.len() < PIECE_TEXTS && bytes < PIECE_BYTES) {
            Some(piece) => piece.push(input),
            None => {
                bytes = 0;
                pieces.push(vec![input]);
            }
        }
        bytes += size;
    }
    pieces
}

/// The tokens of the input that has this place in its request.
pub(super) fn encode(ready: &Ready, fit: Fit, input: &Input, place: usize) -> Result<Tokens> {
    for (field, text) in [("text", Some(&input.text)), ("text_pair", input.text_pair.as_ref())] {
        let length = text.map_or(0, String::len);
        if length > MAX_TEXT_BYTES {
            let why = format!("it has {length} bytes; a text has at most {MAX_TEXT_BYTES}");
            return Err(Error::invalid_field(format!("inputs[{place}].{field}"), why));
        }
    }
    let tokens = fit.encode(&*ready.tokenizer, &input.text, input.text_pair.as_deref());
    tokens.map_err(|error| match (error.kind(), &input.text_pair) {
        (Kind::Invalid, None) => error.of_field(format!("inputs[{place}].text")),
        (Kind::Invalid, Some(_)) => error.of_field(format!("inputs[{place}]")),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::input;

    #[test]
    fn a_request_is_cut_into_pieces_of_few_texts_and_few_bytes() {
        let sizes = |texts: Vec<Input>| {
            pieces(texts.into_iter().enumerate().collect()).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(vec![input("good"); 35]), [16, 16, 3]);
        let long = input(&"x".repeat(PIECE_BYTES / 2));
        assert_eq!(sizes(vec![long; 5]), [2, 2, 1]);
        let pair = Input { text_pair: Some("x".repeat(PIECE_BYTES)), ..input("good") };
        assert_eq!(sizes(vec![pair, input("good")]), [1, 1]);
    }
}
