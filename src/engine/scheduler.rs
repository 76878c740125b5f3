//! Decides what each step computes: which sequences, how many tokens of each, in which KV blocks. Plain
//! synchronous code without clocks: the time is an argument.

use std::{
    collections::BTreeMap,
    ops::Bound,
    time::{Duration, Instant},
};

use super::{
    SequenceError,
    kv_blocks::KvBlocks,
    sequence::{Ending, Rank, Sequence},
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
}

/// A sequence waits for others to compute a prefix that it shares at most this often; then it does so itself.
const MAX_DEFERRALS: usize = 16;

/// What happened in a plan, for metrics.
#[derive(Debug, Default)]
pub struct PlanRecord {
    /// Queue times of the sequences that started.
    pub queue_waits: Vec<Duration>,
    /// Their prompt tokens that are computed.
    pub prompt_tokens: u64,
    /// Their prompt tokens that were cached.
    pub cached_tokens: u64,
    /// Sequences that lost their blocks to others.
    pub preemptions: u64,
}

enum Admitted {
    /// It runs and takes part in this step.
    Scheduled,
    /// It waits for a prefix that this step computes.
    Deferred,
    /// There is no room; whatever ranks behind it waits too, so that it is not overtaken for ever.
    NoRoom,
}

/// The sequences of one model.
pub struct Scheduler {
    /// The model's blocks.
    pub kv: KvBlocks,
    /// Sequences that hold blocks, first in rank first.
    pub running: Vec<Sequence>,
    /// What happened in the last plan.
    pub record: PlanRecord,
    /// Preemptions since the start.
    #[cfg(test)]
    pub preemptions: u64,
    waiting: BTreeMap<Rank, Sequence>,
    budget: Budget,
    tokens_left: usize,
    /// Blocks ran out in this plan: nobody else is admitted in it.
    tight: bool,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(budget: Budget, kv: KvBlocks) -> Self {
        Self {
            kv,
            running: Vec::new(),
            record: PlanRecord::default(),
            #[cfg(test)]
            preemptions: 0,
            waiting: BTreeMap::new(),
            budget,
            tokens_left: 0,
            tight: false,
        }
    }

    /// Adds a sequence to the queue.
    pub fn enqueue(&mut self, sequence: Sequence) {
        self.waiting.insert(sequence.rank, sequence);
    }

    /// Whether there is anything to do.
    pub fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// Takes all sequences out, without an event, and forgets all blocks and what they hold.
    pub fn clear(&mut self) -> Vec<Sequence> {
        let blocks = self.kv.total() as u32;
        self.kv = KvBlocks::new(blocks, self.kv.block_size());
        let waiting = std::mem::take(&mut self.waiting).into_values();
        self.running.drain(..).chain(waiting).collect()
    }

    /// Plans a step: ends what must not go on, and sets [`Sequence::scheduled`] on the running sequences that
    /// take part, which then have the blocks for these tokens.
    ///
    /// Sequences with one token to go (decodes) come first, then prefill chunks in order of rank, taking in
    /// waiting sequences where they rank first.
    pub fn plan(&mut self, now: Instant) {
        self.record.queue_waits.clear();
        self.record = PlanRecord {
            queue_waits: std::mem::take(&mut self.record.queue_waits),
            ..PlanRecord::default()
        };
        self.end_stopped(now);
        self.tokens_left = self.budget.tokens;
        self.tight = false;
        self.plan_decodes(now);
        self.plan_prefills(now);
        self.start_new(now);
    }

