//! One sequence inside the engine, and the events it sends to its caller.

use std::time::{Duration, Instant};

use tracing::Span;

use super::{
    admission::Admission,
    cancellation::{CancelFlag, StopList, StopSubscription},
    error::{SequenceError, Stage},
    event::{Event, EventSink, FinishReason, SequenceSummary},
    open_prompts::OpenPrompt,
    prefix::{CacheOwner, Prefix},
    prompt_blocks::PromptBlocks,
    request::{OutputSpec, PrefixKeeper, Priority, Probe, ProbePositions, SequenceRequest},
    step_time::StepShape,
    tenant::Tenant,
};
use crate::{
    backend::{AdapterIndex, GeneratedTokens, MOST_CANDIDATES, Readout},
    model::spec::TokenKind,
    panics,
};

/// How much later an interactive sequence ranks than an urgent one that arrived at the same moment.
///
/// Within a tenant, the order by (arrival + handicap) decides which sequence is admitted first and which gets prefill
/// tokens first. Over all tenants, the last in this order is preempted first. A rank never changes, and only finitely
/// many sequences can rank before a given one, so no sequence starves: the first in rank is never preempted for another.
const INTERACTIVE_HANDICAP: Duration = Duration::from_secs(30);
/// How much later a batch sequence ranks than an urgent one that arrived at the same moment.
const BATCH_HANDICAP: Duration = Duration::from_secs(40);

/// Position in the order of all sequences of a model. The smaller rank goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    at: Instant,
    id: u64,
}

impl Rank {
    /// The rank of a sequence that arrived at `arrival`; `id` decides between equal times.
    pub(crate) fn new(priority: Priority, arrival: Instant, id: u64) -> Self {
        let at = arrival.checked_add(handicap(priority)).unwrap_or(arrival);
        Self { at, id }
    }

    /// The sequence's id, which no other sequence of its model has or will have.
    pub(crate) fn id(self) -> u64 {
        self.id
    }
}

/// How much later sequences of a class rank than urgent ones.
pub(crate) fn handicap(class: Priority) -> Duration {
    match class {
        Priority::Urgent => Duration::ZERO,
        Priority::Interactive => INTERACTIVE_HANDICAP,
        Priority::Batch => BATCH_HANDICAP,
    }
}

/// How a sequence ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    /// Its answer is complete.
    Finished(FinishReason),
    /// There is no answer, for this reason.
    Failed(SequenceError),
    /// The caller listens no more, so no last event is sent.
    Closed,
}

/// Sends events to the caller, and ensures that there is exactly one terminal event, even when a panic unwinds past the
/// sequence.
pub(crate) struct Reporter(Option<EventSink>);

impl Reporter {
    /// A reporter that sends to `sink`.
    pub(crate) fn new(sink: EventSink) -> Self {
        Self(Some(sink))
    }

    /// Sends an event that is not the last. Returns `false` when the caller listens no more; nothing is sent from then
    /// on. A sink that panics counts as closed, so that it cannot end the sequences of other callers.
    pub(crate) fn send(&mut self, event: Event) -> bool {
        let Some(sink) = &mut self.0 else { return false };
        let open = panics::catch(|| sink(event)).unwrap_or_else(|panicked| {
            let (location, reason) = (panicked.location, panicked.reason);
            tracing::error!(location, reason, "what receives a sequence's events panicked");
            false
        });
        if !open {
            self.0 = None;
        }
        open
    }

    /// Sends the last event.
    pub(crate) fn end(mut self, event: Event) {
        self.send(event);
        self.0 = None;
    }

    /// Ends without a last event.
    pub(crate) fn close(mut self) {
        self.0 = None;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // A sink is left only when a panic has unwound past the sequence.
        self.send(Event::Failed(SequenceError::ModelPanicked));
    }
}

/// What is counted while a sequence runs.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Prompt tokens found in the prefix cache when it first started.
    pub cached_tokens: usize,
    /// Token events sent.
    pub completion_tokens: usize,
    /// Forward passes it took part in.
    pub passes: usize,
    /// Most sequences in one of those passes.
    pub max_batch: usize,
    /// How many times it was preempted while no other sequence ran.
    pub lone_preemptions: usize,
    /// How many times it waited a step for a prefix that another sequence was computing.
    pub deferrals: usize,
}

