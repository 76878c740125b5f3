//! Metrics of the memory for models.

use metrics::{Unit, describe_gauge, gauge};

use crate::model::spec::DeviceName;

/// Describes the metric. Called once, when the server starts.
pub(super) fn describe() {
    describe_gauge!(
        "babelward_memory_bytes",
        Unit::Bytes,
        "Memory for models of each device: the budget, and what is taken of it (weights, buffers, KV pools)."
    );
}

/// Sets the gauges of a device: its budget and the bytes of it that are taken.
pub(super) fn record_memory(device: DeviceName, budget: u64, taken: u64) {
    for (kind, bytes) in [("budget", budget), ("taken", taken)] {
        gauge!("babelward_memory_bytes", "device" => device.to_string(), "kind" => kind).set(bytes as f64);
    }
}
