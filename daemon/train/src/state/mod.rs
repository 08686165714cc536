//! The state of a run on disk: what continuing it bit for bit needs.
//!
//! A [`Position`] says where a run stands between two optimizer steps. A [`Snapshot`] is a position with the numbers that
//! belong to it (parameters, both moments, the average), copied so that the run can go on while they are written. The
//! [`Saver`] has the thread that writes them, and knows when the next one is due. [`Positions`] are those in a workspace.
//! Random numbers need no state: they are functions of the position.

mod position;
mod positions;
mod saver;
mod snapshot;

pub(super) use position::{Kept, Position};
pub(super) use positions::{Loaded, Positions};
pub(super) use saver::{Moment, Saver};
pub(super) use snapshot::Numbers;
