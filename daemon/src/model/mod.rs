//! What a model is built from (`config`, `architecture`, `declaration`, `parameters`), the encoder (`bert`), the head
//! and its loss (`classifier`), the folder they live in (`checkpoint`), and the way from names to folders (`hub`).

pub mod architecture;
pub mod bert;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod declaration;
pub mod hub;
pub mod parameters;
