//! The engine: one named thread per device owns its models, KV blocks and scheduler, and turns submitted
//! sequences into shared forward passes. No tokio and no tonic here.
//!
//! A request goes from [`EngineHandle::submit`] through the inbox (bounded in sequences and prompt tokens) to
//! the thread, which gives its models turns. A model's turn is one step: the scheduler plans which sequences
//! take part with how many tokens, the model runs on that batch, and its logits become tokens and events.

mod admission;
mod answer;
mod block_pool;
mod fair;
mod forecast;
mod inbox;
mod kv_blocks;
mod outlook;
mod prefix;
mod prefix_cache;
mod request;
mod sampler;
mod scheduler;
pub mod scripted;
mod sequence;
mod slots;
mod stats;
mod step;
mod thread;
mod waiting;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod kv_blocks_tests;
#[cfg(test)]
mod mixed_load_tests;
#[cfg(test)]
mod place_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod residency_tests;
#[cfg(test)]
mod scheduling_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod thread_tests;
#[cfg(test)]
mod world;

pub use fair::{Tenant, TenantWeights};
pub use request::*;

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::backend::{CostPrior, LanguageModel, ModelLimits};
use inbox::{Inbox, QueueBounds};
use scheduler::{Budget, Ledger};
use step::ModelEngine;
use thread::Turns;

/// Reads the time; tests give engines one of their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// A clock that shows what `now` says.
    pub fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Instant::now)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// Limits of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Name of the thread, for example `engine-cpu`.
    pub name: String,
    /// Names of the models in metrics, in the order of the models; a model beyond the list has its index.
    pub model_names: Vec<String>,
    /// Most sequences in one forward pass; also the most that hold KV blocks at the same time. No more than
    /// `max_batch_tokens` count.
    pub max_batch_sequences: usize,
    /// Most tokens in one forward pass (prefill chunks and decodes together).
    pub max_batch_tokens: usize,
    /// Most sequences waiting to start, over all models.
    pub queue_items: usize,
    /// Most prompt tokens waiting to start, over all models. A longer prompt is taken when nothing waits.
    pub queue_tokens: usize,
    /// Longest that a step without urgent work is planned to take; without it, steps are as large as the batch
    /// limits allow and classes matter for the order only.
    pub step_target: Option<Duration>,
    /// What steps are expected to cost before any has been measured.
    pub cost_prior: CostPrior,
    /// Tenants with shares of their own.
    pub tenant_weights: TenantWeights,
    /// Its clock.
    pub clock: Clock,
}

/// What a model is doing now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelStats {
    /// Sequences waiting to start.
    pub queued: usize,
    /// Sequences that have started.
    pub running: usize,
    /// KV blocks that no sequence holds (cached prefixes count as free unless pinned).
    pub free_blocks: usize,
    /// KV blocks held by pinned prefixes.
    pub pinned_blocks: usize,
    /// KV blocks that were ever handed out: so much of the pool's memory the system has given.
    pub touched_blocks: usize,
    /// KV blocks in the pool.
    pub total_blocks: usize,
}

/// Submits work to an engine. Cheap to clone. When the last handle is dropped, the thread ends as soon as
/// nothing is open.
#[derive(Clone)]
pub struct EngineHandle {
    inbox: Arc<Inbox>,
    clock: Clock,
    scheduling: Arc<Scheduling>,
    _last: Arc<AbandonOnDrop>,
}

/// How every model is scheduled.
struct Scheduling {
    budget: Budget,
    cost_prior: CostPrior,
    weights: TenantWeights,
}

impl Scheduling {
    fn engine(&self, name: &str, model: Box<dyn LanguageModel>) -> ModelEngine {
        ModelEngine::new(
            name.into(),
            model,
            self.budget,
            self.cost_prior,
            self.weights.clone(),
        )
    }
}

/// Why a model could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddModelError {
    /// One of its limits makes no sense.
    #[error("{0}")]
    Limits(io::Error),
    /// The engine takes nothing new.
    #[error("the engine takes nothing new")]
    Closed,
}

/// A model on its way out of the engine.
pub struct Removal(Receiver<Box<ModelEngine>>);

impl Removal {
    /// Waits until the engine has let go of the model, and drops it on this thread: then its memory is the
    /// system's again.
    pub fn wait(self) {
        // An error means that the engine has ended and dropped it, or had none.
        let _ = self.0.recv();
    }
}

