//! The daemon of Hone.

pub mod data;
pub mod error;
pub mod jobs;
pub mod kernels;
pub mod model;
pub mod random;
pub mod rpc;
pub mod serve;
pub mod train;
