//! The caller's ends of a running engine: the handle that submits work, and the thread that can be joined.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    config::{Clock, check_model_limits},
    driver::CallerTurns,
    error::{AddModelError, SubmitError},
    inbox::Inbox,
    request::{ModelIndex, SequenceRequest},
    scheduler::Budget,
    stats::ModelStats,
    step::ModelEngine,
    tenant::TenantWeights,
};
use crate::backend::{CostPrior, LanguageModel};

/// Submits work to an engine. Cheap to clone. When the last handle is dropped, the engine's thread ends as soon as no
/// sequence is open.
#[derive(Clone)]
pub struct EngineHandle {
    inbox: Arc<Inbox>,
    clock: Clock,
    scheduling: Arc<Scheduling>,
    _abandon_on_drop: Arc<AbandonOnDrop>,
}

/// How every model of an engine is scheduled.
pub(super) struct Scheduling {
    /// Most sequences and tokens of one step.
    pub(super) budget: Budget,
    /// What steps are expected to cost before any has been measured.
    pub(super) cost_prior: CostPrior,
    /// Weights of the tenants' shares.
    pub(super) weights: TenantWeights,
}

impl Scheduling {
    /// An idle engine for one model, called `name` in metrics.
    pub(super) fn engine(&self, name: &str, model: Box<dyn LanguageModel>) -> ModelEngine {
        ModelEngine::new(
            name.into(),
            model,
            self.budget,
            self.cost_prior,
            self.weights.clone(),
        )
    }
}

/// A model that is being removed from the engine.
pub struct Removal(Receiver<Box<ModelEngine>>);

impl Removal {
    /// Waits until the engine has handed the model back, and drops it on the calling thread. After that the system has
    /// the model's memory back.
    pub fn wait(self) {
        // An error means that the engine has ended and dropped the model, or did not have it.
        let _ = self.0.recv();
    }
}

/// Tells the inbox when the last handle is gone.
struct AbandonOnDrop(Arc<Inbox>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The running thread. Dropping it after [`EngineHandle::shutdown`] waits for the thread to end.
pub struct EngineThread {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
    /// Who takes the engine's turns instead of a thread.
    caller: Option<Arc<CallerTurns>>,
}

impl EngineHandle {
    pub(super) fn new(inbox: Arc<Inbox>, clock: Clock, scheduling: Scheduling) -> Self {
        Self {
            _abandon_on_drop: Arc::new(AbandonOnDrop(Arc::clone(&inbox))),
            inbox,
            clock,
            scheduling: Arc::new(scheduling),
        }
    }

    /// Queues a sequence, or returns at once with the reason why it is refused. Never waits. An index that no model has
    /// is refused with [`SubmitError::EngineGone`].
    pub fn submit(&self, request: SequenceRequest) -> Result<(), SubmitError> {
        self.inbox.submit(request, self.clock.now())
    }

    /// Gives the engine one more model, called `name` in metrics, while the steps of the other models go on.
    pub fn add_model(&self, name: &str, model: Box<dyn LanguageModel>) -> Result<ModelIndex, AddModelError> {
        check_model_limits(model.limits()).map_err(AddModelError::Limits)?;
        let limits = model.limits().clone();
        let engine = Box::new(self.scheduling.engine(name, model));
        self.inbox.add(limits, engine).map(ModelIndex)
    }

    /// Removes a model after the step that the engine is in. Its open sequences fail with
    /// [`SequenceError::ModelRemoved`](super::SequenceError::ModelRemoved), and new ones are refused from now on.
    pub fn remove_model(&self, model: ModelIndex) -> Removal {
        let (sender, receiver) = mpsc::channel();
        self.inbox.remove(model.0, sender);
        Removal(receiver)
    }

    /// The counts of a model's queue, and of its KV pool as of the last step. All are zero for an index that no model
    /// has.
    pub fn stats(&self, model: ModelIndex) -> ModelStats {
        self.inbox.stats(model.0).unwrap_or_default()
    }

    /// Refuses new sequences with [`SubmitError::Draining`] from now on; open ones run to their ends.
    pub fn drain(&self) {
        self.inbox.drain();
    }

    /// Waits until no sequence is queued or running, or the thread has ended. Returns `false` when that takes longer
    /// than `limit`. After [`EngineHandle::drain`], `true` means that every sequence has been answered.
    pub fn wait_idle(&self, limit: Duration) -> bool {
        self.inbox.wait_idle(limit)
    }

    /// Ends the thread after the step it is in. Sequences that are still open fail with
    /// [`SequenceError::ShuttingDown`](super::SequenceError::ShuttingDown).
    pub fn shutdown(&self) {
        self.inbox.shutdown();
    }

    /// Whether the engine's thread is still running.
    pub fn is_alive(&self) -> bool {
        self.inbox.is_alive()
    }

    /// Why the device is lost; `None` while it works. A lost device refuses all sequences and models, and never comes back.
    pub fn loss(&self) -> Option<Arc<str>> {
        self.inbox.loss().cloned()
    }

    /// Calls `listener` when the device is lost, on the engine's thread and before any sequence fails for it. The first
    /// listener counts.
    pub fn on_loss(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.inbox.on_loss(Box::new(listener));
    }

    /// Whether a step of the model has panicked. Such a model refuses all sequences; remove it, and add it again.
    pub fn is_stopped(&self, model: ModelIndex) -> bool {
        self.inbox.is_stopped(model.0)
    }

    /// Calls `listener` when a step of a model has panicked, on the engine's thread and before any sequence fails for it.
    /// The first listener counts.
    pub fn on_stop(&self, listener: impl Fn(ModelIndex) + Send + Sync + 'static) {
        self.inbox.on_stop(Box::new(listener));
    }
}

impl EngineThread {
    /// Runs `body` on a thread of this name.
    pub(super) fn spawn(
        name: String,
        inbox: Arc<Inbox>,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = std::thread::Builder::new().name(name).spawn(body)?;
        Ok(Self {
            inbox,
            thread: Some(thread),
            caller: None,
        })
    }

    /// No thread: `caller` takes the turns.
    pub(super) fn of_caller(caller: Arc<CallerTurns>, inbox: Arc<Inbox>) -> Self {
        Self {
            inbox,
            thread: None,
            caller: Some(caller),
        }
    }

    /// Waits for the thread to end, for at most `limit`. Returns `false` when it has not ended by then; the thread is
    /// then left running and is not waited for again.
    pub fn join(mut self, limit: Duration) -> bool {
        if let Some(caller) = &self.caller {
            // Nobody else takes the turns that are left.
            while self.inbox.is_alive() && caller.turn() {}
        }
        let ended = self.inbox.wait_ended(limit);
        if let (true, Some(thread)) = (ended, self.thread.take()) {
            // The thread catches panics of its steps; any other has been reported on standard error.
            let _ = thread.join();
        }
        self.thread = None;
        ended
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && self.inbox.is_shutting_down()
        {
            let _ = thread.join();
        }
    }
}
