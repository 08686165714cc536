//! The seam between jobs and training. Tests put a trainer of their own here.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::Device;

use super::ahead::Ahead;
use super::device::Turns;
use crate::lanes::Lanes;
use hone_base::cancel::Cancel;
use hone_base::error::{Error, Kind, Result};
use hone_data::dataset::Keep;
use hone_data::unpacked_size;
use hone_engine::kernels::lane::aside;
use hone_engine::model::checkpoint::Checkpoint;
use hone_hub as hub;
use hone_hub::EncoderName;
use hone_storage::Blobs;
use hone_train as train;
use hone_train::event::TrainEvent;
use hone_train::host::Room;
use hone_train::plan::read_encoder;
use hone_train::rehearsal::Study;
use hone_train::spec::{Source, Spec};
use hone_train::{Control, DryRun, Outcome, Plan, admission};

/// Takes a job's events; breaks when the job shall stop.
pub type Emit<'a> = dyn FnMut(TrainEvent) -> ControlFlow<()> + Send + 'a;

/// What trains. Its functions block.
pub trait Trainer: Send + Sync + 'static {
    /// Checks the encoder that the daemon was started with.
    fn check_encoder(&self, name: &str) -> Result<()>;

    /// Checks what can be checked of a job without the device and without a download. What was read may be kept for the
    /// next job to begin.
    ///
    /// # Errors
    /// Fails for whatever would fail the job, and with [`Kind::Cancelled`] when `cancel` is asked.
    fn check(&self, spec: &Spec, data: &dyn Blobs, cancel: &Cancel) -> Result<()>;

    /// Finds out what a job would need. Waits for no job, and keeps none waiting longer than a few seconds.
    ///
    /// # Errors
    /// Fails for whatever would fail the job, and with [`Kind::Cancelled`] when `cancel` is asked.
    fn dry_run(&self, spec: &Spec, data: &dyn Blobs, cancel: &Cancel) -> Result<DryRun>;

    /// Runs a job in its own folder, or continues it from the position that is there.
    ///
    /// # Errors
    /// Fails for whatever fails the job. A job that was asked to end is [`Outcome::Stopped`], not an error.
    fn train(
        &self,
        spec: &Spec,
        data: &dyn Blobs,
        workspace: &Path,
        control: Control,
        emit: &mut Emit<'_>,
    ) -> Result<Outcome>;
}

/// The trainer of this crate: one device, one lane.
pub struct DeviceTrainer {
    device: Device,
    lanes: Lanes,
    turns: Turns,
    ahead: Ahead,
    room: Room,
}

impl DeviceTrainer {
    /// Trains on a device; what the CPU does is done on the lanes.
    pub fn new(device: Device, lanes: Lanes) -> Self {
        Self { device, lanes, turns: Turns::default(), ahead: Ahead::default(), room: Room::default() }
    }

    /// The same within the memory of the host and limits of files.
    #[must_use]
    pub fn within(self, room: Room) -> Self {
        Self { room, ..self }
    }
}

impl Trainer for DeviceTrainer {
    fn check_encoder(&self, name: &str) -> Result<()> {
        let name = EncoderName::parse(name)?;
        if let (EncoderName::Folder(_), Some(folder)) = (&name, hub::find_local(&name)?) {
            let (_, tokenizer) = read_encoder(&folder, None)?;
            for notice in tokenizer.notices() {
                tracing::warn!(encoder = %name, "{notice}");
            }
            // A weight that is no number shall not wait for a job to be found.
            Checkpoint::open(&folder).map_err(Error::of_named)?;
        }
        Ok(())
    }

    fn check(&self, spec: &Spec, data: &dyn Blobs, cancel: &Cancel) -> Result<()> {
        match hub::find_local(&EncoderName::parse(&spec.encoder)?)? {
            Some(folder) => aside(|| {
                let paths = paths(spec, data)?;
                let path_of = |id: &str| paths.get(id).cloned().unwrap_or_default();
                let check = |keep: Keep| {
                    admission::check(spec.clone(), &folder, &path_of, &self.device, &self.room, keep, cancel)
                };
                let keeps = self.turns.is_free() && self.has_room(paths.values());
                if let Some(reading) = keeps.then(|| self.ahead.begin()).flatten() {
                    match check(Keep::Texts) {
                        Ok(plan) => {
                            reading.keep(plan);
                            return Ok(());
                        }
                        // Where the texts have no room after all, less is kept, which tells what would have.
                        Err(error) if error.kind() == Kind::Exhausted => {}
                        Err(error) => return Err(error),
                    }
                }
                check(Keep::Labels).map(drop)
            }),
            None => Ok(()),
        }
    }

