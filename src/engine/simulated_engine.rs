//! A simulated engine, whose clock advances by the predicted cost of each batch, and clients of it: for tests of how
//! sequences share a device's time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    arrivals::Arrivals,
    cancellation::CancelFlag,
    config::Clock,
    error::SubmitError,
    inbox::{Inbox, QueueBounds},
    request::{ModelIndex, Priority},
    sampler::uniform,
    scheduler::{Budget, TimeLedger},
    scripted::ScriptedModel,
    step::ModelEngine,
    step_time::{StepCosts, StepShape},
    tenant::{Tenant, TenantWeights},
    testing::{Recorder, greedy, request},
    thread::ModelTurns,
};
use crate::backend::{
    CostPrior, Execution, ForwardBatch, LanguageModel, ModelLimits, Readout, StepError, StepOutput, read_row,
};

/// Limits of each simulated model.
pub(crate) const LIMITS: ModelLimits = ModelLimits {
    vocab_size: 61,
    context_length: 600,
    block_size: 16,
    num_blocks: 4096,
    window: None,
};

/// Roughly the costs of SmolLM2-135M on two cores: seconds per step, per token, per row and per 1024 positions.
pub(crate) const COSTS: [f64; 4] = [5e-3, 1.3e-3, 1.6e-3, 1e-3];
/// Longest time that a step without urgent work is planned to take.
pub(crate) const TARGET: Duration = Duration::from_millis(100);

/// Time that the host takes to submit a step to a device that computes by itself, and again to use its results.
pub(crate) const HOST: Duration = Duration::from_millis(1);

/// A device that computes steps in the order of their submission.
#[derive(Clone)]
struct TimedDevice {
    execution: Execution,
    slowness: Slowness,
    /// The clock.
    nanoseconds: Arc<AtomicU64>,
    /// When the last step that was submitted ends.
    free_at: Arc<AtomicU64>,
    /// How long it has computed.
    busy: Arc<AtomicU64>,
}

impl TimedDevice {
    fn new(execution: Execution, slowness: &Slowness) -> Self {
        Self {
            execution,
            slowness: Arc::clone(slowness),
            nanoseconds: Arc::default(),
            free_at: Arc::default(),
            busy: Arc::default(),
        }
    }

    /// Begins a step that takes this many seconds if the device is neither faster nor slower than planted. Returns when it
    /// ends.
    fn begin(&self, seconds: f64) -> u64 {
        if self.execution == Execution::Asynchronous {
            self.host_works();
        }
        let now = self.nanoseconds.load(Ordering::Relaxed);
        let began = now.max(self.free_at.load(Ordering::Relaxed));
        let seconds = seconds * (self.slowness)(began as f64 * 1e-9, began);
        let time = Duration::from_secs_f64(seconds).as_nanos() as u64;
        self.busy.fetch_add(time, Ordering::Relaxed);
        self.free_at.store(began + time, Ordering::Relaxed);
        if self.execution == Execution::Synchronous {
            self.nanoseconds.store(began + time, Ordering::Relaxed);
        }
        began + time
    }

    /// Waits for a step that ends at this time.
    fn wait(&self, end: u64) {
        if self.execution == Execution::Asynchronous {
            self.nanoseconds.fetch_max(end, Ordering::Relaxed);
            self.host_works();
        }
    }

