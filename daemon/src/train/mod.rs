//! Fine-tuning.
//!
//! A specification (`spec`) whose files were read and checked is a `plan`. A plan is turned into tokens (`prepare`)
//! and run (`run`): the model moves (`optimizer`) at the rate of the `schedule`, is judged by `metrics`, and its
//! position can be saved (`state`). What it would need can be asked for before: `memory` by shapes, time by the first
//! steps (`rehearsal`). What happens is told in events (`event`); nothing else comes out.

pub mod event;
pub mod memory;
pub mod methods;
pub mod metrics;
pub mod optimizer;
pub mod plan;
mod prepare;
pub mod rehearsal;
pub mod run;
pub mod schedule;
pub mod spec;
mod state;

pub use plan::Plan;
pub use rehearsal::DryRun;
pub use run::{Finished, Outcome, run};
