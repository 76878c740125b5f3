//! Proto messages as JSON: the names of the proto, enums by name, 64-bit integers and durations as strings, as
//! in <https://protobuf.dev/programming-guides/json/>.

use prost_types::{Duration, Timestamp};
use serde_json::{Map, Value, json};

use crate::{
    client::{RpcError, code_name},
    proto,
};

/// `babelward.v1.Verdict`.
pub(super) fn verdict(verdict: &proto::Verdict) -> Value {
    let categories = verdict.categories.iter();
    let categories: Vec<_> = categories
        .map(|category| json!({"category": category.category, "display_name": category.display_name}))
        .collect();
    let mut object = Map::new();
    object.insert("label".to_owned(), verdict.label().as_str_name().into());
    set(&mut object, "unsafe_score", verdict.unsafe_score);
    object.insert("label_mass".to_owned(), verdict.label_mass.into());
    object.insert("categories".to_owned(), categories.into());
    object.insert("raw_output".to_owned(), verdict.raw_output.clone().into());
    set(&mut object, "usage", verdict.usage.as_ref().map(usage));
    set(&mut object, "timing", verdict.timing.as_ref().map(timing));
    set(
        &mut object,
        "provenance",
        verdict.provenance.as_ref().map(provenance),
    );
    Value::Object(object)
}

/// `babelward.v1.Usage`.
pub(super) fn usage(usage: &proto::Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_prompt_tokens": usage.cached_prompt_tokens,
        "forward_passes": usage.forward_passes,
    })
}

/// `babelward.v1.Timing`.
pub(super) fn timing(timing: &proto::Timing) -> Value {
    let mut object = Map::new();
    let parts = [
        ("queue", &timing.queue),
        ("prefill", &timing.prefill),
        ("decode", &timing.decode),
        ("total", &timing.total),
    ];
    for (name, part) in parts {
        set(&mut object, name, part.as_ref().map(duration));
    }
    object.insert("max_batch_size".to_owned(), timing.max_batch_size.into());
    Value::Object(object)
}

/// `babelward.v1.Provenance`.
pub(super) fn provenance(provenance: &proto::Provenance) -> Value {
    let mut value = json!({
        "server_version": provenance.server_version,
        "model": provenance.model,
        "model_digest": provenance.model_digest,
        "tokenizer_digest": provenance.tokenizer_digest,
        "template_digest": provenance.template_digest,
        "dtype": provenance.dtype,
        "precision": provenance.precision,
        "instruction_set": provenance.instruction_set,
        "device": provenance.device,
        "determinism": provenance.determinism().as_str_name(),
    });
    if let Some(object) = value.as_object_mut() {
        if let Some(seed) = provenance.seed {
            object.insert("seed".to_owned(), seed.to_string().into());
        }
        if !provenance.adapter_digest.is_empty() {
            let digest = provenance.adapter_digest.as_str();
            object.insert("adapter_digest".to_owned(), digest.into());
        }
        if !provenance.policy.is_empty() {
            object.insert("policy".to_owned(), provenance.policy.as_str().into());
            let digest = provenance.policy_digest.as_str();
            object.insert("policy_digest".to_owned(), digest.into());
        }
    }
    value
}

/// `babelward.v1.Model`.
pub(super) fn model(model: &proto::Model) -> Value {
    let capabilities: Vec<_> = model
        .capabilities()
        .map(|capability| capability.as_str_name())
        .collect();
    json!({
        "name": model.name,
        "capabilities": capabilities,
        "state": model.state().as_str_name(),
        "architecture": model.architecture,
        "parameters": model.parameters.to_string(),
        "dtype": model.dtype,
        "precision": model.precision().as_str_name(),
        "instruction_set": model.instruction_set,
        "device": model.device,
        "context_tokens": model.context_tokens,
        "max_batch_size": model.max_batch_size,
        "max_batch_tokens": model.max_batch_tokens,
        "resident_bytes": model.resident_bytes.to_string(),
        "weight_bytes": model.weight_bytes.to_string(),
        "scratch_bytes": model.scratch_bytes.to_string(),
        "kv_bytes": model.kv_bytes.to_string(),
        "kv_touched_bytes": model.kv_touched_bytes.to_string(),
        "load": model.load().as_str_name(),
        "pinned": model.pinned,
        "digest": model.digest,
        "error": model.error,
        "ready_time": model.ready_time.as_ref().map(Timestamp::to_string),
        "queue_depth": model.queue_depth,
        "in_flight": model.in_flight,
        "adapter": model.adapter.as_ref().map(|adapter| json!({
            "base": adapter.base,
            "digest": adapter.digest,
            "rank": adapter.rank,
            "parameters": adapter.parameters.to_string(),
            "resident_bytes": adapter.resident_bytes.to_string(),
        })),
    })
}

