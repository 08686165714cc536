//! The BERT encoder over packed sequences.
