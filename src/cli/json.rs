//! Proto messages as JSON: the names of the proto, enums by name, 64-bit integers and durations as strings, as
//! in <https://protobuf.dev/programming-guides/json/>.
//!
//! What a message has is read from the descriptors of the proto files, so that a field that is added there is printed
//! without a change here.

use std::{collections::BTreeMap, sync::LazyLock};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost::Name;
use prost_reflect::{
    DescriptorError, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _,
    Value as Field,
};
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

use crate::{client::RpcError, proto::FILE_DESCRIPTOR_SET, status_code::code_name};

/// All message types of the proto files.
static TYPES: LazyLock<Result<DescriptorPool, DescriptorError>> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET));

/// Messages in which a message that is not set is printed as `null`. In all others it is left out.
const NULL_WHEN_UNSET: [&str; 4] = [
    "babelward.v1.Model",
    "babelward.v1.ScoredSample",
    "babelward.v1.GenerateStarted",
    "babelward.v1.GenerateFinished",
];

/// Fields that say nothing while they are empty or not set, and are left out then. All others without presence are always
/// printed.
const LEFT_OUT_WHEN_EMPTY: [&str; 21] = [
    "babelward.v1.Model.remote",
    "babelward.v1.Provenance.adapter_digest",
    "babelward.v1.Provenance.policy",
    "babelward.v1.Provenance.policy_digest",
    "babelward.v1.Provenance.thoughts_left_out",
    "babelward.v1.GenerateDelta.logprobs",
    "babelward.v1.GenerateFinished.guard",
    "babelward.v1.Verdict.refusal",
    "babelward.v1.Verdict.category_probabilities",
    "babelward.v1.Verdict.message_uses",
    "babelward.v1.Verdict.windows",
    "babelward.v1.ClassifyResponse.shadow_decisions",
    "babelward.v1.ClassifyResponse.message_verdicts",
    "babelward.v1.MessageUse.reason",
    "babelward.v1.MessageUse.omitted_parts",
    "babelward.v1.MessageUse.cut_bytes",
    "babelward.v1.ClassifyResponse.classifications",
    "babelward.v1.GuardEnded.shadow_decisions",
    "babelward.v1.ScoredSample.decision",
    "babelward.v1.ScoredSample.shadow_decisions",
    "babelward.v1.DecisionReason.classifier",
];

/// A message, whichever it is.
pub(super) fn message<M: Name>(message: &M) -> anyhow::Result<Value> {
    let types = TYPES.as_ref()?;
    let name = M::full_name();
    let descriptor = types
        .get_message_by_name(&name)
        .with_context(|| format!("the proto files have no message {name}"))?;
    let fields = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    Ok(object(&fields))
}

fn object(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Duration" => return duration(&message.transcode_to().unwrap_or_default()),
        "google.protobuf.Timestamp" => {
            let time: Timestamp = message.transcode_to().unwrap_or_default();
            return time.to_string().into();
        }
        _ => {}
    }
    let mut fields: Vec<_> = descriptor.fields().collect();
    // As they are declared; their numbers tell only which came later.
    fields.sort_by_key(|field| field.path().last().copied());
    let mut printed = serde_json::Map::new();
    for field in fields {
        let shown = match (message.has_field(&field), when_empty(&field)) {
            (true, _) | (false, WhenEmpty::Printed) => value(&message.get_field(&field), &field.kind()),
            (false, WhenEmpty::Null) => Value::Null,
            (false, WhenEmpty::LeftOut) => continue,
        };
        printed.insert(field.name().to_owned(), shown);
    }
    Value::Object(printed)
}

/// What becomes of a field that is not set or has its type's zero value.
enum WhenEmpty {
    Printed,
    Null,
    LeftOut,
}

fn when_empty(field: &FieldDescriptor) -> WhenEmpty {
    let is_message = field.containing_oneof().is_none() && field.kind().as_message().is_some();
    if LEFT_OUT_WHEN_EMPTY.contains(&field.full_name()) {
        WhenEmpty::LeftOut
    } else if !field.supports_presence() {
        WhenEmpty::Printed
    } else if is_message && NULL_WHEN_UNSET.contains(&field.parent_message().full_name()) {
        WhenEmpty::Null
    } else {
        WhenEmpty::LeftOut
    }
}

