//! EstimateQuality beside other calls, its deadline, a caller that leaves and a drain, with an estimator that is held back.

use std::sync::Arc;

use babelward::{
    backend::{
        BatchSequence, Determinism, Footprint, ForwardBatch, LanguageModel, LoadedModel, ModelLimits,
        Reading, Readout, StepError, StepOutput,
    },
    digest,
    engine::Clock,
    model::spec::Precision,
    proto,
    quality::EstimatorKind,
    registry::{
        KvSize, MemoryOptions, ModelGroup, ModelLoader, ModelRole, OpenedModel, Registry, RegistryError,
    },
    rpc::ServerOptions,
    text::Tokenizer,
};
use tonic::Code;

use crate::{
    estimators::{Case, case},
    quality::{KIWI, estimate, request, texts},
    raw::Raw,
    rig::{self, Rig, eventually, reason},
    scripted::Gate,
};

/// An estimator that says how long its sequences are, when the gate is open.
struct Held {
    limits: ModelLimits,
    gate: Gate,
    output: Option<StepOutput>,
}

impl LanguageModel for Held {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn submit(&mut self, batch: &ForwardBatch, mut output: StepOutput) -> Result<(), StepError> {
        self.gate.pass();
        output.clear();
        let ends = batch
            .sequences
            .iter()
            .filter(|sequence| sequence.readout == Readout::Score);
        let length = |sequence: &BatchSequence| (sequence.context + sequence.new_tokens) as f32;
        output
            .readings
            .extend(ends.map(|sequence| Reading::Score(length(sequence))));
        self.output = Some(output);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.output.take().ok_or(StepError::NotSubmitted)
    }
}

struct HeldLoader {
    tokenizer: Arc<Tokenizer>,
    gate: Gate,
}

impl ModelLoader for HeldLoader {
    fn footprint(&self, _precision: Precision) -> Result<Footprint, RegistryError> {
        Ok(rig::footprint(1, 512))
    }

    fn open(&self, _kv_bytes: u64, precision: Precision) -> Result<OpenedModel, RegistryError> {
        let limits = ModelLimits {
            vocab_size: self.tokenizer.vocab_size(),
            context_length: 512,
            block_size: 16,
            num_blocks: 512,
            window: None,
        };
        let gate = self.gate.clone();
        Ok(OpenedModel {
            loaded: LoadedModel {
                model: Box::new(Held {
                    limits,
                    gate,
                    output: None,
                }),
                architecture: "held".to_owned(),
                layers: 1,
                parameters: 1,
                dtype: "f32".to_owned(),
                precision,
                determinism: Determinism::BatchInvariant,
                weight_bytes: 1,
                kv_bytes: 0,
                adapters: Vec::new(),
            },
            tokenizer: Arc::clone(&self.tokenizer),
            template: None,
            digest: digest::of_bytes("held"),
            names: Vec::new(),
            adapter_digests: Vec::new(),
            estimator: Some(EstimatorKind::CometKiwi),
            labels: None,
            verdict_heads: None,
        })
    }
}

/// That estimator, with the tokenizer of a case.
pub fn group(case: &Case, gate: &Gate) -> ModelGroup {
    let loader = HeldLoader {
        tokenizer: Arc::new(Tokenizer::from_folder(case.folder.path()).unwrap()),
        gate: gate.clone(),
    };
    ModelGroup {
        specs: vec![rig::spec(KIWI, ModelRole::Quality)],
        device: 0,
        passed_over: Vec::new(),
        precision: Precision::F32,
        loader: Box::new(loader),
    }
}

async fn held(case: &Case, options: ServerOptions) -> Rig {
    let gate = Gate::default();
    let group = group(case, &gate);
    let memory = MemoryOptions {
        budget: u64::MAX,
        kv: KvSize::Auto,
    };
    let options_of_start = rig::start_options(memory, 2048, Clock::default());
    let registry = Registry::prepare_groups(vec![group], options_of_start).unwrap();
    registry.load_eager().unwrap();
    Rig::serve(registry, options, gate).await
}

/// Sequences that wait or run.
fn open(rig: &Rig) -> usize {
    let stats = rig.registry.stats(rig.registry.find(KIWI).unwrap());
    stats.queued + stats.running
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_share_batches_and_a_caller_that_leaves_takes_its_pairs_along() {
    let case = case("comet", "softmax");
    let rig = held(&case, ServerOptions::default()).await;
    rig.gate.close();
    let client = rig.quality().await;
    let ask = |pairs: Vec<proto::TranslationPair>| {
        let mut client = client.clone();
        tokio::spawn(async move { client.estimate_quality(request(pairs)).await })
    };
    let first = ask(vec![texts("first", "eins")]);
    rig.blocked().await;
    let callers = [
        ask(vec![texts("one", "eins"), texts("two", "zwei")]),
        ask(vec![texts("three", "drei")]),
    ];
    let gone = ask(vec![texts("four", "vier"); 8]);
    eventually("all pairs are with the engine", || open(&rig) == 12).await;
    gone.abort();
    rig.gate.open();
    let mut largest = 0;
    for caller in callers {
        let answer = caller.await.unwrap().unwrap().into_inner();
        for result in &answer.results {
            largest = largest.max(estimate(result).timing.unwrap().max_batch_size);
        }
    }
    assert!(largest >= 3, "{largest}");
    first.await.unwrap().unwrap();
    eventually("nothing is left", || open(&rig) == 0).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_work() {
    let case = case("comet", "softmax");
    let rig = held(&case, ServerOptions::default()).await;
    rig.gate.close();
    let late = request(vec![texts("one", "eins"), texts("two", "zwei")]);
    let client = Raw::connect(rig.address).await;
    let status = client.call("QualityService/EstimateQuality", "50m", late).await;
    // Whichever hears of it first: the call as a whole, or each of its pairs.
    if status.code() != Code::Ok {
        assert_eq!(reason(&status, Code::DeadlineExceeded).0, "DEADLINE");
    }
    rig.gate.open();
    eventually("nothing is left", || open(&rig) == 0).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_open_pairs_finish_and_refuses_new_ones() {
    let case = case("comet", "softmax");
    let mut rig = held(&case, ServerOptions::default()).await;
    rig.gate.close();
    let mut client = rig.quality().await;
    let open =
        tokio::spawn(async move { client.estimate_quality(request(vec![texts("one", "eins")])).await });
    rig.blocked().await;
    let server = rig.begin_stop();
    eventually("the drain begins", || rig.registry.is_draining()).await;
    let status = rig
        .quality()
        .await
        .estimate_quality(request(vec![texts("two", "zwei")]))
        .await
        .unwrap_err();
    assert_eq!(reason(&status, Code::Unavailable).0, "SERVER_DRAINING");
    rig.gate.open();
    let answer = open.await.unwrap().unwrap().into_inner();
    assert!(estimate(&answer.results[0]).score > 0.0);
    server.await.unwrap().unwrap();
}
