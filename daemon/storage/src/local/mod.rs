//! A folder of this machine: its layout (`data_dir`), and as a place for files and checkpoints (`blobs`).

mod blobs;
pub mod data_dir;
