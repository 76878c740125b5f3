//! Counts of a model for callers, and the engine's metrics, which are recorded once per step.

use std::{sync::Arc, time::Duration};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::request::Priority;

/// What a model is doing now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelStats {
    /// Sequences waiting to start.
    pub queued: usize,
    /// Sequences that have started and not ended.
    pub running: usize,
    /// KV blocks that no sequence holds (cached prefixes count as free unless pinned).
    pub free_blocks: usize,
    /// KV blocks held by pinned prefixes.
    pub pinned_blocks: usize,
    /// KV blocks that have been handed out at least once, which is how much of the pool's memory the system has had to
    /// provide.
    pub touched_blocks: usize,
    /// KV blocks in the pool.
    pub total_blocks: usize,
    /// Tokens since the model was loaded.
    pub tokens: TokenTotals,
}

/// Tokens of a model since it was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenTotals {
    /// Prompt tokens of the sequences that have started, without the cached ones.
    pub computed: u64,
    /// Prompt tokens of the sequences that have started which were in the prefix cache.
    pub cached: u64,
    /// Tokens generated.
    pub generated: u64,
}

impl TokenTotals {
    /// Counts the tokens of a step.
    pub(crate) fn add(&mut self, step: &StepRecord) {
        self.computed = self.computed.saturating_add(step.prompt_tokens);
        self.cached = self.cached.saturating_add(step.cached_tokens);
        self.generated = self.generated.saturating_add(step.generated);
    }
}

impl ModelStats {
    /// KV blocks that sequences hold.
    fn held_blocks(&self) -> usize {
        self.total_blocks
            .saturating_sub(self.free_blocks + self.pinned_blocks)
    }

    /// The share of the KV blocks that are not pinned which sequences hold, from 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        let shared = (self.held_blocks() + self.free_blocks).max(1);
        self.held_blocks() as f64 / shared as f64
    }
}

/// What the metrics record of one step. Reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct StepRecord {
    /// Queue times of the sequences that started, with their classes.
    pub queue_waits: Vec<(Priority, Duration)>,
    /// Prompt tokens of the sequences that started, without the cached ones.
    pub prompt_tokens: u64,
    /// Prompt tokens of the sequences that started which were in the prefix cache.
    pub cached_tokens: u64,
    /// Sequences that lost their blocks to others.
    pub preemptions: u64,
    /// Sequences in the batch.
    pub batch_size: usize,
    /// Tokens in the batch.
    pub batch_tokens: usize,
    /// Tokens generated.
    pub generated: u64,
    /// Times from submission to the logits of the last prompt token, of prompts that ended in this step.
    pub first_tokens: Vec<Duration>,
    /// How long the step took; `None` when there was no forward pass.
    pub seconds: Option<Duration>,
    /// How long the engine's thread took for the arrivals before the step and for planning it.
    pub scheduling: Duration,
    /// Relative error of the step's predicted time.
    pub forecast_error: Option<f64>,
}

impl StepRecord {
    /// Forgets the last step, but keeps the memory of its lists.
    pub(crate) fn reset(&mut self) {
        let (mut queue_waits, mut first_tokens) = (
            std::mem::take(&mut self.queue_waits),
            std::mem::take(&mut self.first_tokens),
        );
        queue_waits.clear();
        first_tokens.clear();
        *self = Self {
            queue_waits,
            first_tokens,
            ..Self::default()
        };
    }
}

