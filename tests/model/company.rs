//! Results do not depend on company: scores and seeded generations have the same bits alone and batched, from
//! cache and cold, in chunks and whole, preempted and undisturbed.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use babelward::model::spec::Precision;
use babelward::{
    backend::{
        AdapterIndex, Backend, BatchLimits, ForwardBatch, GeneratedTokens, LanguageModel, LoadOptions,
        ModelLimits, StepError, StepOutput, cpu::CpuBackend,
    },
    engine::{
        self, CancelFlag, Clock, Driver, EngineConfig, EngineHandle, Event, ModelIndex, OutputSpec, Priority,
        Probe, ProbePositions, Sampling, SequenceRequest, SubmitError, Tenant, TenantWeights,
    },
};
use proptest::prelude::*;

use crate::common::{self, golden, load_options};

/// What one sequence asks for.
#[derive(Debug, Clone)]
struct Ask {
    prompt: Vec<u32>,
    new_tokens: usize,
    sampled: bool,
    seed: u64,
    priority: Priority,
    adapter: Option<AdapterIndex>,
}

/// What must not change: bits of the probe, and the tokens with the bits of their log-probabilities.
type Outcome = (Vec<u64>, u32, Vec<(u32, u64)>);

/// A model and its adapters.
struct Model {
    path: PathBuf,
    adapters: Vec<PathBuf>,
    precision: Precision,
}

impl Model {
    fn plain(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            adapters: Vec::new(),
            precision: Precision::Int8,
        }
    }
}

/// A model whose engine does not learn of its window, and so keeps every block until its sequence ends.
struct KeepsAll(Box<dyn LanguageModel>, ModelLimits);

impl KeepsAll {
    fn boxed(model: Box<dyn LanguageModel>) -> Box<dyn LanguageModel> {
        let limits = ModelLimits {
            window: None,
            ..model.limits().clone()
        };
        Box::new(Self(model, limits))
    }
}

impl LanguageModel for KeepsAll {
    fn limits(&self) -> &ModelLimits {
        &self.1
    }

    fn generated_tokens(&self) -> GeneratedTokens {
        self.0.generated_tokens()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        self.0.submit(batch, output)
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.0.wait()
    }
}

fn start(
    model: &Model,
    kv_bytes: usize,
    batch_tokens: usize,
    batch_sequences: usize,
) -> (EngineHandle, engine::EngineThread) {
    let batch = BatchLimits {
        sequences: batch_sequences,
        tokens: batch_tokens,
    };
    start_as(model, kv_bytes, batch, |model| model)
}

fn start_as(
    model: &Model,
    kv_bytes: usize,
    batch: BatchLimits,
    wrap: impl Fn(Box<dyn LanguageModel>) -> Box<dyn LanguageModel>,
) -> (EngineHandle, engine::EngineThread) {
    let backend = CpuBackend::new(2);
    let options = LoadOptions {
        batch,
        ..load_options(model.precision, kv_bytes)
    };
    let loaded = backend.load(&model.path, &model.adapters, &options).unwrap();
    let config = EngineConfig {
        name: "engine-test".into(),
        model_names: vec!["test".into()],
        max_batch_sequences: batch.sequences,
        max_batch_tokens: batch.tokens,
        queue_items: 1024,
        queue_tokens: 1 << 20,
        // Shorter than any step: as many kinds of chunks as there can be.
        step_target: Some(Duration::from_millis(1)),
        cost_prior: backend.device().cost_prior,
        execution: backend.device().execution,
        // Accounts of their own for two of three tenants, so that places and blocks change hands.
        tenant_weights: TenantWeights::new(
            [0, 1].map(|number| (Tenant::named(&format!("tenant-{number}")).unwrap(), 1)),
        ),
        clock: Clock::default(),
        driver: Driver::default(),
    };
    engine::start(config, vec![wrap(loaded.model)]).unwrap()
}