struct AbandonOnDrop(Arc<Inbox>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The running thread; joins when dropped after [`EngineHandle::shutdown`].
pub struct EngineThread {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the engine's thread.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a limit of zero, in the configuration or of a model; else what the
/// system says when it cannot start a thread.
pub fn start(
    config: EngineConfig,
    models: Vec<Box<dyn LanguageModel>>,
) -> io::Result<(EngineHandle, EngineThread)> {
    check_config(&config)?;
    for model in &models {
        check_limits(model.limits())?;
    }
    stats::describe();
    let limits = models.iter().map(|model| model.limits().clone()).collect();
    let bounds = QueueBounds {
        items: config.queue_items,
        tokens: config.queue_tokens,
    };
    let inbox = Arc::new(Inbox::new(limits, bounds, &config.tenant_weights));
    let scheduling = Scheduling {
        budget: Budget::new(config.max_batch_sequences, config.max_batch_tokens),
        cost_prior: config.cost_prior,
        weights: config.tenant_weights,
    };
    let names = config
        .model_names
        .into_iter()
        .map(Some)
        .chain(std::iter::repeat(None));
    let engines: Vec<_> = models
        .into_iter()
        .zip(names)
        .enumerate()
        .map(|(index, (model, name))| {
            let name = name.unwrap_or_else(|| index.to_string());
            scheduling.engine(&name, model)
        })
        .collect();
    let turns = Turns::new(engines, Ledger::new(config.step_target), config.clock.clone());
    let thread = {
        let (inbox, name) = (Arc::clone(&inbox), config.name.clone());
        std::thread::Builder::new()
            .name(config.name)
            .spawn(move || thread::run(&name, &inbox, turns))?
    };
    let handle = EngineHandle {
        inbox: Arc::clone(&inbox),
        clock: config.clock,
        scheduling: Arc::new(scheduling),
        _last: Arc::new(AbandonOnDrop(Arc::clone(&inbox))),
    };
    Ok((
        handle,
        EngineThread {
            inbox,
            thread: Some(thread),
        },
    ))
}

fn check_config(config: &EngineConfig) -> io::Result<()> {
    let fields = [
        ("max_batch_sequences", config.max_batch_sequences),
        ("max_batch_tokens", config.max_batch_tokens),
        ("queue_items", config.queue_items),
        ("queue_tokens", config.queue_tokens),
    ];
    not_zero(&fields)
}

fn check_limits(limits: &ModelLimits) -> io::Result<()> {
    let fields = [
        ("vocab_size", limits.vocab_size),
        ("context_length", limits.context_length),
        ("block_size", limits.block_size),
        ("num_blocks", limits.num_blocks),
    ];
    not_zero(&fields)?;
    if u32::try_from(limits.num_blocks).is_err() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "num_blocks must fit into 32 bits",
        ));
    }
    Ok(())
}

fn not_zero(fields: &[(&str, usize)]) -> io::Result<()> {
    match fields.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name} must be at least 1"),
        )),
        None => Ok(()),
    }
}

impl EngineHandle {
    /// Queues a sequence, or says at once why not. Never waits. An index of no model counts as
    /// [`SubmitError::EngineGone`].
    pub fn submit(&self, request: SequenceRequest) -> Result<(), SubmitError> {
        self.inbox.submit(request, self.clock.now())
    }

    /// Gives the engine one more model, called `name` in metrics; the others' steps go on.
    pub fn add_model(&self, name: &str, model: Box<dyn LanguageModel>) -> Result<ModelIndex, AddModelError> {
        check_limits(model.limits()).map_err(AddModelError::Limits)?;
        let limits = model.limits().clone();
        let engine = Box::new(self.scheduling.engine(name, model));
        let place = self.inbox.add(limits, engine).ok_or(AddModelError::Closed)?;
        Ok(ModelIndex(place))
    }

    /// Takes a model away after the step that the engine is in. What is open there fails with
    /// [`SequenceError::ModelRemoved`], and new sequences are refused from now on.
    pub fn remove_model(&self, model: ModelIndex) -> Removal {
        let (back, removal) = mpsc::channel();
        self.inbox.remove(model.0, back);
        Removal(removal)
    }

    /// A model's queue, and its pool as of the last step. All zero for an index of no model.
    pub fn stats(&self, model: ModelIndex) -> ModelStats {
        self.inbox.stats(model.0).unwrap_or_default()
    }

    /// Refuses new sequences with [`SubmitError::Draining`]; open ones run on.
    pub fn drain(&self) {
        self.inbox.drain();
    }

    /// Waits until nothing is queued or running, or the thread has ended; `false` when that takes longer.
    /// After [`EngineHandle::drain`] this is how to know that all is answered.
    pub fn wait_idle(&self, limit: Duration) -> bool {
        self.inbox.wait_idle(limit)
    }

    /// Ends the thread after the step it is in; what is still open fails with
    /// [`SequenceError::ShuttingDown`].
    pub fn shutdown(&self) {
        self.inbox.shutdown();
    }

    /// Whether the thread is there; it answers until it has ended.
    pub fn is_alive(&self) -> bool {
        self.inbox.is_alive()
    }

    /// How often the engine has failed all its sequences and restarted after a panic.
    pub fn restarts(&self) -> u64 {
        self.inbox.restarts()
    }
}

impl EngineThread {
    /// Waits for the thread to end, at most this long; `false` when it has not. Then the thread is left to
    /// itself.
    pub fn join(mut self, limit: Duration) -> bool {
        let ended = self.inbox.wait_ended(limit);
        if let (true, Some(thread)) = (ended, self.thread.take()) {
            // Its own panics are caught; one beyond that has been reported on standard error.
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
