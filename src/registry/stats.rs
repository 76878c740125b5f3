//! What metrics say of the memory for models.

use metrics::{Unit, describe_gauge, gauge};

/// Says what the metric means; once, when the server starts.
pub(super) fn describe() {
    describe_gauge!(
        "babelward_memory_bytes",
        Unit::Bytes,
        "Memory for models: the budget, and what is taken of it (weights, buffers, KV pools)."
    );
}

/// Sets the gauges.
pub(super) fn record_memory(budget: u64, taken: u64) {
    for (kind, bytes) in [("budget", budget), ("taken", taken)] {
        gauge!("babelward_memory_bytes", "kind" => kind).set(bytes as f64);
    }
}
