//! Decides what each step computes: which sequences, how many tokens of each, in which KV blocks. Plain
//! synchronous code without clocks: the time is an argument.

mod pace;
mod places;
mod prospects;
mod room;
mod select;

pub use pace::{Ledger, Pace, Planned};
#[cfg(test)]
pub use places::TURN;
pub use room::let_go_of_unseen;

use std::time::{Duration, Instant};

use crate::backend::CostPrior;

use super::{
    Priority, SequenceError, TenantWeights,
    fair::Shares,
    forecast::{Costs, Forecast},
    kv_blocks::KvBlocks,
    sequence::{Ending, Sequence},
    waiting::{Line, Waiting},
};

/// Most of one step.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Sequences; also the most that run at the same time, so every running one fits into each step.
    pub sequences: usize,
    /// Tokens; at least `sequences`, so that every decode gets its token and something is left for prefill
    /// as long as one sequence is not decoding.
    pub tokens: usize,
}

impl Budget {
    /// A budget with at least one of each, and no more sequences than tokens.
    pub fn new(sequences: usize, tokens: usize) -> Self {
        let tokens = tokens.max(1);
        Self {
            sequences: sequences.clamp(1, tokens),
            tokens,
        }
    }

    /// Places that neither urgent work nor the rest may take from the other.
    fn reserved_places(&self) -> usize {
        self.sequences / 8
    }
}

/// What happened in a plan, for metrics.
#[derive(Debug, Default)]
pub struct PlanRecord {
    /// Queue times of the sequences that started, with their classes.
    pub queue_waits: Vec<(Priority, Duration)>,
    /// Their prompt tokens that are computed.
    pub prompt_tokens: u64,
    /// Their prompt tokens that were cached.
    pub cached_tokens: u64,
    /// Sequences that lost their blocks to others.
    pub preemptions: u64,
}

/// A part of the work: what is planned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Everything, in one order.
    All,
    /// Urgent sequences.
    Urgent,
    /// The others.
    Rest,
}

impl Group {
    fn holds(self, class: Priority) -> bool {
        match self {
            Self::All => true,
            Self::Urgent => class == Priority::Urgent,
            Self::Rest => class != Priority::Urgent,
        }
    }
}

/// The sequences of one model.
pub struct Scheduler {
    /// The model's blocks.
    pub kv: KvBlocks,
    /// Sequences that hold blocks, first in rank first.
    pub running: Vec<Sequence>,
    /// What happened in the last plan.
    pub record: PlanRecord,
    /// What steps cost.
    pub forecast: Forecast,
    /// Work of the urgent sequences that finished since it was last taken, in seconds each.
    pub urgent_work: Vec<f64>,
    /// Preemptions since the start.
    #[cfg(test)]
    pub preemptions: u64,
    waiting: Waiting,
    shares: Shares,
    budget: Budget,
    plans: u64,
    tokens_left: usize,
    /// Blocks ran out in this plan: nobody else is admitted in it.
    tight: bool,
    /// Lines whose first found no room in this plan.
    no_room: Vec<Line>,
    /// Waiting sequences that sit this plan out, because it computes a prefix for them.
    deferred: Vec<Sequence>,
    /// Of the steps that were too short for all decodes and all prefill: seconds for the one and the other.
    scarce: (f64, f64),
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(budget: Budget, kv: KvBlocks, prior: CostPrior, weights: TenantWeights) -> Self {
        Self {
            kv,
            running: Vec::new(),
            record: PlanRecord::default(),
            forecast: Forecast::new(prior),
            urgent_work: Vec::new(),
            #[cfg(test)]
            preemptions: 0,
            waiting: Waiting::default(),
            shares: Shares::new(weights),
            budget,
            plans: 0,
            tokens_left: 0,
            tight: false,
            no_room: Vec::new(),
            deferred: Vec::new(),
            scarce: (0.0, 0.0),
        }
    }

    /// Whether there is anything to do.
    pub fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// Whether there is anything urgent to do.
    pub fn has_urgent(&self) -> bool {
        self.shares.open(Priority::Urgent) > 0
    }

