//! The seam between jobs and training. Tests put a trainer of their own here.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;

use super::data_dir::DataDir;
use crate::error::{Error, Result};
use crate::model::checkpoint;
use crate::model::hub::{self, EncoderName};
use crate::train::event::Event;
use crate::train::spec::Spec;
use crate::train::{self, Outcome, Plan};

/// Takes a job's events; breaks when the job shall stop.
pub type Emit<'a> = dyn FnMut(Event) -> ControlFlow<()> + Send + 'a;

/// What trains. Its functions block.
pub trait Trainer: Send + Sync + 'static {
    /// Checks the encoder that the daemon was started with.
    fn check_encoder(&self, name: &str) -> Result<()>;

    /// Checks what can be checked of a job without the device and without a download.
    fn check(&self, spec: &Spec, data: &DataDir) -> Result<()>;

    /// Runs a job in its own folder.
    fn train(&self, spec: &Spec, data: &DataDir, workspace: &Path, emit: &mut Emit<'_>) -> Result<Outcome>;
}

/// The trainer of this crate: one device, one pool of threads.
pub struct DeviceTrainer {
    device: Device,
    pool: Arc<rayon::ThreadPool>,
}

impl DeviceTrainer {
    /// Trains on a device; what the CPU does is done by the pool.
    pub fn new(device: Device, pool: Arc<rayon::ThreadPool>) -> Self {
        Self { device, pool }
    }
}

impl Trainer for DeviceTrainer {
    fn check_encoder(&self, name: &str) -> Result<()> {
        match EncoderName::parse(name)? {
            EncoderName::Folder(folder) => {
                if let Some(missing) = hub::missing(&folder) {
                    return Err(Error::precondition(format!(
                        "the encoder's folder {} has no {missing}",
                        folder.display()
                    )));
                }
                checkpoint::check(&folder).map(drop)
            }
            EncoderName::Hub { .. } => Ok(()),
        }
    }

    fn check(&self, spec: &Spec, data: &DataDir) -> Result<()> {
        match hub::find_local(&EncoderName::parse(&spec.encoder)?)? {
            // The only thread of a pool of one may be training for hours; the check does not wait for it.
            Some(folder) if self.pool.current_num_threads() == 1 => plan(spec, &folder, data).map(drop),
            Some(folder) => self.pool.install(|| plan(spec, &folder, data)).map(drop),
            None => Ok(()),
        }
    }

    fn train(&self, spec: &Spec, data: &DataDir, workspace: &Path, emit: &mut Emit<'_>) -> Result<Outcome> {
        let name = EncoderName::parse(&spec.encoder)?;
        let mut stopped = false;
        let encoder = hub::resolve(&name, &mut |message| {
            stopped |= emit(Event::Notice { message }).is_break();
        })?;
        if stopped {
            return Ok(Outcome::Stopped);
        }
        self.pool.install(|| {
            let plan = plan(spec, &encoder, data)?;
            train::run(&plan, &self.device, workspace, emit)
        })
    }
}

fn plan(spec: &Spec, encoder: &Path, data: &DataDir) -> Result<Plan> {
    let path_of = |id: &str| -> PathBuf { data.dataset(id) };
    Plan::new(spec.clone(), encoder, &path_of)
}
