//! Qwen3Guard-Stream, from its files: verdicts are those of the last token's heads, and a look at a growing text is the Classify of it.

use std::sync::Arc;

use babelward::{
    backend::cpu::CpuBackend,
    engine::Clock,
    guard::GuardKind,
    model::spec::{DeviceChoice, DeviceName, Precision, PrecisionChoice},
    proto::{self, GuardStreamRequest, guard_stream_request::Event as Sent, guard_stream_response::Event},
    registry::{
        KvSize, LoadPolicy, MemoryOptions, ModelRole, ModelSpec, Registry, RegistryError, RegistryOptions,
    },
    rpc::ServerOptions,
};
use tonic::Code;

use crate::{
    rig::{self, Rig, classify, conversation, reason},
    scripted::Gate,
    verdict_heads_golden::{expected, folder},
};

const STREAM: &str = "stream";

const LABELS: [proto::Label; 3] = [
    proto::Label::Safe,
    proto::Label::Unsafe,
    proto::Label::Controversial,
];

fn loaded(roles: Vec<ModelRole>, guard_kind: Option<GuardKind>) -> Result<Arc<Registry>, RegistryError> {
    // The files are read now.
    let folder = folder();
    let memory = MemoryOptions {
        budget: u64::MAX,
        kv: KvSize::Fixed(16 << 20),
    };
    let start = rig::start_options(memory, 1024, Clock::default());
    Registry::load(RegistryOptions {
        models: vec![ModelSpec {
            path: folder.path().to_owned(),
            roles,
            guard_kind,
            device: DeviceChoice::Only(DeviceName::Cpu),
            precision: Some(PrecisionChoice::Only(Precision::F32)),
            load: LoadPolicy::Eager,
            ..rig::spec(STREAM, ModelRole::Guard)
        }],
        max_context: None,
        precision: PrecisionChoice::Only(Precision::F32),
        backends: vec![Arc::new(CpuBackend::new(1))],
        unusable: Vec::new(),
        start,
    })
}

async fn rig() -> Rig {
    let registry = tokio::task::spawn_blocking(|| loaded(vec![ModelRole::Guard], None));
    let registry = registry.await.unwrap().unwrap();
    Rig::serve(registry, ServerOptions::default(), Gate::default()).await
}

fn judge(contents: &[&str]) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        model: STREAM.to_owned(),
        ..classify(contents)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_are_those_of_the_heads_at_the_last_token() {
    let rig = rig().await;
    for case in expected().cases {
        let contents: Vec<&str> = case.contents.iter().map(String::as_str).collect();
        let answer = rig
            .safety()
            .await
            .classify(judge(&contents))
            .await
            .unwrap()
            .into_inner();
        let verdict = answer.verdict.unwrap();
        let [safe, _, controversial] = case.risk[..] else {
            panic!("{:?}", case.risk);
        };
        assert!((verdict.unsafe_score.unwrap() - (1.0 - safe)).abs() < 2e-5);
        assert!((verdict.controversial_score.unwrap() - controversial).abs() < 2e-5);
        assert!((verdict.label_mass - 1.0).abs() < 1e-9);
        let most = |values: &[f64]| {
            (0..values.len())
                .max_by(|a, b| values[*a].total_cmp(&values[*b]))
                .unwrap()
        };
        let label = LABELS[most(&case.risk)];
        assert_eq!(verdict.label(), label, "{contents:?}");
        assert_eq!(
            verdict.categories.is_empty(),
            label == proto::Label::Safe,
            "{contents:?}"
        );
        assert_eq!(
            (verdict.raw_output.as_str(), verdict.refusal()),
            ("", proto::Refusal::Unspecified)
        );
        let usage = verdict.usage.unwrap();
        assert_eq!(usage.prompt_tokens as usize, case.tokens.len(), "{contents:?}");
        assert_eq!(
            (usage.completion_tokens, usage.forward_passes),
            (0, 1),
            "{contents:?}"
        );
    }
}

fn sent(event: Sent) -> GuardStreamRequest {
    GuardStreamRequest { event: Some(event) }
}

