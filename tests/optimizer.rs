//! The optimizer by itself.
