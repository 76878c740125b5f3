//! What a device can do at best for a model: the limits that measured speeds are shares of.

use crate::model::{LoadError, spec::DeviceName};

/// The limits of a device, as measured on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceilings {
    /// Bytes that copies inside of the device's memory read and write, together, in a second.
    pub copy_bytes_per_second: f64,
    /// Products in the model's shapes, computed as the model computes them.
    pub products: Vec<ProductCeiling>,
    /// Whether a row of each product has the same bits beside any number of rows.
    pub row_bits_agree: bool,
}

/// How fast one product is.
#[derive(Debug, Clone, PartialEq)]
pub struct ProductCeiling {
    /// Rows of the weights.
    pub outputs: usize,
    /// Columns of the weights.
    pub inputs: usize,
    /// Rows that the weights are multiplied with.
    pub rows: usize,
    /// Operations in a second: a multiplication and an addition for each weight and row.
    pub flop_per_second: f64,
}

/// Why a device's limits were not measured.
#[derive(Debug, thiserror::Error)]
pub enum CeilingsError {
    /// Only cards have such a measurement.
    #[error("the limits of {0} cannot be measured: only those of NVIDIA cards can, so name one: cuda:0")]
    NotMeasured(DeviceName),
    /// The device has too little free memory.
    #[error(
        "{device} has {free} bytes of free memory, and measuring its limits for this model takes {needed}; unload another \
         model, or name a smaller one"
    )]
    Memory {
        /// The device.
        device: DeviceName,
        /// Bytes that the measurement takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The device failed.
    #[error("{device}: {error}")]
    Device {
        /// The device.
        device: DeviceName,
        /// What it says.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model's shapes cannot be read.
    #[error(transparent)]
    Model(#[from] LoadError),
}
