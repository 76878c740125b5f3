//! Metrics of the memory for models.

use metrics::{Unit, describe_gauge, gauge};

/// Describes the metric. Called once, when the server starts.
pub(super) fn describe() {
    describe_gauge!(
        "babelward_memory_bytes",
        Unit::Bytes,
        "Memory for models: the budget, and what is taken of it (weights, buffers, KV pools)."
    );
}

/// Sets the gauges of the budget and of the bytes that are taken.
pub(super) fn record_memory(budget: u64, taken: u64) {
    for (kind, bytes) in [("budget", budget), ("taken", taken)] {
        gauge!("babelward_memory_bytes", "kind" => kind).set(bytes as f64);
    }
}
