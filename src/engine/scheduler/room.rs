//! KV blocks: who gets them, and who loses them.

use std::time::Instant;

use super::{
    super::{
        Priority, SequenceError,
        kv_blocks::KvBlocks,
        prefix::{Owner, Prefix},
        sequence::{Ending, Sequence},
        waiting::Line,
    },
    Scheduler,
    select::Chunk,
};

/// A sequence waits for others to compute a prefix that it shares at most this often; then it does so itself.
const MAX_DEFERRALS: usize = 16;

/// What came of taking a waiting sequence in.
pub(super) enum Admitted {
    /// It runs and takes part in this step.
    Scheduled(Chunk),
    /// It waits for a prefix that this step computes.
    Deferred,
    /// It ended: too little time was left.
    Ended,
    /// There is no room; whatever ranks behind it waits too, so that it is not overtaken for ever.
    NoRoom,
}

impl Scheduler {
    /// Lets the first of a line run if its tokens so far fit beside what the running ones still need, and
    /// gives it a chunk of at most so many tokens and seconds.
    pub(super) fn admit(&mut self, line: &Line, chunk: (usize, f64), now: Instant) -> Admitted {
        let Some(mut sequence) = self.waiting.pop(line) else {
            return Admitted::NoRoom;
        };
        let block_size = self.kv.block_size();
        // The last token is always computed: its logits are wanted.
        let limit = (sequence.tokens.len() - 1) / block_size;
        let mut blocks = std::mem::take(&mut sequence.blocks);
        let whole = sequence.prefix(sequence.tokens.len());
        self.kv.match_prefix(&sequence.owner, whole, limit, &mut blocks);
        sequence.blocks = blocks;
        let matched = sequence.blocks.len();
        sequence.computed = matched * block_size;
        sequence.published = matched;
        let_go_of_unseen(&mut self.kv, &mut sequence);

        let next_block = sequence.prefix(((matched + 1) * block_size).min(sequence.tokens.len()));
        if matched < limit
            && sequence.counts.deferrals < MAX_DEFERRALS
            && self.is_being_computed(&sequence.owner, next_block)
        {
            forget_computed(&mut self.kv, &mut sequence);
            sequence.counts.deferrals += 1;
            self.deferred.push(sequence);
            return Admitted::Deferred;
        }
        if self.is_too_late(&sequence, now) {
            let error = sequence.late();
            self.retire(sequence, Ending::Failed(error), now);
            return Admitted::Ended;
        }
        if !self.make_room(&sequence, now) {
            forget_computed(&mut self.kv, &mut sequence);
            self.no_room.push(line.clone());
            if self.running.is_empty() {
                // Submission refuses what does not fit alone; should one slip through, it must not wait for
                // blocks that nobody can free.
                self.retire(sequence, Ending::Failed(out_of_blocks()), now);
            } else {
                self.waiting.insert(sequence);
            }
            return Admitted::NoRoom;
        }
        if sequence.started.is_none() {
            sequence.counts.cached_tokens = sequence.computed;
        }
        let rank = sequence.rank;
        let index = self.running.partition_point(|other| other.rank < rank);
        let chunk = self.chunk(&sequence, chunk.0, chunk.1);
        self.running.insert(index, sequence);
        self.schedule(index, chunk.tokens, now);
        Admitted::Scheduled(chunk)
    }

    /// Whether the rest of the prompt alone takes longer than there is time, so that computing it is in vain. Where
    /// nothing else is open, it is tried all the same.
    fn is_too_late(&self, sequence: &Sequence, now: Instant) -> bool {
        let (Some(deadline), Some(costs)) = (sequence.deadline(), self.forecast.least(now)) else {
            return false;
        };
        let remaining = deadline.saturating_duration_since(now).as_secs_f64();
        self.has_work() && costs.step(sequence.part(sequence.remaining())) > remaining
    }

    /// Whether the sequence fits. An urgent one takes the blocks of those behind it that are not.
    fn make_room(&mut self, sequence: &Sequence, now: Instant) -> bool {
        while !self.fits(sequence) {
            let gives_way = |last: &Sequence| last.priority != Priority::Urgent && last.rank > sequence.rank;
            if sequence.priority != Priority::Urgent || !self.running.last().is_some_and(gives_way) {
                return false;
            }
            if let Some(victim) = self.running.pop() {
                self.preempt(victim, now);
            }
        }
        true
    }

