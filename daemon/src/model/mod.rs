//! The encoder (`config`, `parameters`, `bert`), the head and its loss (`classifier`), the folder they live in
//! (`checkpoint`), and the way from names to folders (`hub`).

pub mod bert;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod hub;
pub mod parameters;
