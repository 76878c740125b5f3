//! Lets waiting sequences run: finds their cached prefixes, and makes room for them.

use std::time::Instant;

use super::{
    super::{
        prefix::{CacheOwner, Prefix},
        request::Priority,
        sequence::{Ending, Sequence},
        waiting::QueueKey,
    },
    blocks::{out_of_blocks, release_computed, release_out_of_window},
    state::{Chunk, ChunkLimit, Scheduler},
};

/// How many times a sequence waits a step for another one to compute a common prefix. After that it computes the prefix
/// itself.
const MAX_DEFERRALS: usize = 16;

/// What came of trying to let a waiting sequence run.
pub(super) enum AdmitOutcome {
    /// It runs, and takes part in this step.
    Scheduled(Chunk),
    /// It waits for a prefix that this step computes.
    Deferred,
    /// It ended, because too little time was left.
    Ended,
    /// There is no room for it. The sequences that rank behind it wait too, so that they cannot overtake it for ever.
    NoRoom,
}

impl Scheduler {
    /// Lets the first sequence of a queue run if its tokens so far fit beside what the running ones still need, and
    /// gives it a chunk within `limit`.
    pub(super) fn admit(&mut self, key: &QueueKey, limit: ChunkLimit, now: Instant) -> AdmitOutcome {
        let Some(mut sequence) = self.waiting.pop(key) else {
            return AdmitOutcome::NoRoom;
        };
        let block_size = self.kv.block_size();
        // The last token is always computed, because its logits are read.
        let reusable = sequence.reusable_tokens(self.kv.generated());
        let most_cached = reusable.min(sequence.tokens.len() - 1) / block_size;
        let mut blocks = std::mem::take(&mut sequence.blocks);
        let whole = sequence.prefix(sequence.tokens.len());
        self.kv
            .match_prefix(&sequence.owner, whole, most_cached, &mut blocks);
        sequence.blocks = blocks;
        let matched = sequence.blocks.len();
        sequence.computed = matched * block_size;
        sequence.cached_blocks = matched;
        release_out_of_window(&mut self.kv, &mut sequence);

        let next_block = sequence.prefix(((matched + 1) * block_size).min(sequence.tokens.len()));
        if matched < most_cached
            && sequence.counts.deferrals < MAX_DEFERRALS
            && self.is_being_computed(&sequence.owner, next_block)
        {
            release_computed(&mut self.kv, &mut sequence);
            sequence.counts.deferrals += 1;
            self.deferred.push(sequence);
            return AdmitOutcome::Deferred;
        }
        if self.is_too_late(&sequence, now) {
            let error = sequence.deadline_error();
            self.retire(sequence, Ending::Failed(error), now);
            return AdmitOutcome::Ended;
        }
        if !self.make_room(&sequence, now) {
            release_computed(&mut self.kv, &mut sequence);
            self.blocked_queues.push(key.clone());
            if self.running.is_empty() {
                // Submission refuses a sequence that does not fit alone. Should one get here all the same, it must not
                // wait for blocks that nobody can release.
                self.retire(sequence, Ending::Failed(out_of_blocks()), now);
            } else {
                self.waiting.insert(sequence);
            }
            return AdmitOutcome::NoRoom;
        }
        if sequence.started.is_none() {
            sequence.counts.cached_tokens = sequence.computed;
        }
        let rank = sequence.rank;
        let index = self.running.partition_point(|other| other.rank < rank);
        let chunk = self.chunk(&sequence, limit);
        self.running.insert(index, sequence);
        self.schedule(index, chunk.tokens, now);
        AdmitOutcome::Scheduled(chunk)
    }

    /// Whether computing the rest of the prompt alone takes longer than the time to the deadline, so that it would be in
    /// vain. Where no other sequence is open, it is tried all the same.
    fn is_too_late(&self, sequence: &Sequence, now: Instant) -> bool {
        let (Some(deadline), Some(costs)) = (sequence.deadline(), self.step_time.lower_bound(now)) else {
            return false;
        };
        let remaining = deadline.saturating_duration_since(now).as_secs_f64();
        self.has_work() && costs.step(sequence.shape(sequence.remaining())) > remaining
    }

    /// Whether the sequence fits. For an urgent sequence, non-urgent ones that rank behind it are preempted.
    fn make_room(&mut self, sequence: &Sequence, now: Instant) -> bool {
        while !self.fits(sequence) {
            let can_preempt =
                |last: &Sequence| last.priority != Priority::Urgent && last.rank > sequence.rank;
            if sequence.priority != Priority::Urgent || !self.running.last().is_some_and(can_preempt) {
                return false;
            }
            if let Some(victim) = self.running.pop() {
                self.preempt(victim, now);
            }
        }
        true
    }

    /// Whether this step computes the last block of `prefix` (full blocks) for another sequence, so that sequences of
    /// `reader` find it in the cache one step later.
    fn is_being_computed(&self, reader: &CacheOwner, prefix: Prefix<&[u32]>) -> bool {
        let end = prefix.tokens.len();
        let begin = end - self.kv.block_size();
        self.running.iter().any(|other| {
            other.scheduled > 0
                && other.owner.is_found_by(reader)
                && other.computed <= begin
                && (other.computed + other.scheduled).min(other.reusable_tokens(self.kv.generated())) >= end
                && other.prefix(end) == prefix
        })
    }
}
