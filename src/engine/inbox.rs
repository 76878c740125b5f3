//! The one bounded queue between callers and the engine's thread.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use super::{
    ModelStats, SequenceRequest, SubmitError, Tenant, TenantWeights,
    admission::{Admission, Book, Place, StartRate, blocks_needed, validate},
    prefix::Prefix,
    slots::{Arrivals, Slots},
    step::ModelEngine,
};
use crate::backend::ModelLimits;

/// A sequence on its way to the engine's thread.
pub struct Submission {
    /// What to do.
    pub request: SequenceRequest,
    /// When it was accepted.
    pub arrival: Instant,
    /// Its place in the books.
    pub admission: Admission,
}

/// What the engine's thread is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Take a step.
    Run,
    /// Fail what is open, and end.
    Shutdown,
}

/// An account that has less than this part of the queue still gets in when others have filled it, as long as the
/// queue is over its bounds by no more than [`SPARE_PART`].
const MODEST_PART: usize = 16;
/// How much of the queue's bounds is kept for accounts that have little in it.
const SPARE_PART: usize = 4;

/// Bounds of the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueBounds {
    /// Sequences waiting to start.
    pub items: usize,
    /// Their prompt tokens.
    pub tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    Draining,
    /// No handle is left: end as soon as nothing is open.
    Abandoned,
    ShuttingDown,
    Ended,
}

impl Phase {
    /// Whether something new is taken, or why not.
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
    queued: Queued,
    /// The same by account; none is empty.
    accounts: BTreeMap<Tenant, Queued>,
    slots: Slots,
    rate: StartRate,
    /// The thread waits for arrivals and has published its counts.
    parked: bool,
}

/// What waits to start.
#[derive(Debug, Clone, Copy, Default)]
struct Queued {
    items: usize,
    tokens: usize,
}

impl Queued {
    fn add(&mut self, tokens: usize) {
        self.items += 1;
        self.tokens = self.tokens.saturating_add(tokens);
    }

    fn remove(&mut self, tokens: usize) {
        self.items -= 1;
        self.tokens -= tokens;
    }
}

/// A pool's state after a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvCounts {
    /// Free, or cached and neither held nor pinned.
    pub available: usize,
    /// Pinned.
    pub pinned: usize,
    /// Ever handed out.
    pub touched: usize,
}

/// Shared by all handles and the thread. Its lock is never held while a model runs or an event is sent.
pub struct Inbox {
    bounds: QueueBounds,
    weights: TenantWeights,
    state: Mutex<State>,
    /// The thread waits here for work.
    work: Condvar,
    /// Callers wait here for the thread to park or end.
    settled: Condvar,
    restarts: AtomicU64,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

impl Inbox {
    /// An open queue for models with these limits.
    pub fn new(limits: Vec<ModelLimits>, bounds: QueueBounds, weights: &TenantWeights) -> Self {
        let mut slots = Slots::default();
        for limits in limits {
            slots.add(limits);
        }
        let state = State {
            phase: Phase::Open,
            arrivals: Arrivals::default(),
            queued: Queued::default(),
            accounts: BTreeMap::new(),
            slots,
            rate: StartRate::default(),
            parked: false,
        };
        Self {
            bounds,
            weights: weights.clone(),
            state: Mutex::new(state),
            work: Condvar::new(),
            settled: Condvar::new(),
            restarts: AtomicU64::new(0),
        }
    }

