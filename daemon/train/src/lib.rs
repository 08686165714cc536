//! Fine-tuning.
//!
//! A specification (`spec`) whose files were read and checked is a `plan`. A plan is turned into tokens (`prepare`)
//! and run (`run`) in batches made `ahead` of the `step`: the model moves at the rate of the `schedule` to lower the
//! `objective`, is judged (`evaluate`) at the end of each `epoch` by `metrics` and its `thresholds`, may be averaged over
//! steps, and its best checkpoint is kept (`retention`). What a run would need can be asked for before: its memory by
//! shapes, its time by the first steps (`rehearsal`); whether the `host` has that memory is asked before it is taken
//! (`admission`). What happens is told in events (`event`), and what looks wrong about it too (`diagnosis`); nothing else
//! comes out.
//!
//! Whether the result takes the place of a version that serves is a condition on its metrics (`promotion`).
//!
//! A run is driven from outside by its `control`. Its position is saved while it goes on (`state`); one that was cut off
//! continues from there, and tells only what the log has not `seen`.

pub mod admission;
mod ahead;
pub mod control;
pub mod diagnosis;
mod epoch;
mod evaluate;
pub mod event;
pub mod host;
pub mod methods;
pub mod metrics;
mod objective;
mod pace;
pub mod plan;
mod prepare;
pub mod promotion;
pub mod rehearsal;
mod retention;
pub mod run;
pub mod schedule;
pub mod seen;
pub mod spec;
mod state;
mod step;
pub mod thresholds;

pub use control::Control;
pub use plan::Plan;
pub use rehearsal::DryRun;
pub use run::{Finished, Outcome, run};
pub use seen::Seen;