/// A sequence: its tokens, how many of them are computed, and the KV blocks that hold their keys and values.
pub(crate) struct Sequence {
    /// Its position in the order of all sequences of the model.
    pub rank: Rank,
    /// Its priority class.
    pub priority: Priority,
    /// The adapter that it runs with.
    pub adapter: Option<AdapterIndex>,
    /// The account that it is charged to.
    pub tenant: Tenant,
    /// Which sequences find the blocks that it puts into the prefix cache. It finds the blocks of this owner and those
    /// that everyone finds.
    pub owner: CacheOwner,
    /// Tokens of the prompt and of the answer so far.
    pub tokens: Vec<u32>,
    /// How many of the tokens belong to the prompt.
    pub prompt_len: usize,
    /// How many tokens have their keys and values in the blocks.
    pub computed: usize,
    /// Tokens to compute in the current step; 0 when it does not take part.
    pub scheduled: usize,
    /// Number of the step that it last took part in.
    pub last_step: u64,
    /// Seconds that its parts of all steps so far were predicted to take.
    pub work_seconds: f64,
    /// Its block table: KV blocks in order, with [`crate::backend::NULL_BLOCK`] for those that it has released.
    pub blocks: Vec<u32>,
    /// How many leading blocks it has released because they are outside the attention windows of all tokens to come.
    pub released_blocks: usize,
    /// Most tokens of its context that a token attends to.
    pub window: usize,
    /// How many leading blocks are in the prefix cache.
    pub cached_blocks: usize,
    /// The full blocks of its prompt, compared with those of other sequences.
    pub prompt_blocks: PromptBlocks,
    /// The most work that a later sequence of its owner and class may have to wait for while this one waits.
    pub most_prefill: StepShape,
    /// What to produce after the prompt.
    pub output: OutputSpec,
    /// What the summary reports.
    pub counts: Counts,
    /// When it was submitted.
    pub arrival: Instant,
    /// Since when it has waited for a running slot: its arrival, or the time when it last lost its slot.
    pub waiting_since: Instant,
    /// When it wrote its first token in the slot that it has.
    pub decoding_since: Option<Instant>,
    /// When its first forward pass began.
    pub started: Option<Instant>,
    /// When the last prompt token was computed.
    pub prompt_done: Option<Instant>,
    /// Its entries in the queue's ledgers; `None` for the engine's own sequences.
    pub admission: Option<Admission>,
    deadline: Option<Instant>,
    cancel: CancelFlag,
    /// Tells the scheduler when the flag is set; `None` before it has the sequence, and after its end.
    subscription: Option<StopSubscription>,
    reporter: Reporter,
    /// Keeps its prompt's full blocks in the prefix cache once they are computed.
    pub keeper: Option<PrefixKeeper>,
    /// The span of the call that it is computed for.
    pub span: Span,
}

impl Sequence {
    /// A sequence for a valid request, which has not begun.
    pub(crate) fn new(
        request: SequenceRequest,
        arrival: Instant,
        id: u64,
        admission: Option<Admission>,
    ) -> Self {
        Self {
            rank: Rank::new(request.priority, arrival, id),
            priority: request.priority,
            adapter: request.adapter,
            owner: if request.output.pin_prompt {
                CacheOwner::Everyone
            } else {
                CacheOwner::Tenant(request.tenant.clone())
            },
            tenant: request.tenant,
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            computed: 0,
            scheduled: 0,
            last_step: 0,
            work_seconds: 0.0,
            blocks: Vec::new(),
            released_blocks: 0,
            window: usize::MAX,
            cached_blocks: 0,
            prompt_blocks: PromptBlocks::default(),
            most_prefill: StepShape::default(),
            output: request.output,
            counts: Counts::default(),
            arrival,
            waiting_since: arrival,
            decoding_since: None,
            started: None,
            prompt_done: None,
            admission,
            deadline: request.deadline,
            cancel: request.cancel,
            subscription: None,
            reporter: Reporter::new(request.events),
            keeper: request.keeper,
            span: request.span,
        }
    }

    /// Its first `len` tokens.
    pub(crate) fn prefix(&self, len: usize) -> Prefix<&[u32]> {
        Prefix {
            adapter: self.adapter,
            tokens: &self.tokens[..len],
        }
    }

    /// Whether it must not release any block yet, because its prompt is to be pinned.
    pub(crate) fn keeps_all_blocks(&self) -> bool {
        self.output.pin_prompt && self.prompt_done.is_none()
    }

    /// Number of blocks that it holds.
    pub(crate) fn held_blocks(&self) -> usize {
        self.blocks.len() - self.released_blocks
    }

    /// Number of computed tokens that the next token attends to.
    pub(crate) fn attended_context(&self) -> usize {
        self.computed.min(self.window)
    }

    /// Number of tokens that are not computed yet.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// What the next token to compute is.
    pub(crate) fn next_kind(&self) -> TokenKind {
        match self.computed < self.prompt_len {
            true => TokenKind::Prompt,
            false => TokenKind::Generated,
        }
    }

    /// Number of tokens that are not computed yet and can be computed in one step: where generated tokens are computed apart,
    /// those that are of the same kind as the next one.
    pub(crate) fn remaining_in_step(&self, generated: GeneratedTokens) -> usize {
        match (generated, self.next_kind()) {
            (GeneratedTokens::Apart, TokenKind::Prompt) => self.prompt_len - self.computed,
            (GeneratedTokens::Apart, TokenKind::Generated) | (GeneratedTokens::AsInPrompts, _) => {
                self.remaining()
            }
        }
    }

    /// Number of leading tokens whose keys and values other sequences with the same tokens can use, and whose keys and values
    /// it can use of others.
    pub(crate) fn reusable_tokens(&self, generated: GeneratedTokens) -> usize {
        match generated {
            GeneratedTokens::AsInPrompts => self.tokens.len(),
            GeneratedTokens::Apart => self.prompt_len,
        }
    }