    /// Ends a sequence that is in neither list any more: frees its blocks, then says so.
    pub fn retire(&mut self, mut sequence: Sequence, ending: Ending, now: Instant) {
        if ending == Ending::Failed(SequenceError::NumericFault) {
            self.kv.discard_all(&mut sequence.blocks);
        } else {
            self.kv.release_all(&mut sequence.blocks);
        }
        sequence.end(ending, now);
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
        let ended: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|(&rank, sequence)| Some((rank, stopped(sequence)?)))
            .collect();
        for (rank, error) in ended {
            if let Some(sequence) = self.waiting.remove(&rank) {
                self.retire(sequence, Ending::Failed(error), now);
            }
        }
    }

    fn plan_decodes(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(sequence) = self.running.get(index) {
            // A sequence that preempts itself was the last of the list.
            if sequence.remaining() != 1 || self.schedule(index, 1, now) {
                index += 1;
            }
        }
    }

    fn plan_prefills(&mut self, now: Instant) {
        let mut deferred = 0;
        let mut after = Bound::Unbounded;
        while self.tokens_left > 0 {
            let running = self.running.iter().position(|sequence| sequence.scheduled == 0);
            let open =
                !self.tight && self.running.len() < self.budget.sequences && deferred < self.budget.sequences;
            let waiting = open
                .then(|| self.waiting.range((after, Bound::Unbounded)).next())
                .flatten();
            let waiting = waiting.map(|(&rank, _)| rank);
            match (running, waiting) {
                (None, None) => break,
                (Some(index), rank) if rank.is_none_or(|rank| self.running[index].rank < rank) => {
                    let chunk = self.running[index].remaining().min(self.tokens_left);
                    self.schedule(index, chunk, now);
                }
                (_, Some(rank)) => match self.admit(rank, now) {
                    Admitted::Scheduled => {}
                    Admitted::Deferred => {
                        deferred += 1;
                        after = Bound::Excluded(rank);
                    }
                    Admitted::NoRoom => self.tight = true,
                },
                (Some(_), None) => break,
            }
        }
    }

    /// Lets a waiting sequence run if its tokens so far fit beside what the running ones still need.
    fn admit(&mut self, rank: Rank, now: Instant) -> Admitted {
        let Some(mut sequence) = self.waiting.remove(&rank) else {
            return Admitted::NoRoom;
        };
        let block_size = self.kv.block_size();
        // The last token is always computed: its logits are wanted.
        let limit = (sequence.tokens.len() - 1) / block_size;
        self.kv
            .match_prefix(&sequence.tokens, limit, &mut sequence.blocks);
        let matched = sequence.blocks.len();

        let next_block = &sequence.tokens[..((matched + 1) * block_size).min(sequence.tokens.len())];
        if matched < limit && sequence.counts.deferrals < MAX_DEFERRALS && self.is_being_computed(next_block)
        {
            self.kv.release_all(&mut sequence.blocks);
            sequence.counts.deferrals += 1;
            self.waiting.insert(rank, sequence);
            return Admitted::Deferred;
        }

        let needed = self.kv.blocks_for(sequence.tokens.len()) - matched;
        let promised: usize = self
            .running
            .iter()
            // One more each, so that the next decodes do not preempt at once.
            .map(|other| {
                1 + self
                    .kv
                    .blocks_for(other.tokens.len())
                    .saturating_sub(other.blocks.len())
            })
            .sum();
        if needed + promised > self.kv.available() {
            self.kv.release_all(&mut sequence.blocks);
            if self.running.is_empty() {
                // Submission refuses what does not fit alone; should one slip through, it must not wait for
                // blocks that nobody can free.
                self.retire(sequence, Ending::Failed(out_of_blocks()), now);
            } else {
                self.waiting.insert(rank, sequence);
            }
            return Admitted::NoRoom;
        }
        sequence.computed = matched * block_size;
        sequence.published = matched;
        if sequence.started.is_none() {
            sequence.counts.cached_tokens = sequence.computed;
        }
        let index = self.running.partition_point(|other| other.rank < rank);
        let chunk = sequence.remaining().min(self.tokens_left);
        self.running.insert(index, sequence);
        self.schedule(index, chunk, now);
        Admitted::Scheduled
    }

    /// Whether this step computes the last block of `prefix` (full blocks) for another sequence: one step
    /// later it is in the cache.
    fn is_being_computed(&self, prefix: &[u32]) -> bool {
        let begin = prefix.len() - self.kv.block_size();
        self.running.iter().any(|other| {
            other.scheduled > 0
                && other.computed <= begin
                && other.computed + other.scheduled >= prefix.len()
                && other.tokens[..prefix.len()] == *prefix
        })
    }

    /// Gives the running sequence at `index` blocks for `tokens` more and puts it into the step, preempting
    /// from the end of the order where blocks are short. `false` when it was itself the last and had to go.
    fn schedule(&mut self, index: usize, tokens: usize, now: Instant) -> bool {
        let target = self.kv.blocks_for(self.running[index].computed + tokens);
        while self.running[index].blocks.len() < target {
            if let Some(block) = self.kv.allocate() {
                self.running[index].blocks.push(block);
                continue;
            }
            if let Some(victim) = self.running.pop() {
                self.preempt(victim, now);
            }
            if self.running.len() <= index {
                return false;
            }
        }
        self.running[index].scheduled = tokens;
        self.tokens_left -= tokens;
        true
    }

    /// Takes a sequence's blocks; it goes back to its place in the queue and computes them again later.
    fn preempt(&mut self, mut victim: Sequence, now: Instant) {
        self.record.preemptions += 1;
        #[cfg(test)]
        {
            self.preemptions += 1;
        }
        self.tight = true;
        self.tokens_left += victim.scheduled;
        victim.scheduled = 0;
        victim.computed = 0;
        victim.published = 0;
        self.kv.release_all(&mut victim.blocks);
        if self.running.is_empty() {
            // Alone, and still out of blocks: it had computed for itself what was pinned meanwhile. It finds
            // that in the cache when it comes back; a second time cannot be.
            victim.counts.lone_preemptions += 1;
            if victim.counts.lone_preemptions > 1 {
                self.retire(victim, Ending::Failed(out_of_blocks()), now);
                return;
            }
        }
        self.waiting.insert(victim.rank, victim);
    }

    /// Tells those that run for the first time; who does not listen any more does not run.
    fn start_new(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            if sequence.started.is_none() && sequence.scheduled > 0 {
                let cached = sequence.counts.cached_tokens;
                self.record
                    .queue_waits
                    .push(now.saturating_duration_since(sequence.arrival));
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

fn out_of_blocks() -> SequenceError {
    SequenceError::ModelFailed("the KV pool cannot hold this sequence beside the pinned prefixes".to_owned())
}
