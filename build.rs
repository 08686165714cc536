//! Compiles the protocol with protox, so that nobody needs protoc.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 8] = [
    "hone/v1/record.proto",
    "hone/v1/dataset.proto",
    "hone/v1/methods.proto",
    "hone/v1/training.proto",
    "hone/v1/inference.proto",
    "hone/v1/model.proto",
    "tei/v1/tei.proto",
    "inference/grpc_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for folder in ["hone", "tei", "inference"] {
        println!("cargo:rerun-if-changed=proto/{folder}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