/// `babelward.v1.EstimateModelResponse`.
pub(super) fn estimate(response: &proto::EstimateModelResponse) -> Value {
    json!({
        "verdict": response.verdict().as_str_name(),
        "weight_bytes": response.weight_bytes.to_string(),
        "scratch_bytes": response.scratch_bytes.to_string(),
        "kv_minimum_bytes": response.kv_minimum_bytes.to_string(),
        "kv_proposed_bytes": response.kv_proposed_bytes.to_string(),
        "available_bytes": response.available_bytes.to_string(),
        "budget_bytes": response.budget_bytes.to_string(),
        "context_tokens": response.context_tokens,
        "would_evict": response.would_evict,
        "could_unload": response.could_unload,
    })
}

/// `babelward.v1.ScoreResponse`.
pub(super) fn score(response: &proto::ScoreResponse) -> Value {
    json!({
        "samples": response.samples.iter().map(sample).collect::<Vec<_>>(),
        "safe_count": response.safe_count,
        "unsafe_count": response.unsafe_count,
        "undetermined_count": response.undetermined_count,
    })
}

fn sample(sample: &proto::ScoredSample) -> Value {
    json!({
        "text": sample.text,
        "text_digest": sample.text_digest,
        "finish_reason": sample.finish_reason().as_str_name(),
        "seed": sample.seed.to_string(),
        "verdict": sample.verdict.as_ref().map(verdict),
        "usage": sample.usage.as_ref().map(usage),
        "timing": sample.timing.as_ref().map(timing),
        "generation_provenance": sample.generation_provenance.as_ref().map(provenance),
    })
}

/// One event of `babelward.v1.GenerateResponse`.
pub(super) fn generate_event(event: &proto::generate_response::Event) -> Value {
    use proto::generate_response::Event;
    match event {
        Event::Started(started) => json!({"started": {
            "prompt_tokens": started.prompt_tokens,
            "seed": started.seed.to_string(),
            "provenance": started.provenance.as_ref().map(provenance),
        }}),
        Event::Delta(delta) => json!({"delta": {
            "text": delta.text,
            "token_ids": delta.token_ids,
            "offset_bytes": delta.offset_bytes.to_string(),
        }}),
        Event::Finished(finished) => json!({"finished": {
            "finish_reason": finished.finish_reason().as_str_name(),
            "stop_sequence": finished.stop_sequence,
            "usage": finished.usage.as_ref().map(usage),
            "timing": finished.timing.as_ref().map(timing),
            "text_digest": finished.text_digest,
        }}),
    }
}

/// An error, by its status code and reason.
pub(super) fn rpc_error(error: &RpcError) -> Value {
    let violations = error.violations.iter();
    let violations: Vec<_> = violations
        .map(|violation| json!({"field": violation.field, "description": violation.description}))
        .collect();
    json!({
        "code": code_name(error.code),
        "reason": error.reason,
        "message": error.message,
        "field_violations": violations,
    })
}

/// Seconds of a duration; those of ours are never negative.
pub(super) fn seconds(duration: &Duration) -> f64 {
    duration.seconds as f64 + f64::from(duration.nanos) * 1e-9
}

fn duration(duration: &Duration) -> Value {
    format!("{}.{:09}s", duration.seconds, duration.nanos).into()
}

fn set(object: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_keep_the_names_of_the_proto() {
        let message = proto::Verdict {
            label: proto::Label::Unsafe.into(),
            unsafe_score: Some(0.75),
            label_mass: 0.5,
            categories: vec![proto::CategoryResult {
                category: "S9".to_owned(),
                display_name: "Indiscriminate Weapons".to_owned(),
            }],
            raw_output: "unsafe\nS9".to_owned(),
            timing: Some(proto::Timing {
                total: Some(Duration {
                    seconds: 1,
                    nanos: 5_000_000,
                }),
                max_batch_size: 2,
                ..proto::Timing::default()
            }),
            ..proto::Verdict::default()
        };
        let expected = json!({
            "label": "LABEL_UNSAFE",
            "unsafe_score": 0.75,
            "label_mass": 0.5,
            "categories": [{"category": "S9", "display_name": "Indiscriminate Weapons"}],
            "raw_output": "unsafe\nS9",
            "timing": {"total": "1.005000000s", "max_batch_size": 2},
        });
        assert_eq!(verdict(&message), expected);
    }

    #[test]
    fn an_absent_score_is_absent() {
        let value = verdict(&proto::Verdict::default());
        assert!(value.get("unsafe_score").is_none());
        assert_eq!(value["label"], "LABEL_UNSPECIFIED");
    }

    #[test]
    fn a_seed_that_no_double_can_hold_stays_exact() {
        let started = proto::generate_response::Event::Started(proto::GenerateStarted {
            seed: u64::MAX,
            ..proto::GenerateStarted::default()
        });
        assert_eq!(
            generate_event(&started)["started"]["seed"],
            "18446744073709551615"
        );
    }
}
