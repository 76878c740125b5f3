//! Types and services generated from `proto/babelward/v1`.

#![allow(missing_docs, clippy::all)]

tonic::include_proto!("babelward.v1");

/// Encoded `FileDescriptorSet` of all of its files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/babelward_descriptor.bin"));
