//! Describes answers and models in the protocol: what is needed to reproduce an answer, and what it cost.

use std::time::{Duration, SystemTime};

use crate::{
    backend::Determinism,
    calibrator::{FittedFor, JudgedSide},
    engine::SequenceSummary,
    guard::{Guard, JudgedRole, Policy},
    proto,
    registry::{
        Declared, DeviceLoss, LoadPolicy, ModelAccess, ModelEntry, ModelRole, ModelState, Registry,
        RemoteModel, ResidentAdapter, passed_over_text,
    },
    remote::{EndpointDescription, RemoteTimes, ReportedEngine},
};

/// The device of what an endpoint computes.
const REMOTE: &str = "remote";

/// What an answer was computed with. `template_digest` is empty for raw text, and `seed` is absent for greedy answers. The
/// caller adds a policy that is not the guard's own.
pub(crate) fn provenance(entry: &ModelEntry, template_digest: &str, seed: Option<u64>) -> proto::Provenance {
    let resident = &entry.resident;
    proto::Provenance {
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: entry.id.clone(),
        model_digest: resident.digest.clone(),
        tokenizer_digest: resident.tokenizer.digest().to_owned(),
        template_digest: template_digest.to_owned(),
        dtype: resident.dtype.clone(),
        device: resident.device.name.to_string(),
        device_note: passed_over_text(&resident.passed_over),
        determinism: determinism(resident.determinism).into(),
        seed,
        precision: resident.precision.name().to_owned(),
        instruction_set: resident.device.architecture.clone(),
        adapter_digest: entry
            .adapter
            .as_ref()
            .map_or_else(String::new, |adapter| adapter.digest.clone()),
        ..proto::Provenance::default()
    }
}

/// What a guard's scores of messages of one side depend on, which a calibrator must have been fitted for. `policy` is what it judges
/// by, if not its own.
pub(crate) fn computed_by(
    model: &ModelAccess,
    guard: &Guard,
    policy: Option<&Policy>,
    judged: JudgedRole,
) -> FittedFor {
    let proto::Provenance {
        model_digest,
        adapter_digest,
        tokenizer_digest,
        template_digest,
        precision,
        ..
    } = match model {
        ModelAccess::Local(entry) => provenance(entry, guard.template_digest(), None),
        // Nothing says which weights it computes with, so no calibrator was fitted for it.
        ModelAccess::Remote(model) => remote_guard_provenance(model, guard, &ReportedBy::default()),
    };
    FittedFor {
        model_digest,
        adapter_digest,
        tokenizer_digest,
        template_digest,
        policy_digest: policy.map_or_else(String::new, |policy| policy.digest().to_owned()),
        precision,
        judged: match judged {
            JudgedRole::User => JudgedSide::Prompt,
            JudgedRole::Agent => JudgedSide::Answer,
        },
    }
}

/// What an endpoint has said of itself: with an answer, and on its own pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReportedBy {
    pub(crate) engine: ReportedEngine,
    pub(crate) description: EndpointDescription,
}

/// What is known of an answer that an endpoint computed. `seed` is absent for greedy answers.
pub(crate) fn remote_provenance(
    model: &RemoteModel,
    reported: &ReportedBy,
    seed: Option<u64>,
) -> proto::Provenance {
    proto::Provenance {
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.id.clone(),
        device: REMOTE.to_owned(),
        determinism: proto::Determinism::BestEffort.into(),
        seed,
        remote: Some(remote_engine(model, reported)),
        ..proto::Provenance::default()
    }
}

/// What is known of a verdict that an endpoint computed.
pub(crate) fn remote_guard_provenance(
    model: &RemoteModel,
    guard: &Guard,
    reported: &ReportedBy,
) -> proto::Provenance {
    let tokenizer = guard.tokenizer();
    proto::Provenance {
        tokenizer_digest: tokenizer.map_or_else(String::new, |tokenizer| tokenizer.digest().to_owned()),
        template_digest: guard.template_digest().to_owned(),
        ..remote_provenance(model, reported, None)
    }
}

fn remote_engine(model: &RemoteModel, reported: &ReportedBy) -> proto::RemoteEngine {
    let options = model.endpoint.options();
    let ReportedBy { engine, description } = reported;
    let text = |said: &Option<String>| said.clone().unwrap_or_default();
    proto::RemoteEngine {
        endpoint: options.url.to_string(),
        model: options.model.clone(),
        reported_model: text(&engine.model),
        reported_fingerprint: text(&engine.fingerprint),
        software: text(&description.software),
        software_version: text(&description.version),
        context_tokens: description.context_tokens.unwrap_or_default(),
    }
}

/// A model id that an endpoint computes, as ModelService describes it.
fn remote_model(
    registry: &Registry,
    declared: &Declared,
    remote: &RemoteModel,
    state: ModelState,
) -> proto::Model {
    let stats = registry.stats(declared);
    let reported = ReportedBy {
        description: remote.endpoint.known_description(),
        ..ReportedBy::default()
    };
    let (state, error) = match state {
        ModelState::Failed => (
            proto::model::State::Failed,
            "its endpoint has failed several times in a row; the server's log says how".to_owned(),
        ),
        ModelState::Draining => (proto::model::State::Draining, String::new()),
        ModelState::Ready | ModelState::Unloaded | ModelState::Loading => {
            (proto::model::State::Ready, String::new())
        }
    };
    let capabilities = declared.roles.iter();
    proto::Model {
        name: declared.id.clone(),
        capabilities: capabilities.map(|role| capability(*role).into()).collect(),
        state: state.into(),
        error,
        queue_depth: count(stats.queued),
        in_flight: count(stats.running),
        max_batch_size: count(remote.endpoint.options().concurrency),
        context_tokens: reported.description.context_tokens.unwrap_or_default(),
        device: REMOTE.to_owned(),
        remote: Some(remote_engine(remote, &reported)),
        ..proto::Model::default()
    }
}

