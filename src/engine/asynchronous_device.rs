//! A device that computes by itself, in tests: its steps are computed when they are waited for, it records what is asked of
//! it, and fails when it is told to. The engine's turns are taken one by one, on a clock that the test moves.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Instant,
};

use super::{
    SequenceError, SubmitError, TenantWeights,
    cancellation::CancelFlag,
    config::Clock,
    inbox::{Inbox, QueueBounds},
    request::{ModelIndex, SequenceRequest},
    scheduler::{Budget, TimeLedger},
    scripted::ScriptedModel,
    step::ModelEngine,
    testing::{Recorder, greedy, request},
    thread::{ModelTurns, turn},
};
use crate::backend::{CostPrior, Execution, ForwardBatch, LanguageModel, ModelLimits, StepError, StepOutput};

/// What a model of the device is asked to do. The number is the model's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Submit(usize),
    Wait(usize),
    /// It was dropped while its step was under way.
    DroppedUnderWay(usize),
}

/// The test's view of the device.
#[derive(Clone, Default)]
pub(super) struct TestDevice {
    asked: Arc<Mutex<Vec<Asked>>>,
    faults: Arc<Mutex<VecDeque<(Asked, StepError)>>>,
}

impl TestDevice {
    /// Everything that it was asked so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Fails the next time that it is asked this. Faults come in the order in which they were planted.
    pub(super) fn fail(&self, at: Asked, error: StepError) {
        self.faults.lock().unwrap().push_back((at, error));
    }

    fn ask(&self, what: Asked) -> Result<(), StepError> {
        self.asked.lock().unwrap().push(what);
        let mut faults = self.faults.lock().unwrap();
        match faults.front() {
            Some((at, _)) if *at == what => faults.pop_front().map_or(Ok(()), |(_, error)| Err(error)),
            _ => Ok(()),
        }
    }
}

/// A model of the device.
struct RemoteModel {
    index: usize,
    model: ScriptedModel,
    device: TestDevice,
    submitted: Option<(ForwardBatch, StepOutput)>,
}

impl LanguageModel for RemoteModel {
    fn limits(&self) -> &ModelLimits {
        self.model.limits()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        assert!(self.submitted.is_none(), "at most one step is under way");
        self.device.ask(Asked::Submit(self.index))?;
        self.submitted = Some((batch.clone(), output));
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        let (batch, output) = self.submitted.take().ok_or(StepError::NotSubmitted)?;
        self.device.ask(Asked::Wait(self.index))?;
        self.model.forward(&batch, output)
    }
}

impl Drop for RemoteModel {
    fn drop(&mut self) {
        if self.submitted.is_some() {
            let _ = self.device.ask(Asked::DroppedUnderWay(self.index));
        }
    }
}

/// The engine of the device, without its thread.
pub(super) struct TurnByTurn {
    pub(super) inbox: Arc<Inbox>,
    pub(super) turns: ModelTurns,
    pub(super) device: TestDevice,
    now: Arc<Mutex<Instant>>,
}

impl TurnByTurn {
    pub(super) fn new(models: Vec<ScriptedModel>, budget: Budget, execution: Execution) -> Self {
        let device = TestDevice::default();
        let now = Arc::new(Mutex::new(Instant::now()));
        let limits = models.iter().map(|model| model.limits().clone()).collect();
        let engines = models.into_iter().enumerate().map(|(index, model)| {
            ModelEngine::new(
                "remote".into(),
                Box::new(RemoteModel {
                    index,
                    model,
                    device: device.clone(),
                    submitted: None,
                }),
                budget,
                CostPrior::SMALL_MACHINE,
                TenantWeights::default(),
            )
        });
        let bounds = QueueBounds {
            items: 1000,
            tokens: 100_000,
        };
        let clock = Arc::clone(&now);
        let clock = Clock::new(move || *clock.lock().unwrap());
        Self {
            inbox: Arc::new(Inbox::new(limits, bounds, &TenantWeights::default())),
            turns: ModelTurns::new(engines.collect(), TimeLedger::new(None), execution, clock),
            device,
            now,
        }
    }

    pub(super) fn now(&self) -> Instant {
        *self.now.lock().unwrap()
    }

    pub(super) fn advance(&self, time: std::time::Duration) {
        *self.now.lock().unwrap() += time;
    }

    pub(super) fn submit(&self, request: SequenceRequest) -> Result<(), SubmitError> {
        self.inbox.submit(request, self.now())
    }

    /// Submits a prompt for a model, which must be accepted.
    pub(super) fn asks(&self, model: usize, prompt: &[u32], answer: usize) -> (Recorder, CancelFlag) {
        let (mut asked, recorder) = request(prompt, greedy(answer));
        asked.model = ModelIndex(model);
        let cancel = asked.cancel.clone();
        self.submit(asked).unwrap();
        (recorder, cancel)
    }

    /// A turn of the engine's thread, which must have something to do. Returns `false` when the thread ends.
    pub(super) fn turn(&mut self) -> bool {
        turn("engine-test", &self.inbox, &mut self.turns)
    }

    /// Takes turns until no sequence is open.
    pub(super) fn run_until_idle(&mut self) {
        for _ in 0..100_000 {
            if !self.turns.has_work() {
                return;
            }
            self.turn();
        }
        panic!("work is left after 100,000 turns");
    }

    /// Blocks of a model's pool that can be allocated.
    pub(super) fn free_blocks(&self, model: usize) -> usize {
        self.turns.engine(model).kv_counts().available
    }
}

/// The error of sequences when the device is lost for this reason.
pub(super) fn lost(reason: &str) -> SequenceError {
    SequenceError::DeviceLost(reason.into())
}
