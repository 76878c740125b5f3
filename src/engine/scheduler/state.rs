//! The scheduler's state: the sequences of one model, its KV blocks, and the accounts of its tenants.

use std::time::Instant;

use crate::backend::CostPrior;

use super::super::{
    cancellation::StopList,
    error::SequenceError,
    fair_share::FairShare,
    kv_blocks::KvBlocks,
    open_prompts::OpenPrompts,
    request::Priority,
    sequence::{Ending, Sequence},
    stats::StepRecord,
    step_time::{StepCosts, StepTimeModel},
    tenant::TenantWeights,
    waiting::{QueueKey, WaitingQueues},
};

/// The most that one step may contain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Sequences. This is also the number of running slots, so every running sequence fits into each step.
    pub sequences: usize,
    /// Tokens; at least `sequences`, so that every decode gets its token, and something is left for prefill as long as
    /// one running sequence is not decoding.
    pub tokens: usize,
}

impl Budget {
    /// A budget with at least one of each, and no more sequences than tokens.
    pub(crate) fn new(sequences: usize, tokens: usize) -> Self {
        let tokens = tokens.max(1);
        Self {
            sequences: sequences.clamp(1, tokens),
            tokens,
        }
    }

    /// Running slots that urgent and non-urgent sequences may each not take from the other.
    fn reserved_slots(&self) -> usize {
        self.sequences / 8
    }
}

/// Classes that are planned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClassGroup {
    /// All classes, in one order.
    All,
    /// The urgent class.
    Urgent,
    /// All other classes.
    NonUrgent,
}

impl ClassGroup {
    /// Whether a class belongs to the group.
    pub(super) fn contains(self, class: Priority) -> bool {
        match self {
            Self::All => true,
            Self::Urgent => class == Priority::Urgent,
            Self::NonUrgent => class != Priority::Urgent,
        }
    }
}

/// Limits of one prefill chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkLimit {
    /// Most tokens of the chunk.
    pub(super) tokens: usize,
    /// Most seconds that the chunk is predicted to take.
    pub(super) seconds: f64,
}

/// What a prompt gets of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    /// Tokens of the prompt that are computed.
    pub(super) tokens: usize,
    /// Seconds that they are predicted to take.
    pub(super) seconds: f64,
    /// Whether there was too little time for more tokens. Then there is none left for other prompts either.
    pub(super) cut: bool,
}

/// Seconds that non-urgent decodes and prefills have had, in the steps since there last was time for both.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ContendedSeconds {
    pub(super) decode: f64,
    pub(super) prefill: f64,
}

/// Schedules the sequences of one model.
pub(crate) struct Scheduler {
    /// The model's KV blocks.
    pub kv: KvBlocks,
    /// Sequences that hold a running slot and KV blocks, in order of rank.
    pub running: Vec<Sequence>,
    /// What the metrics record of the current step.
    pub record: StepRecord,
    /// What steps are predicted to cost.
    pub step_time: StepTimeModel,
    /// Seconds of work of each urgent sequence that has finished since this list was last drained.
    pub finished_urgent_work: Vec<f64>,
    /// Preemptions since the start.
    #[cfg(test)]
    pub preemptions: u64,
    pub(super) waiting: WaitingQueues,
    /// The prompts of all open sequences.
    pub(super) open_prompts: OpenPrompts,
    /// The open sequences that their callers have stopped since the last step was planned.
    pub(super) stops: StopList,
    pub(super) shares: FairShare,
    pub(super) budget: Budget,
    /// Steps planned since the start.
    pub(super) planned_steps: u64,
    /// Tokens that are left in the step being planned.
    pub(super) tokens_left: usize,
    /// Whether KV blocks ran out in the step being planned. Then no other sequence is admitted in it.
    pub(super) out_of_blocks: bool,
    /// Queues whose first sequence found no room in the step being planned.
    pub(super) blocked_queues: Vec<QueueKey>,
    /// Waiting sequences that skip the step being planned, because it computes a prefix for them.
    pub(super) deferred: Vec<Sequence>,
    pub(super) contended: ContendedSeconds,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub(crate) fn new(budget: Budget, kv: KvBlocks, cost_prior: CostPrior, weights: TenantWeights) -> Self {
        Self {
            kv,
            running: Vec::new(),
            record: StepRecord::default(),
            step_time: StepTimeModel::new(cost_prior),
            finished_urgent_work: Vec::new(),
            #[cfg(test)]
            preemptions: 0,
            waiting: WaitingQueues::default(),
            open_prompts: OpenPrompts::default(),
            stops: StopList::default(),
            shares: FairShare::new(weights),
            budget,
            planned_steps: 0,
            tokens_left: 0,
            out_of_blocks: false,
            blocked_queues: Vec::new(),
            deferred: Vec::new(),
            contended: ContendedSeconds::default(),
        }
    }

