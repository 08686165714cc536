//! What every part of the daemon uses.
//!
//! - [`error`]: the one error type
//! - [`cancel`]: the wish that work ends early; [`panic`]: what is left after one
//! - [`random`]: random numbers without state
//! - [`file`]: large files, in pieces
//! - [`digest`]: SHA-256 of files and folders
//! - [`nearest`]: the name that a misspelt one was meant to be
//! - [`model_file`]: files of a model's folder, read at the border
//! - `status` (feature `grpc`): the one table from kinds of failures to gRPC status codes

pub mod cancel;
pub mod digest;
pub mod error;
pub mod file;
pub mod model_file;
pub mod nearest;
pub mod panic;
pub mod random;
#[cfg(feature = "grpc")]
pub mod status;
