//! Fine-tuning.
//!
//! A specification (`spec`) whose files were read and checked is a `plan`. A plan is turned into tokens (`prepare`)
//! and run (`run`) in batches made `ahead` of the step: the model moves at the rate of the `schedule` to
//! lower the `objective`, is judged (`evaluate`) by `metrics` and its `thresholds`, may be averaged over
//! steps, and its position can be saved (`state`). What a run would need can be asked for before: its memory by shapes,
//! its time by the first steps (`rehearsal`). What happens is told in events (`event`), and what looks wrong about it
//! too (`diagnosis`); nothing else comes out.

mod ahead;
pub mod diagnosis;
mod evaluate;
pub mod event;
pub mod methods;
pub mod metrics;
mod objective;
mod pace;
pub mod plan;
mod prepare;
pub mod rehearsal;
pub mod run;
pub mod schedule;
pub mod spec;
mod state;
pub mod thresholds;

pub use plan::Plan;
pub use rehearsal::DryRun;
pub use run::{Finished, Outcome, run};