/// Describes the metrics. Called once, when an engine starts.
pub(crate) fn describe() {
    describe_gauge!(
        "babelward_queue_depth",
        Unit::Count,
        "Sequences waiting to start."
    );
    describe_gauge!("babelward_running", Unit::Count, "Sequences that have started.");
    describe_histogram!(
        "babelward_queue_wait_seconds",
        Unit::Seconds,
        "Submission to first forward pass, by class: urgent, interactive, batch."
    );
    describe_histogram!(
        "babelward_ttft_seconds",
        Unit::Seconds,
        "Submission to the first logits."
    );
    describe_histogram!(
        "babelward_step_seconds",
        Unit::Seconds,
        "A forward pass with the choice of its tokens."
    );
    describe_histogram!(
        "babelward_scheduling_seconds",
        Unit::Seconds,
        "What the engine's thread takes for the arrivals before a step and for planning it."
    );
    describe_histogram!(
        "babelward_forecast_error",
        Unit::Count,
        "Relative error of a step's predicted time: |actual - predicted| / the larger of the two."
    );
    describe_histogram!(
        "babelward_batch_size",
        Unit::Count,
        "Sequences in a forward pass."
    );
    describe_histogram!("babelward_batch_tokens", Unit::Count, "Tokens in a forward pass.");
    describe_counter!(
        "babelward_tokens_total",
        Unit::Count,
        "Tokens by kind: prompt (computed), cached (prompt tokens found in the prefix cache), generated."
    );
    describe_gauge!(
        "babelward_kv_blocks",
        Unit::Count,
        "KV blocks by state: free (cached prefixes included), held, pinned."
    );
    describe_gauge!(
        "babelward_kv_usage_ratio",
        Unit::Count,
        "Share of the KV blocks that are not pinned which sequences hold, from 0 to 1."
    );
    describe_counter!(
        "babelward_preemptions_total",
        Unit::Count,
        "Sequences that lost their KV blocks."
    );
    describe_counter!("babelward_steps_total", Unit::Count, "Forward passes.");
    describe_gauge!(
        "babelward_device_lost",
        Unit::Count,
        "1 once the engine's device is lost."
    );
    describe_gauge!(
        "babelward_model_stopped",
        Unit::Count,
        "1 while the model is stopped because a step of it panicked, until it is loaded again."
    );
}

/// Records the metrics of one step of the model called `model`.
pub(crate) fn record_step(model: &Arc<str>, step: &StepRecord) {
    for (class, wait) in &step.queue_waits {
        let model = Arc::clone(model);
        histogram!("babelward_queue_wait_seconds", "model" => model, "class" => class.name()).record(*wait);
    }
    if let Some(seconds) = step.seconds {
        histogram!("babelward_step_seconds", "model" => Arc::clone(model)).record(seconds);
        histogram!("babelward_scheduling_seconds", "model" => Arc::clone(model)).record(step.scheduling);
    }
    if let Some(error) = step.forecast_error {
        histogram!("babelward_forecast_error", "model" => Arc::clone(model)).record(error);
    }
    for time in &step.first_tokens {
        histogram!("babelward_ttft_seconds", "model" => Arc::clone(model)).record(*time);
    }
    let tokens = [
        ("prompt", step.prompt_tokens),
        ("cached", step.cached_tokens),
        ("generated", step.generated),
    ];
    for (kind, count) in tokens.into_iter().filter(|(_, count)| *count > 0) {
        counter!("babelward_tokens_total", "model" => Arc::clone(model), "kind" => kind).increment(count);
    }
    if step.preemptions > 0 {
        tracing::debug!(
            model = &**model,
            sequences = step.preemptions,
            "preempted sequences for lack of KV blocks"
        );
        counter!("babelward_preemptions_total", "model" => Arc::clone(model)).increment(step.preemptions);
    }
    if step.batch_size > 0 {
        counter!("babelward_steps_total", "model" => Arc::clone(model)).increment(1);
        histogram!("babelward_batch_size", "model" => Arc::clone(model)).record(step.batch_size as f64);
        histogram!("babelward_batch_tokens", "model" => Arc::clone(model)).record(step.batch_tokens as f64);
        tracing::trace!(
            model = &**model,
            sequences = step.batch_size,
            tokens = step.batch_tokens,
            generated = step.generated,
            seconds = step.seconds.map(|time| time.as_secs_f64()),
            "a step"
        );
    }
}

/// Sets the gauges of the model called `model` to its counts.
pub(crate) fn record_state(model: &Arc<str>, stats: &ModelStats) {
    gauge!("babelward_queue_depth", "model" => Arc::clone(model)).set(stats.queued as f64);
    gauge!("babelward_running", "model" => Arc::clone(model)).set(stats.running as f64);
    let states = [
        ("free", stats.free_blocks),
        ("held", stats.held_blocks()),
        ("pinned", stats.pinned_blocks),
    ];
    for (state, blocks) in states {
        gauge!("babelward_kv_blocks", "model" => Arc::clone(model), "state" => state).set(blocks as f64);
    }
    // Routers read one series per server, and no quotient of two.
    gauge!("babelward_kv_usage_ratio", "model" => Arc::clone(model)).set(stats.kv_usage());
}

/// Records whether the model called `model` is stopped because a step of it panicked.
pub(crate) fn record_stopped(model: &Arc<str>, stopped: bool) {
    gauge!("babelward_model_stopped", "model" => Arc::clone(model)).set(f64::from(u8::from(stopped)));
}

/// Records that the device of the engine called `engine` is lost.
pub(crate) fn record_loss(engine: &str) {
    gauge!("babelward_device_lost", "engine" => engine.to_owned()).set(1.0);
}
