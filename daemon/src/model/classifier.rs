//! The classification head, its loss, and the whole classifier.

use std::path::Path;

use candle_core::Device;

use crate::data::batch::Batch;
use crate::error::{Error, Result};

/// A trained classifier that answers: encoder, head and labels from a checkpoint folder.
pub struct Classifier {
    labels: Vec<String>,
    max_length: usize,
}

impl Classifier {
    /// Loads a checkpoint folder in Hugging Face layout.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let _ = (folder, device);
        Err(Error::internal("not built"))
    }

    /// In class order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Tokens of a sequence at most, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The probability of each label for each sequence, in order: `[B][labels]`.
    pub fn scores(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let _ = batch;
        Err(Error::internal("not built"))
    }
}