fn value(field: &Field, kind: &Kind) -> Value {
    match field {
        Field::Bool(flag) => (*flag).into(),
        Field::I32(number) => (*number).into(),
        Field::U32(number) => (*number).into(),
        Field::I64(number) => number.to_string().into(),
        Field::U64(number) => number.to_string().into(),
        Field::F32(number) => (*number).into(),
        Field::F64(number) => (*number).into(),
        Field::String(text) => text.as_str().into(),
        Field::Bytes(bytes) => BASE64_STANDARD.encode(bytes).into(),
        Field::EnumNumber(number) => {
            let known = kind.as_enum().and_then(|values| values.get_value(*number));
            // A newer server may have values that are not known here.
            known.map_or_else(|| (*number).into(), |known| known.name().into())
        }
        Field::Message(message) => object(message),
        Field::List(items) => items.iter().map(|item| value(item, kind)).collect(),
        Field::Map(entries) => {
            let of_values = kind
                .as_message()
                .map(|entry| entry.map_entry_value_field().kind());
            let shown = entries
                .iter()
                .map(|(name, entry)| (key(name), value(entry, of_values.as_ref().unwrap_or(kind))));
            let in_order: BTreeMap<_, _> = shown.collect();
            in_order.into_iter().collect()
        }
    }
}

