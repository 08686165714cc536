//! The command-line client of Hone.
