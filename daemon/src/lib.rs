//! The daemon of Hone.
