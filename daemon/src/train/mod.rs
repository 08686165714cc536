//! Fine-tuning: a plan is made from a specification (`plan`), run (`run`), and told in events (`event`).

pub mod event;
pub mod spec;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::error::{Error, Result};
use event::{EpochMetrics, Event, TestMetrics};
use spec::Spec;

/// A specification whose files were read and checked: nothing that can be known without the device is wrong.
pub struct Plan {
    /// What to do.
    pub spec: Spec,
}

/// How a run ended, when it did not fail.
pub enum Outcome {
    /// All epochs are done.
    Finished(Finished),
    /// `emit` asked to stop; the position is in the workspace.
    Stopped,
}

/// What a finished run leaves.
pub struct Finished {
    /// The kept checkpoint: a folder inside the workspace, in Hugging Face layout, `hone.json` included.
    pub folder: PathBuf,
    /// SHA-256 of its `model.safetensors`.
    pub weights_sha256: String,
    /// The kept epoch.
    pub epoch: EpochMetrics,
    /// The test result, when there was a test file.
    pub test: Option<TestMetrics>,
    /// In class order.
    pub labels: Vec<String>,
    /// Tokens of a sequence at most, special tokens included.
    pub max_length: u32,
}

impl Plan {
    /// Reads and checks everything that a job needs: the encoder's folder, and every data set of `spec` at the path
    /// that `path_of` gives for its digest.
    pub fn new(spec: Spec, encoder: &Path, path_of: &dyn Fn(&str) -> PathBuf) -> Result<Self> {
        let _ = (encoder, path_of);
        let _ = spec;
        Err(Error::internal("not built"))
    }
}

/// Trains. Everything that happens goes through `emit`, which may ask to stop; the run then stops at the next step.
/// `workspace` is the job's own folder. Blocking; runs on the current rayon pool.
pub fn run(
    plan: &Plan,
    device: &Device,
    workspace: &Path,
    emit: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    let _ = (plan, device, workspace, emit);
    Err(Error::internal("not built"))
}