fn request(ask: &Ask) -> (SequenceRequest, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel();
    let sampling = if ask.sampled {
        Sampling {
            temperature: 0.9,
            top_k: 40,
            top_p: 0.95,
            repetition_penalty: 1.1,
            seed: ask.seed,
        }
    } else {
        Sampling::greedy()
    };
    let request = SequenceRequest {
        model: ModelIndex(0),
        adapter: ask.adapter,
        prompt: ask.prompt.clone(),
        output: OutputSpec {
            max_new_tokens: ask.new_tokens,
            eos: Arc::from([]),
            sampling,
            logprobs: Some(0),
            probe: Some(Probe {
                positions: ProbePositions::AfterPrompt,
                tokens: vec![3, 77],
                finish_on: vec![],
            }),
            score: false,
            stop: None,
            pin_prompt: false,
        },
        priority: ask.priority,
        tenant: Tenant::named(&format!("tenant-{}", ask.seed % 3)).unwrap(),
        deadline: None,
        cancel: CancelFlag::default(),
        events: Box::new(move |event| sender.send(event).is_ok()),
        keeper: None,
        span: tracing::Span::none(),
    };
    (request, receiver)
}

fn submit(handle: &EngineHandle, ask: &Ask) -> mpsc::Receiver<Event> {
    let (request, receiver) = request(ask);
    handle.submit(request).unwrap();
    receiver
}

fn outcome(events: &mpsc::Receiver<Event>) -> Outcome {
    finished(events).0
}

/// The outcome, and how many tokens of the prompt were found in the cache.
fn finished(events: &mpsc::Receiver<Event>) -> (Outcome, usize) {
    let (mut probe, mut greedy, mut tokens) = (Vec::new(), 0, Vec::new());
    loop {
        match events.recv_timeout(Duration::from_secs(120)).unwrap() {
            Event::Started { .. } | Event::Score(_) => {}
            Event::Probe(found) => {
                probe = found.logprobs.iter().map(|p| p.to_bits()).collect();
                greedy = found.greedy;
            }
            Event::Token(token) => tokens.push((token.id, token.logprobs.unwrap().chosen.to_bits())),
            Event::Finished(summary) => return ((probe, greedy, tokens), summary.cached_tokens),
            Event::Failed(error) => panic!("{error}"),
        }
    }
}

fn alone(model: &Model, asks: &[Ask]) -> Vec<Outcome> {
    asks.iter()
        .map(|ask| {
            // A new engine each time: nothing cached, nobody else, and no block released.
            let batch = BatchLimits {
                sequences: 64,
                tokens: 4096,
            };
            let (handle, thread) = start_as(model, 64 << 20, batch, KeepsAll::boxed);
            let result = outcome(&submit(&handle, ask));
            handle.shutdown();
            assert!(thread.join(Duration::from_secs(30)));
            result
        })
        .collect()
}

fn together(handle: &EngineHandle, asks: &[Ask]) -> Vec<Outcome> {
    let receivers: Vec<_> = asks.iter().map(|ask| submit(handle, ask)).collect();
    receivers.iter().map(outcome).collect()
}

/// Sequences of the model itself and of its first `adapters`.
fn asks(vocab: u32, adapters: usize) -> impl Strategy<Value = Vec<Ask>> {
    let ask = (
        0usize..3,
        1usize..90,
        0usize..20,
        any::<bool>(),
        any::<u64>(),
        0usize..3,
        0..=adapters,
    )
        .prop_map(
            move |(family, length, new_tokens, sampled, seed, class, adapter)| {
                // Three families of prompts with common beginnings, so that prefixes are shared.
                let shared = (0..48).map(|i| (i * 31 + family as u32 * 17) % vocab);
                let own = (0..length as u32).map(|i| (i.wrapping_mul(seed as u32 | 1) >> 7) % vocab);
                Ask {
                    prompt: shared.take(family * 24).chain(own).collect(),
                    new_tokens,
                    sampled,
                    seed,
                    priority: Priority::ALL[class],
                    adapter: adapter.checked_sub(1).map(AdapterIndex),
                }
            },
        );
    prop::collection::vec(ask, 2..10)
}

/// What an engine is given, and how much it has to work with.
#[derive(Debug, Clone)]
struct Mix {
    asks: Vec<Ask>,
    batch_tokens: usize,
    sequences: usize,
    /// KV blocks; so few that the scheduler preempts.
    blocks: usize,
}

