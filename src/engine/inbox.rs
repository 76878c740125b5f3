//! The one bounded queue between callers and the engine's thread, and the counts that callers can read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc::Sender},
    time::{Duration, Instant},
};

use super::{
    admission::{Admission, QueuedRequest, ReleaseAdmission, Submission, blocks_needed, validate},
    arrivals::{AddedModel, Arrivals, RemovedModel},
    error::{AddModelError, SubmitError},
    kv_blocks::KvCounts,
    model_table::{Availability, ModelTable},
    prefix::Prefix,
    request::{ModelIndex, Priority, SequenceRequest},
    start_rate::StartRate,
    stats::{ModelStats, TokenTotals},
    step::ModelEngine,
    tenant::{Tenant, TenantWeights},
    verdict_pace::VerdictPlace,
};
use crate::backend::ModelLimits;

/// What the engine's thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Take a step.
    Run,
    /// Fail all open sequences, and end.
    Shutdown,
}

/// When others have filled the queue, an account whose requests take at most the bounds divided by this is still let
/// in, until the queue exceeds its bounds by [`OVERFLOW_DIVISOR`].
const SMALL_ACCOUNT_DIVISOR: usize = 16;
/// Small accounts may fill the queue beyond its bounds by the bounds divided by this.
const OVERFLOW_DIVISOR: usize = 4;

/// Bounds of the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueBounds {
    /// Most sequences waiting to start.
    pub items: usize,
    /// Most prompt tokens of the sequences waiting to start.
    pub tokens: usize,
}

/// How far an engine is from its end. Phases only advance.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    Draining,
    /// No handle is left: the thread ends as soon as no sequence is open.
    Abandoned,
    ShuttingDown,
    Ended,
}

impl Phase {
    /// Refuses sequences and models in every phase but the first.
    fn admits(self) -> Result<(), SubmitError> {
        match self {
            Self::Open => Ok(()),
            Self::Ended => Err(SubmitError::EngineGone),
            Self::Draining | Self::Abandoned | Self::ShuttingDown => Err(SubmitError::Draining),
        }
    }
}

struct State {
    phase: Phase,
    arrivals: Arrivals,
    queued: QueueUsage,
    /// Usage by account; accounts without queued requests are removed.
    accounts: BTreeMap<Tenant, QueueUsage>,
    models: ModelTable,
    rate: StartRate,
    /// Whether the thread waits for arrivals and has published its counts.
    parked: bool,
}

/// How much of the queue's bounds is used.
#[derive(Debug, Clone, Copy, Default)]
struct QueueUsage {
    items: usize,
    tokens: usize,
}

impl QueueUsage {
    fn add(&mut self, tokens: usize) {
        self.items += 1;
        self.tokens = self.tokens.saturating_add(tokens);
    }

    fn remove(&mut self, tokens: usize) {
        self.items -= 1;
        self.tokens -= tokens;
    }
}

/// Shared by all handles and the engine's thread. Its lock is never held while a model runs or an event is sent.
pub(crate) struct Inbox {
    bounds: QueueBounds,
    weights: TenantWeights,
    /// Whether verdicts are refused that will most likely be late.
    expects_verdicts: bool,
    state: Mutex<State>,
    /// The engine's thread waits here for work.
    work: Condvar,
    /// Callers wait here for the engine's thread to park or end.
    settled: Condvar,
    /// Why the device is lost, once it is. Set while the state is locked, so that nothing is queued after it.
    lost: OnceLock<Arc<str>>,
    /// Called when the device is lost.
    loss_listener: OnceLock<LossListener>,
    /// Called when a model is stopped.
    stop_listener: OnceLock<StopListener>,
}

/// Hears on the engine's thread that the device is lost.
pub(crate) type LossListener = Box<dyn Fn() + Send + Sync>;

/// Hears on the engine's thread that a model is stopped.
pub(crate) type StopListener = Box<dyn Fn(ModelIndex) + Send + Sync>;

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

