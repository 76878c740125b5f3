//! A device whose clock moves as the batches' shapes say, and clients of it: for tests of what shares its time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    CancelFlag, Clock, ModelIndex, Priority, SubmitError, Tenant, TenantWeights,
    forecast::{Costs, Shape},
    inbox::{Inbox, QueueBounds},
    sampler::uniform,
    scheduler::{Budget, Ledger},
    scripted::ScriptedModel,
    slots::Arrivals,
    step::ModelEngine,
    testing::{Recorder, greedy, request},
    thread::Turns,
};
use crate::backend::{
    CostPrior, ForwardBatch, LanguageModel, ModelLimits, Readout, StepError, StepOutput, read_row,
};

/// Of each model.
pub const LIMITS: ModelLimits = ModelLimits {
    vocab_size: 61,
    context_length: 600,
    block_size: 16,
    num_blocks: 4096,
    window: None,
};

/// SmolLM2-135M on two cores, about.
pub const COSTS: [f64; 4] = [5e-3, 1.3e-3, 1.6e-3, 1e-3];
/// Longest step without urgent work.
pub const TARGET: Duration = Duration::from_millis(100);

/// A model whose forward passes move the clock.
struct Timed {
    model: Box<dyn LanguageModel>,
    costs: Costs,
    slowness: Slowness,
    nanoseconds: Arc<AtomicU64>,
}

/// By what factor steps take longer than planted, from the time in seconds and a number that no two steps share.
pub type Slowness = Arc<dyn Fn(f64, u64) -> f64 + Send + Sync>;

/// A model without knowledge, for long simulations.
struct Blank {
    limits: ModelLimits,
    output: Option<StepOutput>,
}

impl LanguageModel for Blank {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn submit(&mut self, batch: &ForwardBatch, mut output: StepOutput) -> Result<(), StepError> {
        output.clear();
        let width = self.limits.vocab_size;
        let read = batch.sequences.iter().map(|entry| &entry.readout);
        for (row, readout) in read.filter(|readout| **readout != Readout::None).enumerate() {
            output.logits.resize((row + 1) * width, 0.0);
            output
                .readings
                .extend(read_row(readout, row, &output.logits[row * width..]));
        }
        self.output = Some(output);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.output.take().ok_or(StepError::NotSubmitted)
    }
}

impl LanguageModel for Timed {
    fn limits(&self) -> &ModelLimits {
        self.model.limits()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        let shapes = batch
            .sequences
            .iter()
            .map(|entry| Shape::of(entry.new_tokens, entry.context, entry.readout != Readout::None));
        let seconds = self.costs.step(shapes.fold(Shape::default(), Shape::plus));
        let began = self.nanoseconds.load(Ordering::Relaxed);
        let seconds = seconds * (self.slowness)(began as f64 * 1e-9, began);
        let time = Duration::from_secs_f64(seconds).as_nanos() as u64;
        self.nanoseconds.fetch_add(time, Ordering::Relaxed);
        self.model.submit(batch, output)
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.model.wait()
    }
}

/// Texts of their own have numbers from here on.
const FIRST_OWN: u64 = 1 << 32;

/// A device with its clock.
pub struct World {
    pub inbox: Arc<Inbox>,
    pub turns: Turns,
    start: Instant,
    nanoseconds: Arc<AtomicU64>,
    prompts: u64,
}

impl World {
    /// Models that cost this, and tenants of these weights.
    pub fn new(costs: &[[f64; 4]], budget: Budget, weights: &TenantWeights) -> Self {
        let models = costs.iter().map(|costs| {
            let model: Box<dyn LanguageModel> = Box::new(ScriptedModel::hashing(LIMITS));
            (model, Costs::planted(*costs))
        });
        Self::with(
            models.collect(),
            budget,
            weights,
            &(Arc::new(|_, _| 1.0) as Slowness),
        )
    }

    /// A model with these limits, which knows nothing, on a device of changing speed.
    pub fn blank(
        (limits, costs): (ModelLimits, [f64; 4]),
        budget: Budget,
        weights: &TenantWeights,
        slowness: &Slowness,
    ) -> Self {
        let model: Box<dyn LanguageModel> = Box::new(Blank { limits, output: None });
        Self::with(vec![(model, Costs::planted(costs))], budget, weights, slowness)
    }