fn mixes(vocab: u32, adapters: usize) -> impl Strategy<Value = Mix> {
    (asks(vocab, adapters), 8usize..200, 1usize..9, 12usize..60).prop_map(
        |(asks, batch_tokens, sequences, blocks)| Mix {
            asks,
            batch_tokens,
            sequences,
            blocks,
        },
    )
}

/// Runs a mix alone, together from cold and together from cache. `block_bytes` is what a KV block takes in f16.
fn check_mix(model: &Model, block_bytes: usize, mix: &Mix) -> Result<(), TestCaseError> {
    let expected = alone(model, &mix.asks);
    let kv_bytes = mix.blocks * block_bytes;
    let (handle, thread) = start(model, kv_bytes, mix.batch_tokens, mix.sequences);
    let cold = together(&handle, &mix.asks);
    prop_assert_eq!(&cold, &expected);
    let cached = together(&handle, &mix.asks);
    prop_assert_eq!(&cached, &expected);
    prop_assert!(handle.wait_idle(Duration::from_secs(30)));
    let stats = handle.stats(ModelIndex(0));
    prop_assert_eq!(stats.total_blocks, mix.blocks);
    prop_assert_eq!(stats.free_blocks, stats.total_blocks);
    handle.shutdown();
    prop_assert!(thread.join(Duration::from_secs(30)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_mixes_on_a_small_model(mix in mixes(256, 0)) {
        check_mix(&Model::plain("dummy:tiny:f32"), 4096, &mix)?;
    }
}

/// Bytes of a block of the model's KV pool.
fn block_bytes(model: &Model) -> usize {
    let options = load_options(model.precision, 0);
    let footprint = CpuBackend::new(1).footprint(&model.path, &[], &options);
    footprint.unwrap().kv_block_bytes as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Tokens of prompts and generated tokens have bits of their own, and none of them depends on which it stands beside, with
    /// an adapter or without.
    #[test]
    fn random_mixes_on_a_quantised_model_in_mixed(
        mix in mixes(256, 1), format in prop::sample::select(vec!["q8_0", "q4_1"]),
    ) {
        let model = Model {
            precision: Precision::Mixed,
            adapters: vec!["dummy:4".into()],
            ..Model::plain(format!("dummy:tiny:{format}"))
        };
        check_mix(&model, block_bytes(&model), &mix)?;
    }
}

/// The next turn of a conversation, whose prompt is the one before, its answer and more, has the bits that it has alone. In
/// mixed nothing of the answer is found in the cache, for its keys and values are not those of a prompt.
#[test]
fn a_conversation_goes_on_as_if_nothing_were_cached() {
    for (precision, cached) in [
        (Precision::Int8, 48),
        (Precision::Bf16, 48),
        (Precision::Mixed, 32),
    ] {
        let model = Model {
            precision,
            ..Model::plain("dummy:tiny:q8_0")
        };
        let mut ask = Ask {
            prompt: (0..40).map(|i| i * 11 % 256).collect(),
            new_tokens: 20,
            sampled: true,
            seed: 3,
            priority: Priority::Interactive,
            adapter: None,
        };
        let (handle, thread) = start(&model, 64 << 20, 48, 4);
        let ((_, _, answer), _) = finished(&submit(&handle, &ask));
        ask.prompt.extend(answer.iter().map(|(token, _)| token));
        ask.prompt.extend([1, 2, 3]);
        let found = finished(&submit(&handle, &ask));
        let again = finished(&submit(&handle, &ask));
        let alone = alone(&model, std::slice::from_ref(&ask)).remove(0);
        assert_eq!(found, (alone.clone(), cached), "{precision:?}");
        // 63 tokens: what has been a prompt once is found whole.
        assert_eq!(again, (alone, 48), "{precision:?}");
        handle.shutdown();
        assert!(thread.join(Duration::from_secs(30)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn random_mixes_on_models_with_windows(mix in mixes(128, 0), model in 0usize..5) {
        let models = [("gemma2", 8192), ("gemma3", 6144), ("cohere2", 8192), ("mistral-window", 8192), ("phi3-window", 4096)];
        let (name, block_bytes) = models[model];
        let folder = golden("models").join(name);
        check_mix(&Model::plain(folder), block_bytes, &mix)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// The same prompts with different adapters: a block found for the wrong one would show.
    #[test]
    fn random_mixes_of_a_model_and_its_adapters(
        mix in mixes(160, 2),
        (precision, block_bytes) in prop::sample::select(vec![(Precision::Int8, 4096), (Precision::Bf16, 6144), (Precision::Mixed, 6144)]),
    ) {
        let model = Model {
            path: golden("models/llama3-rope-tied-bf16/model.gguf"),
            adapters: ["adapters/llama-bf16", "adapters/llama-patterns"].map(golden).to_vec(),
            precision,
        };
        check_mix(&model, block_bytes, &mix)?;
    }
}

/// Every layer has a window of 20 tokens: whatever its length, a sequence holds four blocks of 16 at most. In a pool
/// of nine, sequences of up to 27 blocks run two at a time, are found in the cache in part or not at all, and answer
/// as they do where no block is ever released.
#[test]
fn sequences_longer_than_the_pool_on_a_model_with_a_window_everywhere() {
    let folder = golden("models/mistral-window");
    let asks: Vec<Ask> = (0..6u32)
        .map(|s| Ask {
            prompt: (0..90 + 50 * s)
                .map(|i| {
                    if i < 70 {
                        i * 11 % 128
                    } else {
                        (i * s * 97 + 5) % 128
                    }
                })
                .collect(),
            new_tokens: 20 + 12 * s as usize,
            sampled: s % 2 == 0,
            seed: u64::from(s),
            priority: Priority::ALL[s as usize % 3],
            adapter: None,
        })
        .collect();
    for (precision, block_bytes) in [
        (Precision::F32, 16_384),
        (Precision::Int8, 8192),
        (Precision::Bf16, 8192),
        (Precision::Mixed, 8192),
    ] {
        let model = Model {
            precision,
            ..Model::plain(&folder)
        };
        let expected = alone(&model, &asks);
        let (handle, thread) = start(&model, 9 * block_bytes, 48, 4);
        assert_eq!(together(&handle, &asks), expected);
        assert_eq!(together(&handle, &asks), expected);
        assert!(handle.wait_idle(Duration::from_secs(30)));
        let stats = handle.stats(ModelIndex(0));
        assert_eq!((stats.free_blocks, stats.total_blocks), (9, 9));
        handle.shutdown();
        assert!(thread.join(Duration::from_secs(30)));
    }
    // In three blocks not even one fits, and the window that is served shrinks to the pool as everywhere.
    let (handle, _thread) = start(&Model::plain(&folder), 3 * 8192, 48, 4);
    let (mut request, _events) = request(&asks[0]);
    request.prompt.truncate(48);
    assert_eq!(
        handle.submit(request),
        Err(SubmitError::PromptTooLong {
            tokens: 48,
            limit: 47
        })
    );
    handle.shutdown();
}

#[test]
fn a_mix_on_the_real_model() {
    let asks: Vec<Ask> = (0..6u32)
        .map(|s| Ask {
            prompt: (0..40 + 23 * s)
                .map(|i| {
                    if i < 40 {
                        i * 11 % 49_152
                    } else {
                        (i * s * 97 + 5) % 49_152
                    }
                })
                .collect(),
            new_tokens: 6,
            sampled: s % 2 == 0,
            seed: u64::from(s),
            priority: Priority::ALL[s as usize % 3],
            // Rows beside an adapter's take another way through the feed-forward part than alone.
            adapter: (s == 5).then_some(AdapterIndex(0)),
        })
        .collect();
    for precision in [Precision::Int8, Precision::Bf16, Precision::Mixed] {
        let model = Model {
            precision,
            adapters: vec!["dummy:4".into()],
            ..Model::plain(common::smollm2())
        };
        let expected = alone(&model, &asks);
        let (handle, thread) = start(&model, 64 << 20, 48, 4);
        assert_eq!(together(&handle, &asks), expected);
        assert_eq!(together(&handle, &asks), expected);
        handle.shutdown();
        assert!(thread.join(Duration::from_secs(30)));
    }
}
