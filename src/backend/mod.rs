//! Devices: what computes models.

pub mod cpu;
