//! The engine: one named thread per device owns that device's models, KV blocks and schedulers, and turns
//! submitted sequences into shared forward passes. It uses neither tokio nor tonic.
//!
//! A request goes from [`EngineHandle::submit`] through the inbox (bounded in sequences and prompt tokens) to the
//! engine's thread, which gives its models turns. A model's turn is one step: the scheduler plans which sequences
//! take part and with how many tokens each, the model runs on that batch, and its logits become tokens and events.
//!
//! What callers use: [`SequenceRequest`] (`request.rs`), [`Event`] (`event.rs`), the errors (`error.rs`),
//! [`EngineConfig`] (`config.rs`), [`start`] (`start.rs`) and [`EngineHandle`] (`handle.rs`).

mod admission;
mod answer;
mod arrivals;
mod block_pool;
mod cancellation;
mod config;
mod driver;
mod error;
mod event;
mod fair_share;
mod handle;
mod inbox;
mod kept_prefixes;
mod kv_blocks;
mod model_table;
mod open_prompts;
mod prefix;
mod prefix_cache;
mod prompt_blocks;
mod request;
mod sampler;
mod scheduler;
pub mod scripted;
mod sequence;
mod start;
mod start_rate;
mod stats;
mod step;
mod step_time;
mod tenant;
mod thread;
mod verdict_pace;
mod wait_forecast;
mod waiting;

#[cfg(test)]
mod asynchronous_device;
#[cfg(test)]
mod device_loss_tests;
#[cfg(test)]
mod fair_share_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod generated_tests;
#[cfg(test)]
mod kept_prefix_tests;
#[cfg(test)]
mod kv_blocks_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod mixed_load_tests;
#[cfg(test)]
mod overlap_tests;
#[cfg(test)]
mod random_schedule_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod residency_tests;
#[cfg(test)]
mod scheduling_tests;
#[cfg(test)]
mod simulated_engine;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod thread_tests;

pub use cancellation::CancelFlag;
pub use config::{Clock, EngineConfig};
pub use driver::{CallerTurns, Driver};
pub use error::{AddModelError, LateAnswer, SequenceError, Stage, SubmitError};
pub use event::{Event, EventSink, FinishReason, ProbeResult, SequenceSummary, TokenEvent, TokenLogprobs};
pub use handle::{EngineHandle, EngineThread, Removal};
pub use request::{
    ModelIndex, OutputSpec, PrefixKeeper, Priority, Probe, ProbePositions, Sampling, SequenceRequest,
    StopCondition,
};
pub use start::start;
pub use stats::{ModelStats, TokenTotals};
pub use tenant::{Tenant, TenantNames, TenantWeights};
