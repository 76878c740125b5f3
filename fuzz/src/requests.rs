//! Messages of calls.

use std::sync::LazyLock;

use babelward::{
    proto::{self, generate_request::Prompt},
    rpc::{Limits, RequestChecks},
};
use prost::Message;

/// Every call. The first byte of an input chooses one.
const CALLS: [&str; 21] = [
    "GenerationService/Generate",
    "GenerationService/GenerateStream",
    "SafetyService/Classify",
    "SafetyService/BatchClassify",
    "SafetyService/ClassifyStream",
    "SafetyService/ListPolicies",
    "ScoringService/Score",
    "ScoringService/ScoreStream",
    "ModelService/ListModels",
    "ModelService/GetModel",
    "ModelService/WatchModels",
    "ModelService/CountTokens",
    "AdminService/LoadModel",
    "AdminService/UnloadModel",
    "AdminService/PinModel",
    "AdminService/EstimateModel",
    "QualityService/EstimateQuality",
    "SafetyService/GuardStream",
    "SafetyService/ClassifyRenderings",
    "SafetyService/FindEvidence",
    "ModelService/GetServerStats",
];

/// Most bytes of an error's message and of its details. Both travel in headers, the details in base64, and clients refuse headers
/// of 8 KiB or more.
const MESSAGE_BYTES: usize = 2 << 10;
const DETAILS_BYTES: usize = 4 << 10;

static CHECKS: LazyLock<RequestChecks> =
    LazyLock::new(|| RequestChecks::new(Limits::default()).expect("the program's own descriptors"));

/// The bytes of a request: a refusal fits into headers and is the caller's to mend; what is accepted keeps the limits; and the same
/// message written in another way is accepted too.
pub(crate) fn requests(input: &[u8]) {
    let Some((first, message)) = input.split_first() else {
        return;
    };
    let call = CALLS[usize::from(*first) % CALLS.len()];
    let path = format!("/babelward.v1.{call}");
    match CHECKS.check(&path, message) {
        None => {}
        Some(Err(status)) => {
            assert!(
                status.message().len() <= MESSAGE_BYTES,
                "{} bytes of message",
                status.message().len()
            );
            assert!(
                status.details().len() <= DETAILS_BYTES,
                "{} bytes of details",
                status.details().len()
            );
            assert_ne!(i32::from(status.code()), 13, "internal: {status}");
        }
        Some(Ok(())) => {
            let again = accepted(call, message);
            if let Some(again) = again {
                let found = CHECKS.check(&path, &again);
                assert!(
                    matches!(found, Some(Ok(()))),
                    "{call} was accepted, and is not when it is written again"
                );
            }
        }
    }
}

/// Checks the limits of an accepted message and writes it again.
fn accepted(call: &str, message: &[u8]) -> Option<Vec<u8>> {
    match call {
        "GenerationService/Generate" => Some(written(message, generate)),
        "SafetyService/Classify" => Some(written(message, classify)),
        "SafetyService/GuardStream" => Some(written(message, guard_stream)),
        "SafetyService/BatchClassify" => Some(written(message, |batch: &proto::BatchClassifyRequest| {
            assert!((1..=Limits::default().batch_items).contains(&batch.items.len()));
            batch
                .items
                .iter()
                .filter_map(|item| item.request.as_ref())
                .for_each(classify);
        })),
        "SafetyService/ClassifyRenderings" => {
            Some(written(message, |request: &proto::ClassifyRenderingsRequest| {
                let translated = request
                    .translation
                    .as_ref()
                    .map_or(0, |translation| translation.languages.len());
                assert!((2..=16).contains(&(request.renderings.len() + translated)));
                request.renderings.iter().for_each(classify);
            }))
        }
        "SafetyService/FindEvidence" => Some(written(message, |request: &proto::FindEvidenceRequest| {
            assert!(request.max_passes <= 256);
            classify(
                request
                    .request
                    .as_ref()
                    .expect("an accepted search has a Classify"),
            );
        })),
        "ScoringService/Score" => Some(written(message, |score: &proto::ScoreRequest| {
            generate(score.generate.as_ref().expect("an accepted Score has a Generate"));
        })),
        "QualityService/EstimateQuality" => {
            Some(written(message, |estimate: &proto::EstimateQualityRequest| {
                assert!((1..=Limits::default().batch_items).contains(&estimate.pairs.len()));
            }))
        }
        _ => None,
    }
}

fn written<M: Message + Default + PartialEq>(message: &[u8], check: impl Fn(&M)) -> Vec<u8> {
    let decoded = M::decode(message).expect("an accepted message");
    check(&decoded);
    let bytes = decoded.encode_to_vec();
    let again = M::decode(&bytes[..]).expect("a message that was just written");
    // A number that is none is not equal to itself.
    assert!(
        again == decoded || again.encode_to_vec() == bytes,
        "a message changes when it is written"
    );
    bytes
}

fn conversation(conversation: &proto::Conversation) {
    let limits = Limits::default();
    assert!((1..=limits.messages).contains(&conversation.messages.len()));
    for message in &conversation.messages {
        assert!(message.content.len() <= limits.content_bytes);
        assert!(message.parts.len() <= 64 && message.tool_calls.len() <= 64);
        assert!(message.content.is_empty() || message.parts.is_empty());
        assert_ne!(message.role(), proto::Role::Unspecified);
    }
}

fn classify(request: &proto::ClassifyRequest) {
    conversation(
        request
            .conversation
            .as_ref()
            .expect("an accepted Classify has a conversation"),
    );
}

fn guard_stream(request: &proto::GuardStreamRequest) {
    use proto::guard_stream_request::Event;
    match request.event.as_ref().expect("an accepted message has an event") {
        Event::Start(start) => {
            if let Some(messages) = &start.conversation {
                conversation(messages);
                assert!(messages.messages.len() < Limits::default().messages);
            }
            let options = start.options.unwrap_or_default();
            assert!(
                options
                    .interim_threshold
                    .is_none_or(|value| (0.0..=1.0).contains(&value))
            );
            assert!(options.confirmations <= 8);
            let tokens = options.cadence.unwrap_or_default().tokens;
            assert!(tokens == 0 || (8..=512).contains(&tokens));
        }
        Event::Chunk(chunk) => assert!(chunk.len() <= 64 << 10),
        Event::End(proto::GuardEnd {}) => {}
    }
}

fn generate(request: &proto::GenerateRequest) {
    let limits = Limits::default();
    match request
        .prompt
        .as_ref()
        .expect("an accepted Generate has a prompt")
    {
        Prompt::Conversation(messages) => conversation(messages),
        Prompt::Text(text) => assert!((1..=limits.content_bytes).contains(&text.len())),
        Prompt::TokenIds(tokens) => assert!((1..=limits.token_ids).contains(&tokens.ids.len())),
    }
    let sampling = request.sampling.unwrap_or_default();
    assert!(
        sampling
            .temperature
            .is_none_or(|value| (0.0..=2.0).contains(&value))
    );
    assert!(sampling.top_p.is_none_or(|value| value > 0.0 && value <= 1.0));
    let stopping = request.stopping.clone().unwrap_or_default();
    assert!(stopping.max_new_tokens <= limits.max_new_tokens);
    assert!(stopping.stop_sequences.len() <= limits.stop_sequences);
}