    fn dry_run(&self, spec: &Spec, data: &dyn Blobs, cancel: &Cancel) -> Result<DryRun> {
        let name = EncoderName::parse(&spec.encoder)?;
        let was_here = hub::find_local(&name)?.is_some();
        let encoder = hub::resolve(&name, cancel, &mut |_| ())?;
        let plan = aside(|| self.plan(spec, &encoder, data, cancel))?;
        let mut study = self.lanes.files.run(|| Study::new(plan, &self.device, cancel))?;
        for notice in study.encoder_notices() {
            study.note(notice);
        }
        if !was_here {
            study.note(format!("the encoder {name} was downloaded"));
        }
        match self.turns.try_take() {
            Some(turn) => {
                // Nothing is written there, or read: there is no position to continue from.
                let nowhere = std::env::temp_dir().join(ulid::Ulid::generate().to_string());
                let is_wanted = || turn.is_wanted();
                self.lanes.training.run(|| study.rehearse(&self.device, &nowhere, cancel, &is_wanted));
                cancel.check()?;
            }
            None => study.note("a job has the device, so no step was measured and the time is not known"),
        }
        Ok(study.into_report())
    }

    fn train(
        &self,
        spec: &Spec,
        data: &dyn Blobs,
        workspace: &Path,
        control: Control,
        emit: &mut Emit<'_>,
    ) -> Result<Outcome> {
        match self.train_until_asked(spec, data, workspace, control, emit) {
            Err(error) if error.kind() == Kind::Cancelled => Ok(Outcome::Stopped),
            outcome => outcome,
        }
    }
}

impl DeviceTrainer {
    fn train_until_asked(
        &self,
        spec: &Spec,
        data: &dyn Blobs,
        workspace: &Path,
        control: Control,
        emit: &mut Emit<'_>,
    ) -> Result<Outcome> {
        let Control { cancel, seen, .. } = &control;
        // Taken at once: also a job that ends before its files are needed leaves no texts behind.
        let ahead = self.ahead.take(spec);
        let name = EncoderName::parse(&spec.encoder)?;
        // Whether to go on, after a notice that the log need not have yet.
        let tell = |message: String, emit: &mut Emit<'_>| match seen.has_notice(&message) {
            true => ControlFlow::Continue(()),
            false => emit(TrainEvent::Notice { message }),
        };
        let mut is_stopped = false;
        let mut progress = |message| is_stopped |= tell(message, emit).is_break();
        let encoder = hub::resolve(&name, cancel, &mut progress)?;
        if is_stopped {
            return Ok(Outcome::Stopped);
        }
        let _turn = self.turns.take();
        let plan = match ahead.filter(|plan| plan.encoder == encoder) {
            Some(plan) => plan,
            None => aside(|| self.plan(spec, &encoder, data, cancel))?,
        };
        for message in plan.tokenizer.notices() {
            if tell(message.clone(), emit).is_break() {
                return Ok(Outcome::Stopped);
            }
        }
        // Events are logged on this thread: the database's lock is not for a thread of the lowest priority.
        let training = &self.lanes.training;
        training.run_asking(|ask| train::run(plan, &self.device, workspace, control.clone(), ask), emit)
    }

    /// Whether the texts of files may be kept before their job begins, as far as can be known before they are read.
    fn has_room<'a>(&self, files: impl Iterator<Item = &'a PathBuf>) -> bool {
        let bytes: u64 = files.map(|file| unpacked_size(file)).fold(0, u64::saturating_add);
        bytes <= self.room.limits_ahead().memory
    }

    fn plan(&self, spec: &Spec, encoder: &Path, data: &dyn Blobs, cancel: &Cancel) -> Result<Plan> {
        let paths = paths(spec, data)?;
        let path_of = |id: &str| paths.get(id).cloned().unwrap_or_default();
        Plan::within(&self.room, spec.clone(), encoder, &path_of, cancel)
    }
}

/// Where the files of a job can be read. One that is stored elsewhere comes to this machine first.
fn paths(spec: &Spec, data: &dyn Blobs) -> Result<HashMap<String, PathBuf>> {
    let path = |source: &Source| Ok((source.dataset.clone(), data.file(&source.dataset)?));
    spec.sources().map(path).collect()
}
