//! The checkpoint folder: the whole interface between training and serving, in Hugging Face layout.
