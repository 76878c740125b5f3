//! One sequence inside the engine, and how it is heard of outside.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::{
    CancelFlag, Event, EventSink, FinishReason, OutputSpec, Priority, SequenceError, SequenceRequest,
    SequenceSummary, Stage, Tenant,
    admission::Admission,
    forecast::Shape,
    outlook::Outline,
    prefix::{Owner, Prefix},
};
use crate::backend::{AdapterIndex, Readout};

/// How much later a sequence ranks than an urgent one that arrived at the same moment.
///
/// Within a tenant, one order by (arrival + handicap) decides who is admitted first and who gets prefill tokens
/// first; over all tenants it decides, from the other end, who is preempted first. Ranks never change and only
/// finitely many sequences can rank before a given one, so nobody starves: the first in rank is never preempted
/// for another.
const INTERACTIVE_HANDICAP: Duration = Duration::from_secs(30);
const BATCH_HANDICAP: Duration = Duration::from_secs(40);

/// Place in the order of all sequences of a model; smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    at: Instant,
    id: u64,
}

impl Rank {
    /// The rank of the `id`-th sequence, which arrived at `arrival`.
    pub fn new(priority: Priority, arrival: Instant, id: u64) -> Self {
        let at = arrival.checked_add(handicap(priority)).unwrap_or(arrival);
        Self { at, id }
    }
}

/// How much later sequences of a class rank than urgent ones.
pub fn handicap(class: Priority) -> Duration {
    match class {
        Priority::Urgent => Duration::ZERO,
        Priority::Interactive => INTERACTIVE_HANDICAP,
        Priority::Batch => BATCH_HANDICAP,
    }
}

/// How a sequence ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// With an answer.
    Finished(FinishReason),
    /// Without.
    Failed(SequenceError),
    /// Nobody listens.
    Closed,
}

/// Tells the caller what happens; sees to it that there is exactly one terminal event, also when a panic
/// unwinds past the sequence.
pub struct Reporter(Option<EventSink>);

impl Reporter {
    /// A reporter for this sink.
    pub fn new(sink: EventSink) -> Self {
        Self(Some(sink))
    }

    /// Sends an event that is not the last; `false` when nobody listens, and from then on nothing is sent.
    /// A sink that panics counts as closed: it must not take other callers' sequences with it.
    pub fn send(&mut self, event: Event) -> bool {
        let Some(sink) = &mut self.0 else { return false };
        let open = catch_unwind(AssertUnwindSafe(|| sink(event))).unwrap_or(false);
        if !open {
            self.0 = None;
        }
        open
    }

    /// Sends the last event.
    pub fn end(mut self, event: Event) {
        self.send(event);
        self.0 = None;
    }

    /// Sends nothing any more.
    pub fn close(mut self) {
        self.0 = None;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // Only reached with a sink when the sequence is lost to a panic.
        self.send(Event::Failed(SequenceError::EnginePanicked));
    }
}

/// Counts of a sequence for its summary.
#[derive(Debug, Default)]
pub struct Counts {
    /// Prompt tokens found in the cache at the first start.
    pub cached_tokens: usize,
    /// Token events sent.
    pub completion_tokens: usize,
    /// Forward passes.
    pub passes: usize,
    /// Sequences in the largest of them.
    pub max_batch: usize,
    /// How often the last sequence left was itself out of blocks.
    pub lone_preemptions: usize,
    /// How often it waited a step for a prefix that another one was computing.
    pub deferrals: usize,
}

/// A sequence: its tokens, how many of them are computed, and the KV blocks they are in.
pub struct Sequence {
    /// Its place in the order.
    pub rank: Rank,
    /// Its class.
    pub priority: Priority,
    /// The adapter that it runs with.
    pub adapter: Option<AdapterIndex>,
    /// On whose account it runs.
    pub tenant: Tenant,
    /// Who finds in the cache what it computes; it finds what is theirs, and everyone's.
    pub owner: Owner,
    /// Prompt and answer so far.
    pub tokens: Vec<u32>,
    /// How many of the tokens are the prompt.
    pub prompt_len: usize,
    /// How many tokens have keys and values in the blocks.
    pub computed: usize,
    /// Tokens to compute in the current step; 0 when it does not take part.
    pub scheduled: usize,
    /// The plan that it last took part in, by number.
    pub last_plan: u64,
    /// Seconds that its parts of all steps so far were predicted to take.
    pub work: f64,
    /// KV blocks in order; [`crate::backend::NULL_BLOCK`] for those that it has let go of.
    pub blocks: Vec<u32>,
    /// How many of them it has let go of: the first ones, which no token to come sees.
    pub unseen: usize,
    /// How many tokens of its context a token sees, at most.
    pub window: usize,
    /// How many of the blocks are in the prefix cache.
    pub published: usize,
    /// What its prompt has in common with others.
    pub outline: Outline,
    /// What the caller wants.
    pub output: OutputSpec,
    /// For the summary.
    pub counts: Counts,
    /// When it was submitted.
    pub arrival: Instant,
    /// Since when it waits for a place: its arrival, or when it last lost its place.
    pub waits_since: Instant,
    /// When it wrote its first token in the place that it has.
    pub writes_since: Option<Instant>,
    /// When its first forward pass began.
    pub started: Option<Instant>,
    /// When the logits of the last prompt token were there.
    pub prompt_done: Option<Instant>,
    /// The queue's books; `None` for the engine's own sequences.
    pub admission: Option<Admission>,
    deadline: Option<Instant>,
    cancel: CancelFlag,
    reporter: Reporter,
}

