//! Where a run stands.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::diagnosis::{Finding, Norms};
use crate::event::EpochMetrics;
use crate::metrics::Tally;
use crate::pace::Spent;
use crate::spec::Spec;
use hone_base::error::{Error, Result};

/// The version of the format.
const FORMAT: u32 = 2;

/// Where a run stands, between two optimizer steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    format: u32,
    /// What is run.
    pub(crate) spec: Spec,
    /// The epoch under way, from 0.
    pub(crate) epoch: u32,
    /// Optimizer steps done in this epoch.
    pub(crate) step_in_epoch: u64,
    /// Optimizer steps done.
    pub(crate) step: u64,
    /// What was counted in this epoch.
    pub(crate) tally: Tally,
    /// What this epoch's steps took.
    pub(crate) spent: Spent,
    /// Gradient norms that are judged at the end of the epoch.
    pub(crate) norms: Norms,
    /// What was told of the epoch before.
    pub(crate) told: BTreeSet<Finding>,
    /// Every epoch that has ended.
    pub(crate) epochs: Vec<EpochMetrics>,
    /// The checkpoint that is kept so far.
    pub(crate) kept: Option<Kept>,
}

/// The kept checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Its epoch, from 1.
    pub(crate) epoch: u32,
    /// SHA-256 of its weights' file.
    pub(crate) weights_sha256: String,
}

impl Position {
    /// Before the first step.
    pub(crate) fn start(spec: &Spec, tally: Tally) -> Self {
        Self {
            format: FORMAT,
            spec: spec.clone(),
            epoch: 0,
            step_in_epoch: 0,
            step: 0,
            tally,
            spent: Spent::default(),
            norms: Norms::default(),
            told: BTreeSet::new(),
            epochs: Vec::new(),
            kept: None,
        }
    }

    /// As it is written.
    pub(super) fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|error| Error::internal(error.to_string()))
    }

    /// Parses what [`Position::to_json`] gave.
    ///
    /// # Errors
    /// Fails for damaged text, and for a position of another version of Hone.
    pub(super) fn from_json(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged = |error: serde_json::Error| Error::corrupt(format!("it is damaged: {error}"));
        let Version { format } = serde_json::from_slice(text).map_err(damaged)?;
        if format != FORMAT {
            return Err(Error::precondition("it was saved by another version of Hone"));
        }
        serde_json::from_slice(text).map_err(damaged)
    }
}
