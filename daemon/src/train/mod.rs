//! Fine-tuning.
//!
//! A specification (`spec`) whose files were read and checked is a `plan`. A plan is turned into tokens (`prepare`)
//! and run (`run`): the model moves (`optimizer`) at the rate of the `schedule` to lower the `objective`, is judged by
//! `metrics` and its `thresholds`, and its position can be saved (`state`). What happens is told in events (`event`); nothing else comes out.

pub mod event;
pub mod methods;
pub mod metrics;
mod objective;
pub mod optimizer;
pub mod plan;
mod prepare;
pub mod run;
pub mod schedule;
pub mod spec;
mod state;
pub mod thresholds;

pub use plan::Plan;
pub use run::{Finished, Outcome, run};