/// Without closing words, what a look computes beside the new text is the block that it begins in, and the word that was cut before
/// and has other tokens now.
#[tokio::test(flavor = "multi_thread")]
async fn looks_are_classifications_that_cost_the_new_text_and_a_block() {
    const BLOCK: u32 = 16;
    let rig = rig().await;
    let text =
        "First mix the flour with water. Then let it rest for an hour. Then bake it until it is brown. "
            .repeat(3);
    let start = proto::GuardStart {
        model: STREAM.to_owned(),
        conversation: Some(conversation(&["How do I bake bread?"])),
        options: Some(proto::GuardOptions {
            mode: proto::GuardMode::Observe.into(),
            cadence: Some(proto::GuardCadence {
                tokens: 16,
                sentence_end: Some(false),
            }),
            ..proto::GuardOptions::default()
        }),
        ..proto::GuardStart::default()
    };
    let messages = [
        Sent::Start(start),
        Sent::Chunk(text.clone().into_bytes()),
        Sent::End(proto::GuardEnd {}),
    ];
    let requests = tokio_stream::iter(messages.map(sent));
    let mut stream = rig
        .safety()
        .await
        .guard_stream(requests)
        .await
        .unwrap()
        .into_inner();
    let mut looks = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        if let Some(Event::Look(look)) = response.event {
            looks.push(look);
        }
    }
    assert!(looks.len() > 4, "{looks:?}");
    let mut before: Option<u32> = None;
    for look in looks {
        let verdict = look.verdict.unwrap();
        let usage = verdict.usage.unwrap();
        let computed = usage.prompt_tokens - usage.cached_prompt_tokens;
        if let Some(before) = before {
            let new = usage.prompt_tokens - before;
            assert!(
                computed <= new + 2 * BLOCK,
                "{computed} tokens for {new} new ones"
            );
        }
        before = Some(usage.prompt_tokens);
        let judged = &text[..look.text_bytes as usize];
        let same = rig
            .safety()
            .await
            .classify(judge(&["How do I bake bread?", judged]))
            .await;
        let same = same.unwrap().into_inner().verdict.unwrap();
        assert_eq!(
            (
                verdict.label,
                verdict.unsafe_score.map(f64::to_bits),
                verdict.provenance
            ),
            (same.label, same.unsafe_score.map(f64::to_bits), same.provenance)
        );
    }
}

/// The golden file has the category head's probabilities, `None` among them.
#[tokio::test(flavor = "multi_thread")]
async fn probabilities_of_categories_are_those_of_the_head_and_cost_nothing() {
    let config = std::fs::read(folder().path().join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let rig = rig().await;
    for case in expected().cases {
        let names = match case.judges_an_answer() {
            true => &config["response_category_map"],
            false => &config["query_category_map"],
        };
        let contents: Vec<&str> = case.contents.iter().map(String::as_str).collect();
        let request = proto::ClassifyRequest {
            category_probabilities: true,
            ..judge(&contents)
        };
        let answer = rig.safety().await.classify(request).await.unwrap().into_inner();
        let verdict = answer.verdict.unwrap();
        assert_eq!(verdict.category_usage, None);
        assert_eq!(verdict.usage.unwrap().forward_passes, 1);
        let head = case.category.iter().enumerate();
        let head: Vec<(&str, f64)> = head
            .map(|(index, probability)| (names[index.to_string()].as_str().unwrap(), *probability))
            .filter(|(name, _)| *name != "None")
            .collect();
        let named: f64 = head.iter().map(|(_, probability)| probability).sum();
        let mut sum = 0.0;
        for told in &verdict.category_probabilities {
            let expected = head.iter().find(|(name, _)| *name == told.category);
            let share = expected.map_or(0.0, |(_, probability)| probability / named);
            let expected = (1.0 - case.risk[0]) * share;
            assert!((told.probability - expected).abs() < 2e-5, "{told:?} {expected}");
            sum += told.probability;
        }
        assert!(verdict.category_probabilities.len() >= head.len());
        assert!((sum - verdict.unsafe_score.unwrap()).abs() < 1e-9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_heads_cannot_do_is_refused_by_name() {
    let rig = rig().await;
    let text = proto::GenerateRequest {
        model: STREAM.to_owned(),
        ..rig::generate("hi")
    };
    let refused = rig.generation().await.generate(text).await.unwrap_err();
    assert_eq!(reason(&refused, Code::FailedPrecondition).0, "CAPABILITY_MISSING");
}

#[test]
fn a_model_with_heads_is_a_guard_of_its_own_kind_and_nothing_else() {
    let refused = |roles, kind| loaded(roles, kind).err().unwrap().to_string();
    let both = refused(vec![ModelRole::Guard, ModelRole::Target], None);
    assert!(both.contains("its role can only be guard"), "{both}");
    let error = loaded(vec![ModelRole::Guard], Some(GuardKind::WildGuard))
        .err()
        .unwrap();
    let RegistryError::Guard { source, .. } = error else {
        panic!("{error}");
    };
    let source = source.to_string();
    assert!(
        source.contains("guard_kind is qwen3guard-stream and not wildguard"),
        "{source}"
    );
    assert!(loaded(vec![ModelRole::Guard], Some(GuardKind::Qwen3GuardStream)).is_ok());
}