fn determinism(determinism: Determinism) -> proto::Determinism {
    match determinism {
        Determinism::BatchInvariant => proto::Determinism::BatchInvariant,
        Determinism::BestEffort => proto::Determinism::BestEffort,
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

/// The times of a sequence; `total` is the time from its submission to its end.
pub(crate) fn timing(summary: &SequenceSummary, total: Duration) -> proto::Timing {
    proto::Timing {
        queue: Some(duration(summary.queue)),
        prefill: Some(duration(summary.prefill)),
        decode: Some(duration(summary.decode)),
        total: Some(duration(total)),
        max_batch_size: count(summary.max_batch_size),
    }
}

/// The times of a request to an endpoint, whose answer came as a whole; `total` is the time from its beginning to its end.
pub(crate) fn remote_timing(times: &RemoteTimes, total: Duration) -> proto::Timing {
    proto::Timing {
        queue: Some(duration(times.queue)),
        prefill: Some(duration(times.prefill)),
        decode: Some(duration(Duration::ZERO)),
        total: Some(duration(total)),
        max_batch_size: 0,
    }
}

/// A model id as ModelService describes it.
pub(crate) fn model(registry: &Registry, declared: &Declared, state: ModelState) -> proto::Model {
    if let Some(remote) = &declared.remote {
        return remote_model(registry, declared, remote, state);
    }
    let entry = registry.resident(declared);
    let stats = registry.stats(declared);
    let (engine, device) = (registry.engine_config(declared), registry.device_of(declared));
    let [max_batch_size, max_batch_tokens] = engine.map_or([0; 2], |engine| {
        [engine.max_batch_sequences, engine.max_batch_tokens].map(count)
    });
    let (state, error) = match state {
        ModelState::Unloaded => (proto::model::State::Unloaded, String::new()),
        ModelState::Loading => (proto::model::State::Loading, String::new()),
        ModelState::Ready => (proto::model::State::Ready, String::new()),
        ModelState::Draining => (proto::model::State::Draining, String::new()),
        ModelState::Failed => {
            let error = match registry.device_loss(declared) {
                Some(DeviceLoss { device, reason }) => {
                    format!("its device `{device}` is lost ({reason}); restart the server")
                }
                None if registry.is_stopped(declared) => {
                    "a step of it panicked; the server's log says where, and LoadModel brings it back"
                        .to_owned()
                }
                None if entry.is_none() => "it could not be loaded; the server's log says why".to_owned(),
                None => "its last forward passes all failed".to_owned(),
            };
            (proto::model::State::Failed, error)
        }
    };
    let capabilities = declared.roles.iter();
    let named = proto::Model {
        name: declared.id.clone(),
        capabilities: capabilities.map(|role| capability(*role).into()).collect(),
        state: state.into(),
        max_batch_size,
        max_batch_tokens,
        error,
        queue_depth: count(stats.queued),
        in_flight: count(stats.running),
        load: load_policy(declared.policy).into(),
        pinned: registry.is_pinned(declared),
        precision: registry
            .precision(declared)
            .map_or(proto::Precision::Unspecified, proto::Precision::from)
            .into(),
        instruction_set: device.map_or_else(String::new, |device| device.architecture.clone()),
        device: device.map_or_else(String::new, |device| device.name.to_string()),
        device_note: passed_over_text(registry.passed_over(declared)),
        adapter: declared.adapter.as_ref().map(|adapter| proto::Adapter {
            base: adapter.base.clone(),
            ..proto::Adapter::default()
        }),
        ..proto::Model::default()
    };
    let Some(entry) = entry else { return named };
    let resident = &entry.resident;
    let blocks = u64::try_from(resident.limits.num_blocks.max(1)).unwrap_or(u64::MAX);
    let touched = u64::try_from(stats.touched_blocks).unwrap_or(u64::MAX);
    proto::Model {
        architecture: resident.architecture.clone(),
        parameters: resident.parameters,
        dtype: resident.dtype.clone(),
        context_tokens: count(resident.limits.context_length),
        resident_bytes: resident.resident_bytes(),
        weight_bytes: resident.weight_bytes,
        scratch_bytes: resident.scratch_bytes,
        kv_bytes: resident.kv_bytes,
        kv_touched_bytes: resident.kv_bytes / blocks * touched,
        digest: resident.digest.clone(),
        ready_time: Some(timestamp(resident.ready_at)),
        adapter: entry.adapter.as_deref().map(adapter),
        ..named
    }
}

fn adapter(adapter: &ResidentAdapter) -> proto::Adapter {
    proto::Adapter {
        base: adapter.base.clone(),
        digest: adapter.digest.clone(),
        rank: count(adapter.rank),
        parameters: adapter.parameters,
        resident_bytes: adapter.resident_bytes,
    }
}

fn load_policy(policy: LoadPolicy) -> proto::LoadPolicy {
    match policy {
        LoadPolicy::Eager => proto::LoadPolicy::Eager,
        LoadPolicy::Lazy => proto::LoadPolicy::Lazy,
        LoadPolicy::Manual => proto::LoadPolicy::Manual,
    }
}

pub(crate) fn capability(role: ModelRole) -> proto::Capability {
    match role {
        ModelRole::Target => proto::Capability::Generate,
        ModelRole::Guard => proto::Capability::Classify,
        ModelRole::Quality => proto::Capability::EstimateQuality,
        ModelRole::Classifier => proto::Capability::ClassifyText,
    }
}

/// A count in the protocol's type. Larger numbers become its maximum.
pub(crate) fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

pub(crate) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(value).unwrap_or_default()
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}
