//! The host's processor: a thread pool, the best instruction set that it has, and kernels for both.

mod adapter;
mod angles;
mod compute;
mod device;
mod encoders;
mod footprint;
pub mod kernels;
mod kv_cache;
mod ops;
mod profile;
#[cfg(test)]
mod tests;
mod verdict_model;

pub use self::{
    device::CpuBackend,
    profile::{OperationTime, Profile, ProfileError},
};