fn key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(flag) => flag.to_string(),
        MapKey::I32(number) => number.to_string(),
        MapKey::I64(number) => number.to_string(),
        MapKey::U32(number) => number.to_string(),
        MapKey::U64(number) => number.to_string(),
        MapKey::String(text) => text.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{self, generate_response::Event};

    fn usage() -> proto::Usage {
        proto::Usage {
            prompt_tokens: 7,
            completion_tokens: 3,
            cached_prompt_tokens: 0,
            forward_passes: 4,
        }
    }

    fn timing() -> proto::Timing {
        let time = |seconds, nanos| Some(Duration { seconds, nanos });
        proto::Timing {
            queue: time(0, 0),
            prefill: time(0, 5_000_000),
            decode: None,
            total: time(1, 1),
            max_batch_size: 2,
        }
    }

    fn provenance() -> proto::Provenance {
        proto::Provenance {
            server_version: "0.1.0".to_owned(),
            model: "guard".to_owned(),
            model_digest: "sha256:1".to_owned(),
            tokenizer_digest: "sha256:2".to_owned(),
            dtype: "Q8_0".to_owned(),
            precision: "int8".to_owned(),
            instruction_set: "avx2".to_owned(),
            device: "cpu".to_owned(),
            determinism: proto::Determinism::BatchInvariant.into(),
            ..proto::Provenance::default()
        }
    }

    fn of_adapter_and_policy() -> proto::Provenance {
        proto::Provenance {
            seed: Some(u64::MAX),
            adapter_digest: "sha256:3".to_owned(),
            policy: "shop".to_owned(),
            policy_digest: "sha256:4".to_owned(),
            ..provenance()
        }
    }

    fn verdict() -> proto::Verdict {
        proto::Verdict {
            label: proto::Label::Unsafe.into(),
            unsafe_score: Some(0.75),
            label_mass: 0.5,
            categories: vec![proto::CategoryResult {
                category: "S9".to_owned(),
                display_name: "Indiscriminate Weapons".to_owned(),
            }],
            raw_output: "unsafe\nS9".to_owned(),
            usage: Some(usage()),
            timing: Some(timing()),
            provenance: Some(of_adapter_and_policy()),
            ..proto::Verdict::default()
        }
    }

    fn model() -> proto::Model {
        proto::Model {
            name: "guard".to_owned(),
            capabilities: vec![
                proto::Capability::Classify.into(),
                proto::Capability::Generate.into(),
            ],
            state: proto::model::State::Ready.into(),
            parameters: 134_515_008,
            precision: proto::Precision::Int8.into(),
            context_tokens: 8192,
            load: proto::LoadPolicy::Lazy.into(),
            pinned: true,
            ready_time: Some(Timestamp {
                seconds: 1_700_000_000,
                nanos: 120_000_000,
            }),
            adapter: Some(proto::Adapter {
                base: "smol".to_owned(),
                digest: "sha256:5".to_owned(),
                rank: 4,
                parameters: 460_800,
                resident_bytes: 1 << 20,
            }),
            ..proto::Model::default()
        }
    }

    fn printed<M: Name>(message: &M) -> String {
        self::message(message).unwrap().to_string()
    }

    const TIMING: &str =
        r#"{"queue":"0.000000000s","prefill":"0.005000000s","total":"1.000000001s","max_batch_size":2}"#;

    const USAGE: &str =
        r#"{"prompt_tokens":7,"completion_tokens":3,"cached_prompt_tokens":0,"forward_passes":4}"#;

    const PROVENANCE: &str = r#"{"server_version":"0.1.0","model":"guard","model_digest":"sha256:1","#;

    #[test]
    fn verdicts_are_printed_in_the_order_of_the_proto() {
        let expected = [
            r#"{"label":"LABEL_UNSAFE","unsafe_score":0.75,"label_mass":0.5,"#,
            r#""categories":[{"category":"S9","display_name":"Indiscriminate Weapons"}],"#,
            r#""raw_output":"unsafe\nS9","usage":"#,
            USAGE,
            r#","timing":"#,
            TIMING,
            r#","provenance":"#,
            PROVENANCE,
            r#""tokenizer_digest":"sha256:2","template_digest":"","dtype":"Q8_0","precision":"int8","#,
            r#""instruction_set":"avx2","device":"cpu","device_note":"","determinism":"DETERMINISM_BATCH_INVARIANT","#,
            r#""seed":"18446744073709551615","adapter_digest":"sha256:3","policy":"shop","#,
            r#""policy_digest":"sha256:4"}}"#,
        ];
        assert_eq!(printed(&verdict()), expected.concat());
    }

    #[test]
    fn what_is_not_set_is_left_out_and_what_is_zero_is_not() {
        assert_eq!(
            printed(&proto::Verdict::default()),
            r#"{"label":"LABEL_UNSPECIFIED","label_mass":0.0,"categories":[],"raw_output":""}"#
        );
        let provenance = message(&provenance()).unwrap();
        for absent in [
            "seed",
            "adapter_digest",
            "policy",
            "policy_digest",
            "thoughts_left_out",
        ] {
            assert!(provenance.get(absent).is_none(), "{provenance}");
        }
        let thoughtless = proto::Provenance {
            thoughts_left_out: vec![1],
            ..self::provenance()
        };
        assert_eq!(message(&thoughtless).unwrap()["thoughts_left_out"], json!([1]));
    }

    #[test]
    fn models_keep_their_order_and_say_null_for_what_they_lack() {
        let of_counts = concat!(
            r#""max_batch_size":0,"max_batch_tokens":0,"resident_bytes":"0","weight_bytes":"0","scratch_bytes":"0","#,
            r#""kv_bytes":"0","kv_touched_bytes":"0","#
        );
        let expected = [
            r#"{"name":"guard","capabilities":["CAPABILITY_CLASSIFY","CAPABILITY_GENERATE"],"state":"STATE_READY","#,
            r#""architecture":"","parameters":"134515008","dtype":"","precision":"PRECISION_INT8","#,
            r#""instruction_set":"","device":"","device_note":"","context_tokens":8192,"#,
            of_counts,
            r#""load":"LOAD_POLICY_LAZY","pinned":true,"digest":"","error":"","#,
            r#""ready_time":"2023-11-14T22:13:20.120Z","queue_depth":0,"in_flight":0,"#,
            r#""adapter":{"base":"smol","digest":"sha256:5","rank":4,"parameters":"460800","resident_bytes":"1048576"}}"#,
        ];
        assert_eq!(printed(&model()), expected.concat());
        let expected = [
            r#"{"name":"","capabilities":[],"state":"STATE_UNSPECIFIED","architecture":"","parameters":"0","#,
            r#""dtype":"","precision":"PRECISION_UNSPECIFIED","instruction_set":"","device":"","device_note":"","context_tokens":0,"#,
            of_counts,
            r#""load":"LOAD_POLICY_UNSPECIFIED","pinned":false,"digest":"","error":"","ready_time":null,"#,
            r#""queue_depth":0,"in_flight":0,"adapter":null}"#,
        ];
        assert_eq!(printed(&proto::Model::default()), expected.concat());
    }

    #[test]
    fn an_event_is_printed_under_its_name() {
        let event = |event| proto::GenerateResponse { event: Some(event) };
        let delta = proto::GenerateDelta {
            text: "a".to_owned(),
            token_ids: vec![1, 2],
            offset_bytes: 9,
            ..proto::GenerateDelta::default()
        };
        assert_eq!(
            printed(&event(Event::Delta(delta))),
            r#"{"delta":{"text":"a","token_ids":[1,2],"offset_bytes":"9"}}"#
        );
        let started = event(Event::Started(proto::GenerateStarted::default()));
        assert_eq!(
            printed(&started),
            r#"{"started":{"prompt_tokens":0,"seed":"0","provenance":null}}"#
        );
        let finished = event(Event::Finished(proto::GenerateFinished {
            finish_reason: proto::FinishReason::Eos.into(),
            usage: Some(usage()),
            ..proto::GenerateFinished::default()
        }));
        let expected = [
            r#"{"finished":{"finish_reason":"FINISH_REASON_EOS","stop_sequence":"","usage":"#,
            USAGE,
            r#","timing":null,"text_digest":""}}"#,
        ];
        assert_eq!(printed(&finished), expected.concat());
    }

    #[test]
    fn a_value_of_a_newer_server_is_printed_as_its_number() {
        let model = proto::Model { state: 99, ..model() };
        assert_eq!(message(&model).unwrap()["state"], 99);
    }

    /// A message with something in each of its fields; of a oneof the last.
    fn filled(descriptor: &prost_reflect::MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let one = match field.kind() {
                Kind::Double => Field::F64(1.0),
                Kind::Float => Field::F32(1.0),
                Kind::Int32 => Field::I32(1),
                Kind::Int64 => Field::I64(1),
                Kind::Uint32 => Field::U32(1),
                Kind::Uint64 => Field::U64(1),
                Kind::Bool => Field::Bool(true),
                Kind::String => Field::String("x".to_owned()),
                Kind::Bytes => Field::Bytes(vec![0xff].into()),
                Kind::Enum(_) => Field::EnumNumber(1),
                Kind::Message(inner) => Field::Message(filled(&inner)),
                other => panic!("the proto files have no {other:?} yet"),
            };
            let value = match field.is_list() {
                true => Field::List(vec![one]),
                false => one,
            };
            message.set_field(&field, value);
        }
        message
    }

    #[test]
    fn no_field_of_any_message_vanishes() {
        let types = TYPES.as_ref().unwrap();
        let ours = |message: &prost_reflect::MessageDescriptor| message.package_name() == "babelward.v1";
        let mut messages = 0;
        for descriptor in types.all_messages().filter(ours) {
            messages += 1;
            let message = filled(&descriptor);
            let shown = object(&message);
            let printed: Vec<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
            let mut expected: Vec<_> = message.fields().map(|(field, _)| field).collect();
            expected.sort_by_key(|field| field.path().last().copied());
            let expected: Vec<_> = expected.iter().map(FieldDescriptor::name).collect();
            assert_eq!(printed, expected, "{}", descriptor.full_name());
            let oneofs: usize = descriptor.oneofs().map(|oneof| oneof.fields().len() - 1).sum();
            assert_eq!(printed.len() + oneofs, descriptor.fields().len());
        }
        assert!(messages > 40);
    }
}
