//! What the daemon and the client share: the messages and services of `hone.v1`, compiled from `proto/hone/v1/*.proto`, and
//! what they send, files of text, and say: messages, and the settings of a training job.

pub mod settings;
pub mod text_file;

pub use hone_message as message;

/// Version 1 of the protocol. The comments of the `.proto` files are the documentation of its items.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("hone.v1");
}

/// The services of text-embeddings-inference that a classifier answers.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod tei {
    tonic::include_proto!("tei.v1");
}

/// The Open Inference Protocol (KServe v2), with Triton's streams and model repository.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// The compiled descriptors of all files, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
