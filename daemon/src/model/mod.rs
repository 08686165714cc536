//! The encoder (`config`, `parameters`, `bert`), the head (`classifier`) and its loss (`objective`), the folder they live
//! in (`checkpoint`), and the way from names to folders (`hub`).

pub mod bert;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod hub;
pub mod objective;
pub mod parameters;
