//! What is needed to run a computation again, and what it cost.

use std::time::{Duration, SystemTime};

use crate::{
    engine::SequenceSummary,
    model::Device,
    proto,
    registry::{ModelEntry, ModelRole, ModelState, Registry},
};

/// Where an answer came from. `template_digest` is empty for raw text, `seed` absent for greedy answers.
pub(crate) fn provenance(entry: &ModelEntry, template_digest: &str, seed: Option<u64>) -> proto::Provenance {
    let resident = &entry.resident;
    proto::Provenance {
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: entry.id.clone(),
        model_digest: resident.digest.clone(),
        tokenizer_digest: resident.tokenizer.digest().to_owned(),
        template_digest: template_digest.to_owned(),
        dtype: resident.dtype.clone(),
        device: resident.device.to_string(),
        determinism: determinism(resident.device).into(),
        seed,
        precision: resident.precision.name().to_owned(),
    }
}

/// What each back end promises.
fn determinism(device: Device) -> proto::Determinism {
    match device {
        // Each row is reduced in a fixed order, whatever shares the batch.
        Device::Cpu => proto::Determinism::BatchInvariant,
    }
}

pub(crate) fn usage(summary: &SequenceSummary) -> proto::Usage {
    proto::Usage {
        prompt_tokens: count(summary.prompt_tokens),
        completion_tokens: count(summary.completion_tokens),
        cached_prompt_tokens: count(summary.cached_tokens),
        forward_passes: count(summary.forward_passes),
    }
}

/// `total` is the time from admission to the end.
pub(crate) fn timing(summary: &SequenceSummary, total: Duration) -> proto::Timing {
    proto::Timing {
        queue: Some(duration(summary.queue)),
        prefill: Some(duration(summary.prefill)),
        decode: Some(duration(summary.decode)),
        total: Some(duration(total)),
        max_batch_size: count(summary.max_batch_size),
    }
}

/// An id as ModelService shows it.
pub(crate) fn model(registry: &Registry, entry: &ModelEntry, state: ModelState) -> proto::Model {
    let resident = &entry.resident;
    let stats = registry.stats(entry);
    let engine = registry.engine_config();
    let (state, error) = match state {
        ModelState::Ready => (proto::model::State::Ready, ""),
        ModelState::Draining => (proto::model::State::Draining, ""),
        ModelState::Failed => (proto::model::State::Failed, "its last forward passes all failed"),
    };
    proto::Model {
        name: entry.id.clone(),
        capabilities: entry.roles.iter().map(|role| capability(*role).into()).collect(),
        state: state.into(),
        architecture: resident.architecture.clone(),
        parameters: resident.parameters,
        dtype: resident.dtype.clone(),
        device: resident.device.to_string(),
        context_tokens: count(resident.limits.context_length),
        max_batch_size: count(engine.max_batch_sequences),
        max_batch_tokens: count(engine.max_batch_tokens),
        resident_bytes: resident.resident_bytes,
        digest: resident.digest.clone(),
        error: error.to_owned(),
        ready_time: Some(timestamp(resident.ready_at)),
        queue_depth: count(stats.queued),
        in_flight: count(stats.running),
    }
}

pub(crate) fn capability(role: ModelRole) -> proto::Capability {
    match role {
        ModelRole::Target => proto::Capability::Generate,
        ModelRole::Guard => proto::Capability::Classify,
    }
}

/// A count as the protocol has it; saturates.
pub(crate) fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(value).unwrap_or_default()
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}