    /// Takes all sequences out, without an event, and forgets all blocks and what they hold.
    pub fn clear(&mut self) -> Vec<Sequence> {
        self.kv.clear();
        let sequences: Vec<_> = self
            .running
            .drain(..)
            .chain(self.deferred.drain(..))
            .chain(self.waiting.take_all())
            .collect();
        for sequence in &sequences {
            self.shares.leave(sequence.priority, &sequence.tenant);
        }
        sequences
    }

    /// Plans a step: ends what must not go on, and sets [`Sequence::scheduled`] on the running sequences that
    /// take part, which then have the blocks for these tokens.
    ///
    /// Sequences with one token to go (decodes) come first, then prefill chunks, taking in waiting sequences
    /// where it is their turn. At a bounded pace, urgent work comes before the rest.
    pub fn plan(&mut self, now: Instant, pace: Pace) -> Planned {
        self.record.queue_waits.clear();
        self.record = PlanRecord {
            queue_waits: std::mem::take(&mut self.record.queue_waits),
            ..PlanRecord::default()
        };
        self.end_stopped(now);
        self.plans += 1;
        self.tokens_left = self.budget.tokens;
        self.tight = false;
        let no_room = std::mem::take(&mut self.no_room);
        if pace == Pace::Unbounded {
            self.give_back(Group::All, &no_room, now);
            self.plan_decodes(Group::All, f64::INFINITY, now);
            self.plan_prefills(Group::All, f64::INFINITY, 0, now);
        } else {
            self.give_back(Group::Urgent, &no_room, now);
            self.give_back(Group::Rest, &no_room, now);
            self.plan_paced(pace, now);
        }
        for sequence in self.deferred.drain(..) {
            self.waiting.insert(sequence);
        }
        self.start_new(now);
        self.planned()
    }

    /// Ends a sequence that is in neither list any more: frees its blocks, then says so.
    pub fn retire(&mut self, mut sequence: Sequence, ending: Ending, now: Instant) {
        if ending == Ending::Failed(SequenceError::NumericFault) {
            self.kv.discard_all(&mut sequence.blocks);
        } else {
            self.kv.release_all(&mut sequence.blocks);
        }
        self.shares.leave(sequence.priority, &sequence.tenant);
        if sequence.priority == Priority::Urgent && matches!(ending, Ending::Finished(_)) {
            let bases = self.costs().base() * sequence.counts.passes as f64;
            self.urgent_work.push(sequence.work + bases);
        }
        sequence.end(ending, now);
    }

    fn costs(&self) -> Costs {
        self.forecast.costs()
    }

    /// What is in the step.
    fn planned(&self) -> Planned {
        let scheduled = || self.running.iter().filter(|sequence| sequence.scheduled > 0);
        let costs = self.costs();
        Planned {
            urgent: scheduled().any(|sequence| sequence.priority == Priority::Urgent),
            rest: scheduled()
                .filter(|sequence| sequence.priority != Priority::Urgent)
                .map(|sequence| costs.part(sequence.part(sequence.scheduled)))
                .sum(),
        }
    }

    fn end_stopped(&mut self, now: Instant) {
        let stopped = |sequence: &Sequence| sequence.stop_reason(now);
        let mut index = 0;
        while let Some(sequence) = self.running.get(index) {
            match stopped(sequence) {
                Some(error) => {
                    let sequence = self.running.remove(index);
                    self.retire(sequence, Ending::Failed(error), now);
                }
                None => index += 1,
            }
        }
        for (sequence, error) in self.waiting.take_stopped(stopped) {
            self.retire(sequence, Ending::Failed(error), now);
        }
    }

    /// Tells those that run for the first time; who does not listen any more does not run.
    fn start_new(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            if sequence.started.is_none() && sequence.scheduled > 0 {
                let cached = sequence.counts.cached_tokens;
                let wait = now.saturating_duration_since(sequence.arrival);
                self.record.queue_waits.push((sequence.priority, wait));
                self.record.cached_tokens += cached as u64;
                self.record.prompt_tokens += (sequence.prompt_len - cached) as u64;
                if !sequence.start(now) {
                    let sequence = self.running.remove(index);
                    self.retire(sequence, Ending::Closed, now);
                    continue;
                }
            }
            index += 1;
        }
    }
}