impl Inbox {
    /// An open, empty queue for models with these limits.
    pub(crate) fn new(limits: Vec<ModelLimits>, bounds: QueueBounds, weights: &TenantWeights) -> Self {
        let mut models = ModelTable::default();
        for limits in limits {
            models.add(limits);
        }
        let state = State {
            phase: Phase::Open,
            arrivals: Arrivals::default(),
            queued: QueueUsage::default(),
            accounts: BTreeMap::new(),
            models,
            rate: StartRate::default(),
            parked: false,
        };
        Self {
            bounds,
            weights: weights.clone(),
            expects_verdicts: false,
            state: Mutex::new(state),
            work: Condvar::new(),
            settled: Condvar::new(),
            lost: OnceLock::new(),
            loss_listener: OnceLock::new(),
            stop_listener: OnceLock::new(),
        }
    }

    /// The same queue, which refuses verdicts that will most likely be late, and not only those that certainly will be.
    pub(crate) fn expecting_verdicts(self) -> Self {
        Self {
            expects_verdicts: true,
            ..self
        }
    }

    /// Queues a request, or returns the reason why it is refused.
    pub(crate) fn submit(
        self: &Arc<Self>,
        request: SequenceRequest,
        now: Instant,
    ) -> Result<(), SubmitError> {
        let model = request.model.0;
        let limits = {
            let mut state = self.state();
            self.admits(&state)?;
            Arc::clone(&state.models.open(model)?.limits)
        };
        validate(&request, &limits, now)?;
        let needed = blocks_needed(&request, &limits);
        let full = request.prompt.len() / limits.block_size * limits.block_size;
        let prefix = |len| Prefix {
            adapter: request.adapter,
            tokens: &request.prompt[..len],
        };
        let pin = (request.output.pin_prompt && full > 0).then(|| prefix(full).to_owned());

        let mut state = self.state();
        // Checked again, because the lock was free while the prompt was checked.
        self.admits(&state)?;
        state.models.open(model)?;
        let tokens = request.prompt.len();
        let account = self.weights.account(&request.tenant);
        if let Some(retry_after) = state.queue_full(self.bounds, &account, tokens, now) {
            return Err(SubmitError::QueueFull { retry_after });
        }
        let open = state.models.open(model)?;
        let is_verdict = self.expects_verdicts && request.priority == Priority::Urgent;
        if let (true, Some(deadline)) = (is_verdict, request.deadline) {
            open.verdicts.check(&account, tokens, deadline, now)?;
        }
        let entry = open.ledger.enter(prefix(tokens), needed, pin, &limits)?;
        let verdict = is_verdict.then(|| open.verdicts.enter(&account, tokens, now));
        let queued = QueuedRequest { tokens, account };
        state.enqueued(&queued);
        let ledgers: Arc<dyn ReleaseAdmission> = Arc::clone(self) as _;
        let admission = Admission::new(ledgers, model, entry, queued).with_verdict(verdict);
        state.arrivals.sequences.push(Submission {
            request,
            arrival: now,
            admission,
        });
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Refuses sequences when the engine accepts nothing new, or the device is lost.
    fn admits(&self, state: &State) -> Result<(), SubmitError> {
        state.phase.admits()?;
        match self.lost.get() {
            Some(reason) => Err(SubmitError::DeviceLost(Arc::clone(reason))),
            None => Ok(()),
        }
    }

    /// Adds a model and returns its index. Sequences that are submitted for the model arrive at the thread after it.
    pub(crate) fn add(&self, limits: ModelLimits, engine: Box<ModelEngine>) -> Result<usize, AddModelError> {
        let mut state = self.state();
        state.phase.admits().map_err(|_| AddModelError::Closed)?;
        if let Some(reason) = self.lost.get() {
            return Err(AddModelError::DeviceLost(Arc::clone(reason)));
        }
        let index = state.models.add(limits);
        state.arrivals.models.push(AddedModel { index, engine });
        state.parked = false;
        drop(state);
        self.work.notify_one();
        Ok(index)
    }

    /// Refuses new sequences for a model from now on, and asks the thread to send its engine to `receiver`. When the
    /// model or the thread has gone already, `receiver` is dropped, so that nobody waits for it.
    pub(crate) fn remove(&self, model: usize, receiver: Sender<Box<ModelEngine>>) {
        let mut state = self.state();
        let ended = state.phase == Phase::Ended;
        if let Some(entry) = state.models.get_mut(model)
            && entry.availability != Availability::Closed
            && !ended
        {
            entry.availability = Availability::Closed;
            state.arrivals.removals.push(RemovedModel {
                index: model,
                receiver,
            });
            state.parked = false;
        }
        drop(state);
        self.work.notify_one();
    }

    /// Forgets a model that has left the thread and has no open sequences.
    pub(crate) fn removed(&self, model: usize) {
        self.state().models.remove(model);
    }

    /// Whether [`Inbox::take`] would not wait for an engine that has no open sequence.
    pub(crate) fn has_arrivals(&self) -> bool {
        let state = self.state();
        state.phase >= Phase::Abandoned || !state.arrivals.is_empty()
    }

    /// Moves everything that has arrived to `arrivals`. While the thread is not `busy`, waits until something arrives.
    pub(crate) fn take(&self, arrivals: &mut Arrivals, busy: bool) -> Signal {
        let mut state = self.state();
        loop {
            let idle = !busy && state.arrivals.is_empty();
            if state.phase >= Phase::ShuttingDown || (state.phase == Phase::Abandoned && idle) {
                state.phase = state.phase.max(Phase::ShuttingDown);
                state.arrivals.drain_to(arrivals);
                return Signal::Shutdown;
            }
            if !idle {
                state.arrivals.drain_to(arrivals);
                return Signal::Run;
            }
            state.parked = true;
            self.settled.notify_all();
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes the counts of a model's KV pool and tokens visible to callers.
    pub(crate) fn set_counts(&self, model: usize, kv: KvCounts, tokens: TokenTotals) {
        if let Some(entry) = self.state().models.get_mut(model) {
            entry.kv = kv;
            entry.tokens = tokens;
        }
    }

    /// The counts of a model's queue and KV pool.
    pub(crate) fn stats(&self, model: usize) -> Option<ModelStats> {
        let state = self.state();
        let entry = state.models.get(model)?;
        Some(ModelStats {
            queued: entry.ledger.queued,
            running: entry.ledger.open - entry.ledger.queued,
            free_blocks: entry.kv.available,
            pinned_blocks: entry.kv.pinned,
            touched_blocks: entry.kv.touched,
            total_blocks: entry.limits.num_blocks,
            tokens: entry.tokens,
        })
    }

    /// Refuses new sequences and models from now on.
    pub(crate) fn drain(&self) {
        self.advance_phase(Phase::Draining);
    }

    /// Ends the thread when no sequence is open any more.
    pub(crate) fn abandon(&self) {
        self.advance_phase(Phase::Abandoned);
    }

    /// Ends the thread after the step it is in.
    pub(crate) fn shutdown(&self) {
        self.advance_phase(Phase::ShuttingDown);
    }

    /// Whether the thread has been asked to end, or has ended.
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.state().phase >= Phase::ShuttingDown
    }

    /// Records that the thread has ended, and drops the arrivals that it did not take.
    pub(crate) fn ended(&self) {
        let left = {
            let mut state = self.state();
            state.phase = Phase::Ended;
            std::mem::take(&mut state.arrivals)
        };
        // Dropped without the lock, because this sends events and removes the sequences from the ledgers.
        drop(left);
        self.settled.notify_all();
    }

    /// Whether the thread has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.state().phase != Phase::Ended
    }

    /// Waits until no sequence is open, or the thread has ended. Returns `false` when that takes longer than `limit`.
    pub(crate) fn wait_idle(&self, limit: Duration) -> bool {
        self.wait_until(limit, |state| state.phase == Phase::Ended || state.parked)
    }

    /// Waits until the thread has ended. Returns `false` when that takes longer than `limit`.
    pub(crate) fn wait_ended(&self, limit: Duration) -> bool {
        self.wait_until(limit, |state| state.phase == Phase::Ended)
    }

    /// Refuses new sequences for a model from now on, because a step of it has panicked, and tells the listener.
    pub(crate) fn stop_model(&self, model: usize) {
        if let Some(entry) = self.state().models.get_mut(model)
            && entry.availability == Availability::Open
        {
            entry.availability = Availability::Stopped;
        }
        if let Some(listener) = self.stop_listener.get() {
            listener(ModelIndex(model));
        }
    }

    /// Whether a step of the model has panicked.
    pub(crate) fn is_stopped(&self, model: usize) -> bool {
        let state = self.state();
        let entry = state.models.get(model);
        entry.is_some_and(|entry| entry.availability == Availability::Stopped)
    }

    /// Sets what is called when a model is stopped, once.
    pub(crate) fn on_stop(&self, listener: StopListener) {
        // An engine has one owner, which sets its listener before it adds models.
        let _ = self.stop_listener.set(listener);
    }

    /// Refuses everything from now on, because the device is lost, and tells the listener.
    pub(crate) fn device_lost(&self, reason: Arc<str>) {
        let first = {
            let _state = self.state();
            self.lost.set(reason).is_ok()
        };
        if let (true, Some(listener)) = (first, self.loss_listener.get()) {
            listener();
        }
    }

    /// Why the device is lost; `None` while it works.
    pub(crate) fn loss(&self) -> Option<&Arc<str>> {
        self.lost.get()
    }

    /// Sets what is called when the device is lost, once. It is called at once where the device is lost already.
    pub(crate) fn on_loss(&self, listener: LossListener) {
        let is_lost = {
            let _state = self.state();
            // An engine has one owner, which sets its listener once.
            let _ = self.loss_listener.set(listener);
            self.lost.get().is_some()
        };
        if let (true, Some(listener)) = (is_lost, self.loss_listener.get()) {
            listener();
        }
    }

    fn advance_phase(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = state.phase.max(phase);
        drop(state);
        self.work.notify_all();
    }

    fn wait_until(&self, limit: Duration, done: impl Fn(&State) -> bool) -> bool {
        let (_state, timeout) = self
            .settled
            .wait_timeout_while(self.state(), limit, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// Locks the state. A poisoned lock is used all the same: no code panics between two changes that belong together,
    /// so the counters are consistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReleaseAdmission for Inbox {
    fn leave_queue(&self, model: usize, request: &QueuedRequest, started: Option<Instant>) {
        let mut state = self.state();
        state.queued.remove(request.tokens);
        if let Some(usage) = state.accounts.get_mut(&request.account) {
            usage.remove(request.tokens);
            if usage.items == 0 {
                state.accounts.remove(&request.account);
            }
        }
        if let Some(entry) = state.models.get_mut(model) {
            entry.ledger.queued -= 1;
        }
        if let Some(at) = started {
            state.rate.record(request.tokens, at);
        }
    }

    fn close_verdict(&self, model: usize, place: &VerdictPlace, ended: Option<Instant>) {
        if let Some(entry) = self.state().models.get_mut(model) {
            entry.verdicts.leave(place, ended);
        }
    }

    fn close_sequence(&self, model: usize, need: usize) {
        if let Some(entry) = self.state().models.get_mut(model) {
            entry.ledger.leave(need);
        }
    }

    fn unpin(&self, model: usize, id: u64) {
        if let Some(entry) = self.state().models.get_mut(model) {
            entry.ledger.pins.remove(id, entry.limits.block_size);
        }
    }
}

impl State {
    /// When to try again, if the queue has no room for this many prompt tokens. An empty queue accepts any prompt,
    /// because one that is longer than the bound could otherwise never be served.
    fn queue_full(
        &self,
        bounds: QueueBounds,
        account: &Tenant,
        tokens: usize,
        now: Instant,
    ) -> Option<Duration> {
        let after = |usage: QueueUsage| (usage.items + 1, usage.tokens.saturating_add(tokens));
        let (items, total) = after(self.queued);
        if self.queued.items == 0 || (items <= bounds.items && total <= bounds.tokens) {
            return None;
        }
        let (own_items, own_total) = after(self.accounts.get(account).copied().unwrap_or_default());
        let is_small = own_items <= bounds.items / SMALL_ACCOUNT_DIVISOR
            && own_total <= bounds.tokens / SMALL_ACCOUNT_DIVISOR;
        let extended = |bound: usize| bound.saturating_add(bound / OVERFLOW_DIVISOR);
        if is_small && items <= extended(bounds.items) && total <= extended(bounds.tokens) {
            return None;
        }
        let excess_items = items.saturating_sub(bounds.items).max(1);
        // No more tokens can leave than are queued.
        let excess_tokens = total.saturating_sub(bounds.tokens).min(self.queued.tokens);
        Some(self.rate.time_for(excess_items, excess_tokens, now))
    }

    /// Counts a request that has been queued.
    fn enqueued(&mut self, request: &QueuedRequest) {
        self.queued.add(request.tokens);
        self.accounts
            .entry(request.account.clone())
            .or_default()
            .add(request.tokens);
        self.parked = false;
    }
}
