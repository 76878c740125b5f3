//! Counts of models in memory, and metrics of the memory for models, and of all models together.

use metrics::{Unit, describe_gauge, gauge};

use crate::{engine::ModelStats, model::spec::DeviceName};

/// What a model in memory is doing, and has done since it was loaded.
#[derive(Debug, Clone)]
pub struct ResidentStats {
    /// The ids that share it.
    pub ids: Vec<String>,
    /// Its queue, KV pool and tokens.
    pub stats: ModelStats,
}

/// Describes the metrics. Called once, when the server starts.
pub(super) fn describe() {
    describe_totals();
    describe_gauge!(
        "babelward_memory_bytes",
        Unit::Bytes,
        "Memory for models of each device: the budget, and what is taken of it (weights, buffers, KV pools)."
    );
}

fn describe_totals() {
    describe_gauge!(
        "babelward_server_queue_depth",
        Unit::Count,
        "Sequences waiting to start, of all models together."
    );
    describe_gauge!(
        "babelward_server_running",
        Unit::Count,
        "Sequences that have started, of all models together."
    );
    describe_gauge!(
        "babelward_server_kv_usage_ratio",
        Unit::Count,
        "Use of the KV cache, from 0 to 1, of the model in which it is highest."
    );
}

/// Sets the totals of the models that are in memory.
pub(super) fn record_totals(models: &[ModelStats]) {
    let sum = |count: fn(&ModelStats) -> usize| models.iter().map(count).sum::<usize>() as f64;
    gauge!("babelward_server_queue_depth").set(sum(|model| model.queued));
    gauge!("babelward_server_running").set(sum(|model| model.running));
    // One full cache makes requests wait, however empty the others are.
    let highest = models.iter().map(ModelStats::kv_usage).fold(0.0, f64::max);
    gauge!("babelward_server_kv_usage_ratio").set(highest);
}

/// Sets the gauges of a device: its budget and the bytes of it that are taken.
pub(super) fn record_memory(device: DeviceName, budget: u64, taken: u64) {
    for (kind, bytes) in [("budget", budget), ("taken", taken)] {
        gauge!("babelward_memory_bytes", "device" => device.to_string(), "kind" => kind).set(bytes as f64);
    }
}