    /// Whether any sequence is open.
    pub(crate) fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// Whether any urgent sequence is open.
    pub(crate) fn has_urgent(&self) -> bool {
        self.shares.open_sequences(Priority::Urgent) > 0
    }

    /// Removes all sequences without sending events, and forgets all KV blocks and their contents.
    pub(crate) fn clear(&mut self) -> Vec<Sequence> {
        self.kv.clear();
        self.open_prompts = OpenPrompts::default();
        let sequences: Vec<_> = self
            .running
            .drain(..)
            .chain(self.deferred.drain(..))
            .chain(self.waiting.drain())
            .collect();
        for sequence in &sequences {
            self.shares.close_sequence(sequence.priority, &sequence.tenant);
        }
        sequences
    }

    /// Ends a sequence that is in none of the scheduler's lists any more: releases its blocks, then sends its last
    /// event.
    pub(crate) fn retire(&mut self, mut sequence: Sequence, ending: Ending, now: Instant) {
        let mut blocks = std::mem::take(&mut sequence.blocks);
        if ending == Ending::Failed(SequenceError::NumericFault) {
            let cached = sequence.prefix(sequence.cached_blocks * self.kv.block_size());
            self.kv.discard_all(&sequence.owner, cached, &mut blocks);
        } else {
            self.kv.release_all(&mut blocks);
        }
        self.shares.close_sequence(sequence.priority, &sequence.tenant);
        self.open_prompts.leave(sequence.open_prompt());
        if sequence.priority == Priority::Urgent && matches!(ending, Ending::Finished(_)) {
            let bases = self.costs().base() * sequence.counts.passes as f64;
            self.finished_urgent_work.push(sequence.work_seconds + bases);
        }
        sequence.end(ending, now);
    }

    /// What steps are predicted to cost now.
    pub(super) fn costs(&self) -> StepCosts {
        self.step_time.costs()
    }

    /// Whether one more sequence of the group may run.
    pub(super) fn has_slot(&self, group: ClassGroup) -> bool {
        let most = match group {
            ClassGroup::All => self.budget.sequences,
            ClassGroup::Urgent | ClassGroup::NonUrgent => {
                self.budget.sequences - self.budget.reserved_slots()
            }
        };
        let held = self
            .running
            .iter()
            .filter(|sequence| group.contains(sequence.priority))
            .count();
        self.running.len() < self.budget.sequences && held < most
    }

    /// The next chunk of one prompt, within a limit.
    pub(super) fn chunk(&self, sequence: &Sequence, limit: ChunkLimit) -> Chunk {
        let longest = self.kv.limits().longest_chunk();
        let left = sequence.remaining_in_step(self.kv.generated());
        let most = left.min(limit.tokens).min(longest);
        let tokens = if limit.seconds.is_infinite() {
            most
        } else {
            self.costs()
                .max_tokens_within(limit.seconds, sequence.attended_context(), most)
        };
        Chunk {
            tokens,
            seconds: self.costs().part(sequence.shape(tokens)),
            cut: tokens < most,
        }
    }

    /// Charges a running sequence, and its tenant, for its part of the step.
    pub(super) fn charge(&mut self, index: usize, tokens: usize) {
        let seconds = self.costs().part(self.running[index].shape(tokens));
        let sequence = &mut self.running[index];
        sequence.work_seconds += seconds;
        sequence.last_step = self.planned_steps;
        self.shares.charge(
            sequence.priority,
            &sequence.tenant,
            charged_seconds(seconds, tokens),
        );
    }
}

/// What a tenant is charged for tokens that are predicted to take `seconds`. Where tokens cost next to nothing, their
/// number is charged instead.
pub(super) fn charged_seconds(seconds: f64, tokens: usize) -> f64 {
    seconds.max(tokens as f64 * 1e-6)
}
