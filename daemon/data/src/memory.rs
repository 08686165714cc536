//! The memory that rows take, counted as the usual allocators give it: in steps of 16 bytes, with 16 of their own.

use super::Example;

/// Bytes of a row without its texts, in a list that has room for as many rows again; rows share their labels.
pub const ROW: u64 = 2 * (size_of::<Example>() as u64 + 8);

/// Bytes of a row with its texts.
pub fn of_texts(example: &Example) -> u64 {
    let texts = [Some(&example.text), example.text_pair.as_ref()];
    ROW + texts.into_iter().flatten().map(|text| allocation(text.capacity() as u64)).sum::<u64>()
}

/// Bytes of a row as tokens: its ids, their types, and what holds them.
pub fn of_tokens(tokens: u64) -> u64 {
    64 + 2 * allocation(4 * tokens)
}

/// Bytes that an allocation of so many takes.
pub fn allocation(bytes: u64) -> u64 {
    match bytes {
        0 => 0,
        bytes => (bytes + 8).next_multiple_of(16).max(32),
    }
}
