//! What arrives: taken in, or refused because it cannot be in time.

use std::time::Instant;

use super::{
    super::{
        forecast::{Costs, Shape},
        outlook::{self, Ahead, Outline},
        sequence::{Ending, Sequence},
        waiting::Line,
    },
    Scheduler,
};

impl Scheduler {
    /// Takes in a sequence that callers have submitted, unless its deadline is hopeless. Where nothing else is open,
    /// it is tried whatever the forecast says: that is also how a wrong forecast is put right.
    pub fn arrive(&mut self, mut sequence: Sequence, now: Instant) {
        self.outline(&mut sequence);
        if self.has_work()
            && let (Some(deadline), Some(costs)) = (sequence.deadline(), self.forecast.least(now))
            && deadline > now
        {
            let own = costs.base() + self.least_prefill(&costs, &sequence, usize::MAX);
            if let Err(error) = outlook::check(self.ahead_of(&sequence, costs), own, deadline, now) {
                return sequence.end(Ending::Failed(error), now);
            }
        }
        self.queue(sequence);
    }

    /// Takes in a sequence whatever its deadline.
    pub fn enqueue(&mut self, mut sequence: Sequence) {
        self.outline(&mut sequence);
        self.queue(sequence);
    }

    fn queue(&mut self, mut sequence: Sequence) {
        let block_size = self.kv.block_size();
        let blocks = longest(&sequence, block_size);
        for other in self.running.iter_mut().chain(self.waiting.iter_mut()) {
            // Within its class it goes after those that are there.
            if other.priority != sequence.priority && sequence.is_found_by(other) {
                let shared = other.outline.shared_with(&sequence.outline, blocks);
                other.outline.expect(shared);
            }
        }
        sequence.window = self.kv.limits().window.unwrap_or(usize::MAX);
        sequence.tenant = self.shares.enter(sequence.priority, &sequence.tenant);
        self.waiting.insert(sequence);
    }

    /// Notes what of the prompt is cached, or may be once the other open sequences have run.
    fn outline(&self, sequence: &mut Sequence) {
        let block_size = self.kv.block_size();
        let cached = self
            .kv
            .cached(&sequence.owner, sequence.prefix(sequence.prompt_len));
        let mut outline = Outline::new(&sequence.tokens[..sequence.prompt_len], block_size, cached);
        for other in self.running.iter().chain(self.waiting.iter()) {
            if other.is_found_by(sequence) {
                outline.expect(outline.shared_with(&other.outline, longest(other, block_size)));
            }
        }
        sequence.outline = outline;
    }

    /// Those of the same tenant and class that are before a newcomer, as far as it cannot pass them.
    fn ahead_of(&self, sequence: &Sequence, costs: Costs) -> impl Iterator<Item = Ahead> {
        let line: Line = (sequence.priority, self.shares.account(&sequence.tenant));
        let (class, owner) = (sequence.priority, sequence.owner.clone());
        let longest = self.kv.limits().longest_chunk();
        let running = self.running.iter().filter(|other| other.remaining() > 1);
        // What it does not get in one step may be computed beside those that come after it.
        let next_part = move |other: &Sequence| costs.part(other.part(other.remaining().min(longest)));
        let running = running.map(move |other| (other, next_part(other)));
        let waiting = self.waiting.line(&line);
        let waiting = waiting.filter(|other| other.started.is_none() && !other.outline.may_be_passed());
        let waiting = waiting.map(move |other| (other, self.least_prefill(&costs, other, longest)));
        running
            .chain(waiting)
            .filter(move |(other, _)| {
                other.priority == class && other.owner == owner && !other.is_cancelled()
            })
            .map(|(other, seconds)| Ahead {
                seconds,
                deadline: other.deadline(),
            })
    }

    /// Least seconds for the first `most` tokens to compute of a prompt that has not begun.
    fn least_prefill(&self, costs: &Costs, sequence: &Sequence, most: usize) -> f64 {
        let (length, limits) = (sequence.prompt_len, self.kv.limits());
        // The last token is always computed.
        let spared = (sequence.outline.spared() * limits.block_size).min(length - 1);
        let tokens = (length - spared).min(most);
        costs.part(Shape::of(tokens, limits.seen(spared), sequence.is_read()))
    }
}

/// Blocks that a sequence fills at most.
fn longest(sequence: &Sequence, block_size: usize) -> usize {
    let answer = sequence.output.max_new_tokens;
    sequence.prompt_len.saturating_add(answer) / block_size
}
