//! What is expected of every catalog and of every place for files, as tests. An implementation calls [`catalog`] or
//! [`blobs`] from a test of its own with a function that makes an empty one.

mod aliases;
mod blobs;
mod datasets;
mod jobs;
mod logs;
mod models;
mod requests;

use std::any::Any;
use std::sync::Arc;

use crate::testing::dataset;
use crate::{Blobs, Catalog};

/// What an implementation needs to keep while it is used: a folder, a connection.
pub type Guard = Box<dyn Any>;

/// A case: its name, and what must hold of something new.
type Case<T> = (&'static str, fn(Arc<T>));

/// Names a case by its function.
macro_rules! cases {
    ($($case:ident),* $(,)?) => { &[$((stringify!($case), $case)),*] };
}
use cases;

/// Runs every case on a catalog of its own. On failure the last line before the panic names the case.
///
/// # Panics
///
/// When the implementation is not what is expected.
pub fn catalog(make: &dyn Fn() -> (Arc<dyn Catalog>, Guard)) {
    let cases =
        [jobs::CASES, logs::CASES, requests::CASES, datasets::CASES, models::CASES, aliases::CASES].concat();
    for (name, case) in cases {
        eprintln!("catalog: {name}");
        let (catalog, _guard) = make();
        catalog.put_dataset(&dataset()).unwrap();
        case(catalog);
    }
}

/// Runs every case on a place of its own. On failure the last line before the panic names the case.
///
/// # Panics
///
/// When the implementation is not what is expected.
pub fn blobs(make: &dyn Fn() -> (Arc<dyn Blobs>, Guard)) {
    for (name, case) in blobs::CASES {
        eprintln!("blobs: {name}");
        let (blobs, _guard) = make();
        case(blobs);
    }
}
