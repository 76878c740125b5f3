//! Accepts a sequence that has just arrived, or refuses it because it cannot meet its deadline.

use std::time::Instant;

use super::{
    super::{
        prompt_blocks::PromptBlocks,
        sequence::{Ending, Sequence},
        step_time::{StepCosts, StepShape},
        wait_forecast::{EarlierSequence, check_deadline},
        waiting::QueueKey,
    },
    state::Scheduler,
};
use crate::backend::GeneratedTokens;

impl Scheduler {
    /// Accepts a sequence that a caller has submitted, unless it cannot meet its deadline. Where no other sequence is
    /// open it is tried whatever the prediction, so that a wrong prediction is corrected.
    pub(crate) fn arrive(&mut self, mut sequence: Sequence, now: Instant) {
        self.find_shared_blocks(&mut sequence);
        if self.has_work()
            && let (Some(deadline), Some(costs)) = (sequence.deadline(), self.step_time.lower_bound(now))
            && deadline > now
        {
            let own = costs.base() + self.least_prefill_seconds(&costs, &sequence, usize::MAX);
            if let Err(error) = check_deadline(self.earlier_than(&sequence, costs), own, deadline, now) {
                return sequence.end(Ending::Failed(error), now);
            }
        }
        self.queue(sequence);
    }

    /// Accepts a sequence whatever its deadline.
    #[cfg(test)]
    pub(crate) fn enqueue(&mut self, mut sequence: Sequence) {
        self.find_shared_blocks(&mut sequence);
        self.queue(sequence);
    }

    fn queue(&mut self, mut sequence: Sequence) {
        let blocks = self.most_cached_blocks(&sequence);
        for other in self.running.iter_mut().chain(self.waiting.iter_mut()) {
            // Within its class it runs after the sequences that are there already, so it computes nothing for them.
            if other.priority != sequence.priority && sequence.is_found_by(other) {
                let shared = other.prompt_blocks.shared_with(&sequence.prompt_blocks, blocks);
                other.prompt_blocks.expect(shared);
            }
        }
        sequence.window = self.kv.limits().window.unwrap_or(usize::MAX);
        sequence.tenant = self.shares.open_sequence(sequence.priority, &sequence.tenant);
        self.waiting.insert(sequence);
    }

    /// Notes which leading blocks of the prompt are cached, or may be once the other open sequences have run.
    fn find_shared_blocks(&self, sequence: &mut Sequence) {
        let block_size = self.kv.block_size();
        let cached = self
            .kv
            .cached_prefix(&sequence.owner, sequence.prefix(sequence.prompt_len));
        let prompt = &sequence.tokens[..sequence.prompt_len];
        let mut blocks = PromptBlocks::new(prompt, block_size, cached);
        for other in self.running.iter().chain(self.waiting.iter()) {
            if other.is_found_by(sequence) {
                let longest = self.most_cached_blocks(other);
                blocks.expect(blocks.shared_with(&other.prompt_blocks, longest));
            }
        }
        sequence.prompt_blocks = blocks;
    }

    /// The sequences of the same tenant and class that a new one cannot pass, with the least time that each takes.
    fn earlier_than(&self, sequence: &Sequence, costs: StepCosts) -> impl Iterator<Item = EarlierSequence> {
        let key = QueueKey {
            class: sequence.priority,
            tenant: self.shares.account(&sequence.tenant),
        };
        let (class, owner) = (sequence.priority, sequence.owner.clone());
        let (longest, generated) = (self.kv.limits().longest_chunk(), self.kv.generated());
        let running = self.running.iter().filter(|other| other.remaining() > 1);
        // Only the next chunk counts: later chunks may be computed in the same steps as the sequences behind it.
        let next_chunk = move |other: &Sequence| {
            let tokens = other.remaining_in_step(generated).min(longest);
            costs.part(other.shape(tokens))
        };
        let running = running.map(move |other| (other, next_chunk(other)));
        let waiting = self.waiting.queue(&key);
        let waiting =
            waiting.filter(|other| other.started.is_none() && !other.prompt_blocks.may_be_deferred());
        let waiting = waiting.map(move |other| (other, self.least_prefill_seconds(&costs, other, longest)));
        running
            .chain(waiting)
            .filter(move |(other, _)| {
                other.priority == class && other.owner == owner && !other.is_cancelled()
            })
            .map(|(other, seconds)| EarlierSequence {
                seconds,
                deadline: other.deadline(),
            })
    }

    /// Least time, in seconds, for the first `most` tokens that must be computed of a prompt that has not begun.
    fn least_prefill_seconds(&self, costs: &StepCosts, sequence: &Sequence, most: usize) -> f64 {
        let (length, limits) = (sequence.prompt_len, self.kv.limits());
        // The last token is always computed.
        let shared = (sequence.prompt_blocks.expected() * limits.block_size).min(length - 1);
        let tokens = (length - shared).min(most);
        costs.part(StepShape::of(tokens, limits.seen(shared), sequence.is_read()))
    }

    /// Most blocks that a sequence puts into the cache.
    fn most_cached_blocks(&self, sequence: &Sequence) -> usize {
        let answer = match self.kv.generated() {
            GeneratedTokens::AsInPrompts => sequence.output.max_new_tokens,
            GeneratedTokens::Apart => 0,
        };
        sequence.prompt_len.saturating_add(answer) / self.kv.block_size()
    }
}