    /// Number of tokens generated so far, which is also the number of the next draw.
    pub(crate) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Its part of a step that computes this many of its tokens.
    pub(crate) fn shape(&self, tokens: usize) -> StepShape {
        let is_read = tokens == self.remaining() && self.is_read();
        StepShape::of(tokens, self.attended_context(), is_read)
    }

    /// What the step that computes its last token has to read.
    pub(crate) fn readout(&self) -> Readout {
        let output = &self.output;
        let probe = self.probe();
        match probe {
            _ if output.score => Readout::Score,
            None if output.max_new_tokens == 0 && output.probe.is_none() => Readout::None,
            None if self.candidates_suffice() => Readout::Candidates {
                filter: output.sampling.filter(),
            },
            _ if !self.most_likely_suffices() => Readout::Logits,
            Some(probe) => Readout::Probe {
                tokens: probe.tokens.clone(),
            },
            // Only the most likely token is read. So a device need not send it all logits.
            None => Readout::Probe { tokens: Vec::new() },
        }
    }

    /// The probe, where it reads the position that follows the tokens so far.
    pub(crate) fn probe(&self) -> Option<&Probe> {
        let probe = self.output.probe.as_ref();
        probe.filter(|probe| self.generated() == 0 || probe.positions == ProbePositions::EveryToken)
    }

    /// Whether the next token, if there is one, is the most likely one, and nothing else is told of its logits.
    fn most_likely_suffices(&self) -> bool {
        let output = &self.output;
        output.max_new_tokens == 0 || output.logprobs.is_none() && output.sampling.takes_the_most_likely()
    }

    /// Whether the next token, which is not simply the most likely one, is nearly always among the few most likely ones, and
    /// nothing is told of the logits of others.
    fn candidates_suffice(&self) -> bool {
        let sampling = &self.output.sampling;
        let few = match sampling.filter() {
            None => true,
            Some(filter) => filter.keeps_few(),
        };
        let told = self.output.logprobs.unwrap_or(0);
        few && told <= MOST_CANDIDATES && !sampling.penalises() && !self.most_likely_suffices()
    }

    /// Whether the step that computes its last token reads anything.
    pub(crate) fn is_read(&self) -> bool {
        self.output.max_new_tokens > 0 || self.output.probe.is_some() || self.output.score
    }

    /// Its prompt, to be compared with those of other open sequences.
    pub(crate) fn open_prompt(&self) -> OpenPrompt<'_> {
        OpenPrompt {
            owner: &self.owner,
            adapter: self.adapter,
            class: self.priority,
            blocks: &self.prompt_blocks,
        }
    }

    /// Puts its id on the list when its caller stops it, until it ends.
    pub(crate) fn report_stop_to(&mut self, list: &StopList) {
        self.subscription = Some(self.cancel.subscribe(list, self.rank.id()));
    }

    /// Whether another sequence finds the blocks that this one puts into the prefix cache.
    pub(crate) fn is_found_by(&self, other: &Self) -> bool {
        self.adapter == other.adapter && self.owner.is_found_by(&other.owner)
    }

    /// The time by which it must have ended.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether its caller has stopped it.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// How the sequence must end before the next step; `None` if it may go on.
    pub(crate) fn stopped(&self, now: Instant) -> Option<Ending> {
        if self.is_cancelled() {
            return Some(Ending::Failed(SequenceError::Cancelled));
        }
        if self.cancel.is_cut() {
            return Some(Ending::Finished(FinishReason::Cut));
        }
        let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
        is_late.then(|| Ending::Failed(self.deadline_error()))
    }

    /// The error for a deadline that passes at its present stage.
    pub(crate) fn deadline_error(&self) -> SequenceError {
        let stage = match (self.started, self.prompt_done) {
            (None, _) => Stage::Queue,
            (Some(_), None) => Stage::Prefill,
            (Some(_), Some(_)) => Stage::Decode,
        };
        SequenceError::DeadlineExceeded { stage }
    }

    /// Leaves the queue, because its first forward pass begins. Returns `false` when the caller listens no more.
    pub(crate) fn start(&mut self, now: Instant) -> bool {
        self.started = Some(now);
        if let Some(admission) = &mut self.admission {
            admission.leave_queue(Some(now));
        }
        self.send(Event::Started {
            queue: now.saturating_duration_since(self.arrival),
            cached_tokens: self.counts.cached_tokens,
        })
    }

    /// Sends an event that is not the last. Returns `false` when the caller listens no more.
    pub(crate) fn send(&mut self, event: Event) -> bool {
        self.reporter.send(event)
    }

    /// Leaves the queue's ledgers and sends the last event. The blocks must have been released before.
    pub(crate) fn end(mut self, ending: Ending, now: Instant) {
        self.subscription = None;
        if let Some(admission) = &mut self.admission {
            admission.leave_queue(None);
            // A caller whose time is over gives up at the same moment, so that it may look like a cancellation.
            let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
            let is_answered = matches!(ending, Ending::Finished(reason) if reason != FinishReason::Cut);
            if is_late || is_answered {
                admission.set_ended(now);
            }
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