impl Sequence {
    /// Takes a valid request.
    pub fn new(request: SequenceRequest, arrival: Instant, id: u64, admission: Option<Admission>) -> Self {
        Self {
            rank: Rank::new(request.priority, arrival, id),
            priority: request.priority,
            adapter: request.adapter,
            owner: if request.output.pin_prompt {
                Owner::Everyone
            } else {
                Owner::Tenant(request.tenant.clone())
            },
            tenant: request.tenant,
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            computed: 0,
            scheduled: 0,
            last_plan: 0,
            work: 0.0,
            blocks: Vec::new(),
            unseen: 0,
            window: usize::MAX,
            published: 0,
            outline: Outline::default(),
            output: request.output,
            counts: Counts::default(),
            arrival,
            waits_since: arrival,
            writes_since: None,
            started: None,
            prompt_done: None,
            admission,
            deadline: request.deadline,
            cancel: request.cancel,
            reporter: Reporter::new(request.events),
        }
    }

    /// Its first `len` tokens.
    pub fn prefix(&self, len: usize) -> Prefix<&[u32]> {
        Prefix {
            adapter: self.adapter,
            tokens: &self.tokens[..len],
        }
    }

    /// Whether it must not let go of blocks yet, because its prompt is to be pinned.
    pub fn keeps_all(&self) -> bool {
        self.output.pin_prompt && self.prompt_done.is_none()
    }

    /// Blocks that it holds.
    pub fn held(&self) -> usize {
        self.blocks.len() - self.unseen
    }

    /// Computed tokens that the next one sees.
    pub fn seen(&self) -> usize {
        self.computed.min(self.window)
    }

    /// Tokens that are not computed yet.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens generated so far (also the number of the next draw).
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Its part of a step that gives it this many tokens.
    pub fn part(&self, tokens: usize) -> Shape {
        let reads_logits = tokens == self.remaining() && self.is_read();
        Shape::of(tokens, self.seen(), reads_logits)
    }

    /// What the step that computes the last token so far has to read.
    pub fn readout(&self) -> Readout {
        let output = &self.output;
        if output.score {
            return Readout::Score;
        }
        match &output.probe {
            Some(probe) if self.generated() == 0 && self.probe_is_enough() => Readout::Probe {
                tokens: probe.tokens.clone(),
            },
            Some(_) => Readout::Logits,
            None if output.max_new_tokens > 0 => Readout::Logits,
            None => Readout::None,
        }
    }

    /// Whether the most likely token after the prompt decides what follows: then nobody needs the other logits.
    fn probe_is_enough(&self) -> bool {
        let output = &self.output;
        output.max_new_tokens == 0 || output.logprobs.is_none() && output.sampling.takes_the_most_likely()
    }

    /// Whether the step that computes the last token so far reads something.
    pub fn is_read(&self) -> bool {
        let output = &self.output;
        output.max_new_tokens > 0 || output.probe.is_some() || output.score
    }

    /// Whether another sequence finds in the cache what this one has computed.
    pub fn is_found_by(&self, other: &Self) -> bool {
        self.adapter == other.adapter && self.owner.is_found_by(&other.owner)
    }

    /// When it must have ended.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether its caller has stopped it.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Why the sequence must stop before the next step, if it must.
    pub fn stop_reason(&self, now: Instant) -> Option<SequenceError> {
        if self.is_cancelled() {
            return Some(SequenceError::Cancelled);
        }
        let late = self.deadline.is_some_and(|deadline| now >= deadline);
        late.then(|| self.late())
    }

    /// That its time ran out where it is.
    pub fn late(&self) -> SequenceError {
        let stage = match (self.started, self.prompt_done) {
            (None, _) => Stage::Queue,
            (Some(_), None) => Stage::Prefill,
            (Some(_), Some(_)) => Stage::Decode,
        };
        SequenceError::DeadlineExceeded { stage }
    }

    /// Leaves the queue: its first forward pass begins. `false` when nobody listens.
    pub fn start(&mut self, now: Instant) -> bool {
        self.started = Some(now);
        if let Some(admission) = &mut self.admission {
            admission.leave_queue(Some(now));
        }
        self.send(Event::Started {
            queue: now.saturating_duration_since(self.arrival),
            cached_tokens: self.counts.cached_tokens,
        })
    }

    /// Sends an event that is not the last; `false` when nobody listens.
    pub fn send(&mut self, event: Event) -> bool {
        self.reporter.send(event)
    }

    /// Sends the last event and lets go of the queue's books. The blocks must be released before.
    pub fn end(mut self, ending: Ending, now: Instant) {
        if let Some(admission) = &mut self.admission {
            admission.leave_queue(None);
        }
        let summary = match &ending {
            Ending::Finished(reason) => Some(self.summary(*reason, now)),
            Ending::Failed(_) | Ending::Closed => None,
        };
        match (ending, summary) {
            (Ending::Failed(error), _) => self.reporter.end(Event::Failed(error)),
            (_, Some(summary)) => self.reporter.end(Event::Finished(summary)),
            (_, None) => self.reporter.close(),
        }
    }

    fn summary(&self, reason: FinishReason, now: Instant) -> SequenceSummary {
        let started = self.started.unwrap_or(now);
        let prompt_done = self.prompt_done.unwrap_or(now);
        SequenceSummary {
            reason,
            prompt_tokens: self.prompt_len,
            completion_tokens: self.counts.completion_tokens,
            cached_tokens: self.counts.cached_tokens,
            forward_passes: self.counts.passes,
            max_batch_size: self.counts.max_batch,
            queue: started.saturating_duration_since(self.arrival),
            prefill: prompt_done.saturating_duration_since(started),
            decode: now.saturating_duration_since(prompt_done),
        }
    }
}
