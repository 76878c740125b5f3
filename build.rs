//! Compiles `proto/` to Rust without `protoc`, and keeps the descriptor set for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 7] = [
    "babelward/v1/common.proto",
    "babelward/v1/generation.proto",
    "babelward/v1/safety.proto",
    "babelward/v1/scoring.proto",
    "babelward/v1/model.proto",
    "babelward/v1/admin.proto",
    "babelward/v1/quality.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("babelward_descriptor.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    // JSON is printed by the names of the types.
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