    /// Whether the sequence's tokens so far fit beside what the running ones still need.
    pub(super) fn fits(&self, sequence: &Sequence) -> bool {
        let promised: usize = self
            .running
            .iter()
            // One more each, so that the next decodes do not preempt at once.
            .map(|other| 1 + self.still_needs(other))
            .sum();
        self.still_needs(sequence) + promised <= self.kv.available()
    }

    /// Blocks that a sequence's tokens so far need beyond those that it holds.
    fn still_needs(&self, sequence: &Sequence) -> usize {
        let tokens = self.kv.blocks_for(sequence.tokens.len());
        let more = tokens.saturating_sub(sequence.blocks.len());
        let most = self.kv.limits().most_blocks();
        if sequence.keeps_all() {
            more
        } else {
            more.min(most.saturating_sub(sequence.held()))
        }
    }

    /// Whether this step computes the last block of `prefix` (full blocks) for another sequence: one step
    /// later `reader` finds it in the cache.
    fn is_being_computed(&self, reader: &Owner, prefix: Prefix<&[u32]>) -> bool {
        let end = prefix.tokens.len();
        let begin = end - self.kv.block_size();
        self.running.iter().any(|other| {
            other.scheduled > 0
                && other.owner.is_found_by(reader)
                && other.computed <= begin
                && other.computed + other.scheduled >= end
                && other.prefix(end) == prefix
        })
    }

    /// Gives the running sequence at `index` blocks for `tokens` more and puts it into the step, preempting
    /// others where blocks are short. `false` when it was itself the one that had to go.
    pub(super) fn schedule(&mut self, index: usize, tokens: usize, now: Instant) -> bool {
        let target = self.kv.blocks_for(self.running[index].computed + tokens);
        while self.running[index].blocks.len() < target {
            if let Some(block) = self.kv.allocate() {
                self.running[index].blocks.push(block);
                continue;
            }
            let loser = self.loses_blocks(index);
            let mut victim = self.running.remove(loser);
            if self.running.is_empty() {
                // Alone, and still out of blocks: it had computed for itself what was pinned meanwhile. It
                // finds that in the cache when it comes back; a second time cannot be.
                victim.counts.lone_preemptions += 1;
                if victim.counts.lone_preemptions > 1 {
                    self.tokens_left += victim.scheduled;
                    self.retire(victim, Ending::Failed(out_of_blocks()), now);
                    return false;
                }
            }
            self.preempt(victim, now);
            if loser == index || self.running.len() <= index {
                return false;
            }
        }
        self.charge(index, tokens);
        self.running[index].scheduled = tokens;
        self.tokens_left -= tokens;
        true
    }

    /// Takes a sequence's blocks; it goes back to its place in the queue and computes them again later.
    pub(super) fn preempt(&mut self, mut victim: Sequence, now: Instant) {
        self.record.preemptions += 1;
        #[cfg(test)]
        {
            self.preemptions += 1;
        }
        self.tight = true;
        self.tokens_left += victim.scheduled;
        victim.scheduled = 0;
        (victim.waits_since, victim.writes_since) = (now, None);
        forget_computed(&mut self.kv, &mut victim);
        self.waiting.insert(victim);
    }
}

/// Lets go of all blocks of a sequence that will begin anew.
fn forget_computed(kv: &mut KvBlocks, sequence: &mut Sequence) {
    (sequence.computed, sequence.published, sequence.unseen) = (0, 0, 0);
    kv.release_all(&mut sequence.blocks);
}

/// Lets go of the blocks that none of the sequence's tokens to come sees. The last one in the cache stays, since the
/// next is put below it, and so do all of a prompt that is to be pinned.
pub fn let_go_of_unseen(kv: &mut KvBlocks, sequence: &mut Sequence) {
    if sequence.keeps_all() {
        return;
    }
    let unseen = kv.limits().unseen_blocks(sequence.computed);
    let unseen = unseen.min(sequence.published.saturating_sub(1));
    if unseen > sequence.unseen {
        kv.let_go(&mut sequence.blocks[sequence.unseen..unseen]);
        sequence.unseen = unseen;
    }
}

fn out_of_blocks() -> SequenceError {
    SequenceError::ModelFailed("the KV pool cannot hold this sequence beside the pinned prefixes".to_owned())
}
