//! Which rows of the embeddings' tables the tokens of a batch take.

use super::architecture::Architecture;
use crate::batch::Batch;

/// The row of each token in each table, `[T]`; kept from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) words: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) types: Vec<u32>,
}

impl Rows {
    /// Takes those of a batch.
    pub(super) fn take(&mut self, architecture: &Architecture, batch: &Batch) {
        let offset = architecture.first_position.unwrap_or(0) as u32;
        self.words.clone_from(&batch.ids);
        self.positions.clear();
        self.positions.extend(batch.lengths().flat_map(|length| offset..offset + length as u32));
        self.types.clear();
        match architecture.has_token_types() {
            true => self.types.extend_from_slice(&batch.types),
            false => self.types.resize(batch.tokens(), 0),
        }
    }
}