    fn with(
        models: Vec<(Box<dyn LanguageModel>, Costs)>,
        budget: Budget,
        weights: &TenantWeights,
        slowness: &Slowness,
    ) -> Self {
        let nanoseconds = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let limits = models.iter().map(|(model, _)| model.limits().clone()).collect();
        let engines = models.into_iter().map(|(model, costs)| {
            let model = Timed {
                model,
                costs,
                slowness: Arc::clone(slowness),
                nanoseconds: Arc::clone(&nanoseconds),
            };
            ModelEngine::new(
                "timed".into(),
                Box::new(model),
                budget,
                CostPrior::SMALL_MACHINE,
                weights.clone(),
            )
        });
        let bounds = QueueBounds {
            items: 100_000,
            tokens: 100_000_000,
        };
        let clock = {
            let nanoseconds = Arc::clone(&nanoseconds);
            move || start + Duration::from_nanos(nanoseconds.load(Ordering::Relaxed))
        };
        Self {
            inbox: Arc::new(Inbox::new(limits, bounds, weights)),
            turns: Turns::new(engines.collect(), Ledger::new(Some(TARGET)), Clock::new(clock)),
            start,
            nanoseconds,
            prompts: 0,
        }
    }

    /// Seconds since the start.
    pub fn now(&self) -> f64 {
        self.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9
    }

    /// Submits what a client asks for.
    pub fn offer(&mut self, ask: &Ask) -> Result<Recorder, SubmitError> {
        self.offer_for(ask, ask.timeout).map(|(recorder, _)| recorder)
    }

    /// The same with another deadline; also returns what cancels it.
    pub fn offer_for(
        &mut self,
        ask: &Ask,
        timeout: Option<f64>,
    ) -> Result<(Recorder, CancelFlag), SubmitError> {
        self.prompts += 1;
        // Beyond what is shared no two go on alike, so that nothing else is cached.
        let token = |i: usize| {
            let text = if i < ask.shared.1 {
                ask.shared.0
            } else {
                FIRST_OWN + self.prompts
            };
            (uniform(text, i as u64) * 61.0) as u32
        };
        let prompt: Vec<u32> = (0..ask.prompt).map(token).collect();
        let (mut request, recorder) = request(&prompt, greedy(ask.answer));
        request.model = ModelIndex(ask.model);
        request.priority = ask.priority;
        request.tenant = ask.tenant.clone();
        let now = self.instant();
        request.deadline = timeout.map(|timeout| now + Duration::from_secs_f64(timeout));
        let cancel = request.cancel.clone();
        self.inbox.submit(request, now).map(|()| (recorder, cancel))
    }

    /// The same where nothing is refused.
    pub fn submit(&mut self, ask: &Ask) -> Recorder {
        self.offer(ask).unwrap()
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// A step, or, with nothing to do, a millisecond.
    pub fn step(&mut self) {
        let mut arrivals = Arrivals::default();
        // "Busy" as far as the inbox is concerned: it is not to wait.
        self.inbox.take(&mut arrivals, true);
        self.turns.take_in(&mut arrivals, &self.inbox);
        if self.turns.has_work() {
            self.turns.step(&self.inbox);
        } else {
            self.nanoseconds.fetch_add(1_000_000, Ordering::Relaxed);
        }
    }
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    pub model: usize,
    pub priority: Priority,
    pub tenant: Tenant,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// How many of them are those of all asks with the same number.
    pub shared: (u64, usize),
    /// Tokens of the answer.
    pub answer: usize,
    /// Seconds until it must be answered.
    pub timeout: Option<f64>,
}

/// A verdict of a model.
pub fn verdict(model: usize) -> Ask {
    Ask {
        model,
        priority: Priority::Urgent,
        tenant: Tenant::default(),
        prompt: 140,
        shared: (0, 0),
        answer: 1,
        timeout: None,
    }
}

/// An answer of the first model.
pub fn generation(prompt: usize, answer: usize) -> Ask {
    Ask {
        model: 0,
        priority: Priority::Interactive,
        tenant: Tenant::default(),
        prompt,
        shared: (0, 0),
        answer,
        timeout: None,
    }
}

/// Some client's open request.
pub struct Open {
    ask: Ask,
    recorder: Recorder,
    submitted: f64,
}

/// Clients that keep a number of generations open all the time.
pub struct Closed {
    asks: Vec<Ask>,
    pub open: Vec<Open>,
    /// Seconds that finished ones took.
    pub took: Vec<f64>,
}

impl Closed {
    /// Nothing is open yet.
    pub fn new(asks: Vec<Ask>) -> Self {
        Self {
            asks,
            open: Vec::new(),
            took: Vec::new(),
        }
    }

    /// Asks again for what is finished.
    pub fn turn(&mut self, world: &mut World) {
        let now = world.now();
        for open in std::mem::take(&mut self.open) {
            if open.recorder.terminal_events() == 0 {
                self.open.push(open);
            } else {
                assert_eq!(open.recorder.tokens().len(), open.ask.answer);
                self.took.push(now - open.submitted);
                self.asks.push(open.ask);
            }
        }
        for ask in std::mem::take(&mut self.asks) {
            let recorder = world.submit(&ask);
            let submitted = world.now();
            self.open.push(Open {
                ask,
                recorder,
                submitted,
            });
        }
    }
}