    /// Queues a request, or says why not.
    pub fn submit(self: &Arc<Self>, request: SequenceRequest, now: Instant) -> Result<(), SubmitError> {
        let model = request.model.0;
        let limits = {
            let mut state = self.state();
            state.phase.admits()?;
            Arc::clone(&state.slots.open(model)?.limits)
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
        // Again: much may have changed while the prompt was checked.
        state.phase.admits()?;
        state.slots.open(model)?;
        let tokens = request.prompt.len();
        let account = self.weights.account(&request.tenant);
        if let Some(retry_after) = state.queue_full(self.bounds, &account, tokens, now) {
            return Err(SubmitError::QueueFull { retry_after });
        }
        let book = &mut state.slots.open(model)?.book;
        let entry = book.enter(prefix(tokens), needed, pin, &limits)?;
        let place = Place { tokens, account };
        state.enqueued(&place);
        let admission = Admission::new(self, model, entry, place);
        state.arrivals.sequences.push(Submission {
            request,
            arrival: now,
            admission,
        });
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Takes in a model, ready to run; `None` when nothing new is taken. What is submitted for it arrives
    /// after it.
    pub fn add(&self, limits: ModelLimits, engine: Box<ModelEngine>) -> Option<usize> {
        let mut state = self.state();
        state.phase.admits().ok()?;
        let model = state.slots.add(limits);
        state.arrivals.models.push((model, engine));
        state.parked = false;
        drop(state);
        self.work.notify_one();
        Some(model)
    }

    /// Refuses what comes for a model from now on, and asks for it back. When it is gone already, so is what
    /// would send it.
    pub fn remove(&self, model: usize, back: Sender<Box<ModelEngine>>) {
        let mut state = self.state();
        let ended = state.phase == Phase::Ended;
        if let Ok(slot) = state.slots.open(model)
            && !ended
        {
            slot.closed = true;
            state.arrivals.departures.push((model, back));
            state.parked = false;
        }
        drop(state);
        self.work.notify_one();
    }

    /// The model has left the thread, and nothing of it is open any more.
    pub fn removed(&self, model: usize) {
        self.state().slots.remove(model);
    }

    /// Moves what has arrived to `arrivals`; waits for something while the thread is not `busy`.
    pub fn take(&self, arrivals: &mut Arrivals, busy: bool) -> Signal {
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

    /// Tells callers the state of a model's pool.
    pub fn publish(&self, model: usize, counts: KvCounts) {
        if let Some(slot) = self.state().slots.get_mut(model) {
            slot.kv = counts;
        }
    }

    /// A model's counts.
    pub fn stats(&self, model: usize) -> Option<ModelStats> {
        let state = self.state();
        let slot = state.slots.get(model)?;
        Some(ModelStats {
            queued: slot.book.queued,
            running: slot.book.open - slot.book.queued,
            free_blocks: slot.kv.available,
            pinned_blocks: slot.kv.pinned,
            touched_blocks: slot.kv.touched,
            total_blocks: slot.limits.num_blocks,
        })
    }

    /// Refuses what comes from now on.
    pub fn drain(&self) {
        self.advance_phase(Phase::Draining);
    }

    /// Ends the thread when nothing is open any more.
    pub fn abandon(&self) {
        self.advance_phase(Phase::Abandoned);
    }

    /// Ends the thread after the step it is in.
    pub fn shutdown(&self) {
        self.advance_phase(Phase::ShuttingDown);
    }

    /// Whether the thread has been told to end.
    pub fn is_shutting_down(&self) -> bool {
        self.state().phase >= Phase::ShuttingDown
    }

    /// The thread has ended. Drops what it left behind.
    pub fn ended(&self) {
        let left = {
            let mut state = self.state();
            state.phase = Phase::Ended;
            std::mem::take(&mut state.arrivals)
        };
        // Outside of the lock: this sends events and strikes the sequences from the books.
        drop(left);
        self.settled.notify_all();
    }

    /// Whether the thread is there.
    pub fn is_alive(&self) -> bool {
        self.state().phase != Phase::Ended
    }

    /// Waits until nothing is open, or the thread has ended; `false` when that took longer than `limit`.
    pub fn wait_idle(&self, limit: Duration) -> bool {
        self.wait_until(limit, |state| state.phase == Phase::Ended || state.parked)
    }

    /// Waits until the thread has ended.
    pub fn wait_ended(&self, limit: Duration) -> bool {
        self.wait_until(limit, |state| state.phase == Phase::Ended)
    }

    /// How often the engine has restarted after a panic.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Acquire)
    }

    /// The engine has restarted.
    pub fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::AcqRel);
    }

    /// A sequence is no longer in the queue; `started` is there if its first forward pass begins then.
    pub fn left_queue(&self, model: usize, place: &Place, started: Option<Instant>) {
        let mut state = self.state();
        state.queued.remove(place.tokens);
        if let Some(queued) = state.accounts.get_mut(&place.account) {
            queued.remove(place.tokens);
            if queued.items == 0 {
                state.accounts.remove(&place.account);
            }
        }
        if let Some(slot) = state.slots.get_mut(model) {
            slot.book.queued -= 1;
        }
        if let Some(at) = started {
            state.rate.record(place.tokens, at);
        }
    }

    /// Changes a model's book, if it is there; the closure also gets the model's block size.
    pub fn with_book(&self, model: usize, change: impl FnOnce(&mut Book, usize)) {
        if let Some(slot) = self.state().slots.get_mut(model) {
            change(&mut slot.book, slot.limits.block_size);
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

    /// Counters stay consistent even if a thread died while it held the lock: nothing panics in between.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When to try again, if the queue has no room for this many prompt tokens. An empty queue takes any
    /// prompt, else one longer than the bound could never be served.
    fn queue_full(
        &self,
        bounds: QueueBounds,
        account: &Tenant,
        tokens: usize,
        now: Instant,
    ) -> Option<Duration> {
        let after = |queued: Queued| (queued.items + 1, queued.tokens.saturating_add(tokens));
        let (items, total) = after(self.queued);
        if self.queued.items == 0 || (items <= bounds.items && total <= bounds.tokens) {
            return None;
        }
        let (own_items, own_total) = after(self.accounts.get(account).copied().unwrap_or_default());
        let modest = own_items <= bounds.items / MODEST_PART && own_total <= bounds.tokens / MODEST_PART;
        let spare = |bound: usize| bound.saturating_add(bound / SPARE_PART);
        if modest && items <= spare(bounds.items) && total <= spare(bounds.tokens) {
            return None;
        }
        let excess_items = items.saturating_sub(bounds.items).max(1);
        // At most all that is queued has to leave.
        let excess_tokens = total.saturating_sub(bounds.tokens).min(self.queued.tokens);
        Some(self.rate.time_for(excess_items, excess_tokens, now))
    }

    /// A sequence is in the queue.
    fn enqueued(&mut self, place: &Place) {
        self.queued.add(place.tokens);
        self.accounts
            .entry(place.account.clone())
            .or_default()
            .add(place.tokens);
        self.parked = false;
    }
}