    fn host_works(&self) {
        self.nanoseconds
            .fetch_add(HOST.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// A model whose steps take time on a device.
struct TimedModel {
    model: Box<dyn LanguageModel>,
    costs: StepCosts,
    device: TimedDevice,
    /// When its last step ends.
    end: u64,
}

/// The factor by which a step takes longer than planted, from the time in seconds and a number that is different for each
/// step.
pub(crate) type Slowness = Arc<dyn Fn(f64, u64) -> f64 + Send + Sync>;

/// A model whose logits are all zero, for long simulations.
struct ZeroModel {
    limits: ModelLimits,
    output: Option<StepOutput>,
}

impl LanguageModel for ZeroModel {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn submit(&mut self, batch: &ForwardBatch, mut output: StepOutput) -> Result<(), StepError> {
        output.clear();
        let width = self.limits.vocab_size;
        let readouts = batch.sequences.iter().map(|entry| &entry.readout);
        for (row, readout) in readouts.filter(|readout| **readout != Readout::None).enumerate() {
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

impl LanguageModel for TimedModel {
    fn limits(&self) -> &ModelLimits {
        self.model.limits()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        let shapes = batch
            .sequences
            .iter()
            .map(|entry| StepShape::of(entry.new_tokens, entry.context, entry.readout != Readout::None));
        let shape = shapes.fold(StepShape::default(), StepShape::plus);
        self.end = self.device.begin(self.costs.step(shape));
        self.model.submit(batch, output)
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.device.wait(self.end);
        self.model.wait()
    }
}

/// Seeds of prompts that share nothing begin here; smaller seeds are those of shared beginnings.
const FIRST_UNSHARED_SEED: u64 = 1 << 32;

/// An engine with its clock.
pub(crate) struct SimulatedEngine {
    pub inbox: Arc<Inbox>,
    pub turns: ModelTurns,
    start: Instant,
    device: TimedDevice,
    prompts: u64,
}

impl SimulatedEngine {
    /// One scripted model for each of these costs, on a device on which a step is done when it has been submitted.
    pub(crate) fn new(costs: &[[f64; 4]], budget: Budget, weights: &TenantWeights) -> Self {
        Self::scripted(costs, budget, weights, Execution::Synchronous)
    }

    /// Like [`SimulatedEngine::new`], on a device that computes by itself. The host takes [`HOST`] before and after each
    /// step.
    pub(crate) fn asynchronous(costs: &[[f64; 4]], budget: Budget, weights: &TenantWeights) -> Self {
        Self::scripted(costs, budget, weights, Execution::Asynchronous)
    }

    fn scripted(costs: &[[f64; 4]], budget: Budget, weights: &TenantWeights, execution: Execution) -> Self {
        let models = costs.iter().map(|costs| {
            let model: Box<dyn LanguageModel> = Box::new(ScriptedModel::hashing(LIMITS));
            (model, StepCosts::planted(*costs))
        });
        let steady: Slowness = Arc::new(|_, _| 1.0);
        let device = TimedDevice::new(execution, &steady);
        Self::with(models.collect(), budget, weights, device)
    }

    /// One model without logits, on a device whose speed changes.
    pub(crate) fn without_logits(
        limits: ModelLimits,
        costs: [f64; 4],
        budget: Budget,
        weights: &TenantWeights,
        slowness: &Slowness,
    ) -> Self {
        let model: Box<dyn LanguageModel> = Box::new(ZeroModel { limits, output: None });
        Self::with(
            vec![(model, StepCosts::planted(costs))],
            budget,
            weights,
            TimedDevice::new(Execution::Synchronous, slowness),
        )
    }

    fn with(
        models: Vec<(Box<dyn LanguageModel>, StepCosts)>,
        budget: Budget,
        weights: &TenantWeights,
        device: TimedDevice,
    ) -> Self {
        let start = Instant::now();
        let limits = models.iter().map(|(model, _)| model.limits().clone()).collect();
        let engines = models.into_iter().map(|(model, costs)| {
            let model = TimedModel {
                model,
                costs,
                device: device.clone(),
                end: 0,
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
            let nanoseconds = Arc::clone(&device.nanoseconds);
            move || start + Duration::from_nanos(nanoseconds.load(Ordering::Relaxed))
        };
        Self {
            inbox: Arc::new(Inbox::new(limits, bounds, weights)),
            turns: ModelTurns::new(
                engines.collect(),
                TimeLedger::new(Some(TARGET)),
                device.execution,
                Clock::new(clock),
            ),
            start,
            device,
            prompts: 0,
        }
    }

    /// Seconds since the start.
    pub(crate) fn now(&self) -> f64 {
        self.device.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9
    }

    /// Seconds that the device has computed.
    pub(crate) fn busy(&self) -> f64 {
        self.device.busy.load(Ordering::Relaxed) as f64 * 1e-9
    }

    /// Submits a request.
    pub(crate) fn try_submit(&mut self, request: &ClientRequest) -> Result<Recorder, SubmitError> {
        self.try_submit_with(request, request.timeout)
            .map(|submitted| submitted.recorder)
    }

    /// Submits a request with another timeout.
    pub(crate) fn try_submit_with(
        &mut self,
        wanted: &ClientRequest,
        timeout: Option<f64>,
    ) -> Result<Submitted, SubmitError> {
        self.prompts += 1;
        // After the shared beginning no two prompts are alike, so that nothing else is cached.
        let token = |i: usize| {
            let seed = if i < wanted.shared_tokens {
                wanted.shared_seed
            } else {
                FIRST_UNSHARED_SEED + self.prompts
            };
            (uniform(seed, i as u64) * 61.0) as u32
        };
        let prompt: Vec<u32> = (0..wanted.prompt).map(token).collect();
        let (mut request, recorder) = request(&prompt, greedy(wanted.answer));
        request.model = ModelIndex(wanted.model);
        request.priority = wanted.priority;
        request.tenant = wanted.tenant.clone();
        let now = self.instant();
        request.deadline = timeout.map(|timeout| now + Duration::from_secs_f64(timeout));
        let cancel = request.cancel.clone();
        self.inbox
            .submit(request, now)
            .map(|()| Submitted { recorder, cancel })
    }

    /// Submits a request that must not be refused.
    pub(crate) fn submit(&mut self, request: &ClientRequest) -> Recorder {
        self.try_submit(request).unwrap()
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_nanos(self.device.nanoseconds.load(Ordering::Relaxed))
    }

    /// Takes a step; with no sequence open, advances the clock by a millisecond.
    pub(crate) fn step(&mut self) {
        let mut arrivals = Arrivals::default();
        // The inbox is told that the thread is busy, so that it does not wait.
        self.inbox.take(&mut arrivals, true);
        self.turns.accept(&mut arrivals, &self.inbox);
        if self.turns.has_work() {
            self.turns.step(&self.inbox);
        } else {
            self.device.nanoseconds.fetch_add(1_000_000, Ordering::Relaxed);
        }
    }
}

/// A request that has been accepted.
pub(crate) struct Submitted {
    pub recorder: Recorder,
    pub cancel: CancelFlag,
}

/// What a client requests.
#[derive(Debug, Clone)]
pub(crate) struct ClientRequest {
    pub model: usize,
    pub priority: Priority,
    pub tenant: Tenant,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// How many of its first tokens are the same as those of all requests with the same seed.
    pub shared_tokens: usize,
    /// Seed of those tokens.
    pub shared_seed: u64,
    /// Tokens of the answer.
    pub answer: usize,
    /// Seconds from submission to the deadline.
    pub timeout: Option<f64>,
}

/// A request for a verdict of a model.
pub(crate) fn verdict(model: usize) -> ClientRequest {
    ClientRequest {
        model,
        priority: Priority::Urgent,
        tenant: Tenant::default(),
        prompt: 140,
        shared_tokens: 0,
        shared_seed: 0,
        answer: 1,
        timeout: None,
    }
}

/// A request for an answer of the first model.
pub(crate) fn generation(prompt: usize, answer: usize) -> ClientRequest {
    ClientRequest {
        model: 0,
        priority: Priority::Interactive,
        tenant: Tenant::default(),
        prompt,
        shared_tokens: 0,
        shared_seed: 0,
        answer,
        timeout: None,
    }
}

/// A client's open request.
pub(crate) struct OpenRequest {
    request: ClientRequest,
    recorder: Recorder,
    submitted: f64,
}

/// Closed-loop clients: each submits its request again as soon as it is answered.
pub(crate) struct ClosedLoop {
    /// Requests to submit next.
    requests: Vec<ClientRequest>,
    pub open: Vec<OpenRequest>,
    /// Seconds that each finished request took.
    pub latencies: Vec<f64>,
}

impl ClosedLoop {
    /// Clients that have submitted nothing yet.
    pub(crate) fn new(requests: Vec<ClientRequest>) -> Self {
        Self {
            requests,
            open: Vec::new(),
            latencies: Vec::new(),
        }
    }

    /// Submits the requests that have been answered again.
    pub(crate) fn resubmit(&mut self, engine: &mut SimulatedEngine) {
        let now = engine.now();
        for open in std::mem::take(&mut self.open) {
            if open.recorder.terminal_events() == 0 {
                self.open.push(open);
            } else {
                assert_eq!(open.recorder.tokens().len(), open.request.answer);
                self.latencies.push(now - open.submitted);
                self.requests.push(open.request);
            }
        }
        for request in std::mem::take(&mut self.requests) {
            let recorder = engine.submit(&request);
            let submitted = engine.now();
            self.open.push(OpenRequest {
                request,
                recorder,
                submitted,
            });
        }
    }
}
