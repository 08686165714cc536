//! The encoder, its head and their loss.

pub mod architecture;
pub mod bert;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod declaration;
pub mod hub;
pub mod objective;
pub mod parameters;
