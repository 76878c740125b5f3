//! Allocates KV blocks to running sequences, and preempts sequences when there are too few.

use std::time::Instant;

use super::{
    super::{
        error::SequenceError,
        kv_blocks::KvBlocks,
        sequence::{Ending, Sequence},
    },
    holdings::Resource,
    state::{ClassGroup, Scheduler},
};
use crate::{backend::GeneratedTokens, model::spec::TokenKind};

impl Scheduler {
    /// Whether the sequence's tokens so far fit beside what the running sequences still need.
    pub(super) fn fits(&self, sequence: &Sequence) -> bool {
        let promised: usize = self
            .running
            .iter()
            // One block more for each, so that the next decodes do not preempt at once.
            .map(|other| 1 + self.still_needs(other))
            .sum();
        self.still_needs(sequence) + promised <= self.kv.available()
    }

    /// Blocks that a sequence's tokens so far need beyond those that it holds.
    fn still_needs(&self, sequence: &Sequence) -> usize {
        let needed = self.kv.blocks_for(sequence.tokens.len());
        let more = needed.saturating_sub(sequence.blocks.len());
        let most = self.kv.limits().most_blocks();
        if sequence.keeps_all_blocks() {
            more
        } else {
            more.min(most.saturating_sub(sequence.held_blocks()))
        }
    }

    /// Gives the running sequence at `index` the blocks for `tokens` more tokens and puts it into the step. Where blocks
    /// are short, other sequences are preempted. Returns `false` when it had to be preempted itself.
    pub(super) fn schedule(&mut self, index: usize, tokens: usize, now: Instant) -> bool {
        let target = self.kv.blocks_for(self.running[index].computed + tokens);
        while self.running[index].blocks.len() < target {
            if let Some(block) = self.kv.allocate() {
                self.running[index].blocks.push(block);
                continue;
            }
            let victim_index = self.block_victim(index);
            let mut victim = self.running.remove(victim_index);
            if self.running.is_empty() {
                // The sequence runs alone and there still are too few blocks: it has computed for itself what another
                // sequence has pinned since. It finds that in the cache when it comes back, so this cannot happen a
                // second time.
                victim.counts.lone_preemptions += 1;
                if victim.counts.lone_preemptions > 1 {
                    self.tokens_left += victim.scheduled;
                    self.retire(victim, Ending::Failed(out_of_blocks()), now);
                    return false;
                }
            }
            self.preempt(victim, now);
            if victim_index == index || self.running.len() <= index {
                return false;
            }
        }
        self.charge(index, tokens);
        self.running[index].scheduled = tokens;
        self.tokens_left -= tokens;
        true
    }

    /// The running sequence that is preempted when the one at `index` needs a block and none is free: the last in rank
    /// of those whose accounts hold more than their share, otherwise the last of all. It is never the first in rank,
    /// unless that runs alone, and never one before `index`.
    fn block_victim(&self, index: usize) -> usize {
        let last = self.running.len() - 1;
        let first = self.running.first().map(|sequence| &sequence.tenant);
        if self
            .running
            .iter()
            .all(|sequence| Some(&sequence.tenant) == first)
        {
            return last;
        }
        let holdings = self.holdings(ClassGroup::All, Resource::Blocks);
        (index.max(1)..=last)
            .rev()
            .find(|&other| holdings.is_over_share(&self.running[other].tenant))
            .unwrap_or(last)
    }

    /// Takes a sequence's blocks and returns it to its queue. It keeps its rank and computes its tokens again later.
    pub(super) fn preempt(&mut self, mut victim: Sequence, now: Instant) {
        self.record.preemptions += 1;
        victim.span.in_scope(|| {
            tracing::debug!(
                tokens = victim.computed,
                "a sequence loses its KV blocks to others and is computed again later"
            );
        });
        #[cfg(test)]
        {
            self.preemptions += 1;
        }
        self.out_of_blocks = true;
        self.tokens_left += victim.scheduled;
        victim.scheduled = 0;
        (victim.waiting_since, victim.decoding_since) = (now, None);
        release_computed(&mut self.kv, &mut victim);
        self.waiting.insert(victim);
    }
}

/// Releases all blocks of a sequence, which begins anew.
pub(super) fn release_computed(kv: &mut KvBlocks, sequence: &mut Sequence) {
    (
        sequence.computed,
        sequence.cached_blocks,
        sequence.released_blocks,
    ) = (0, 0, 0);
    kv.release_all(&mut sequence.blocks);
}

/// Releases the blocks that are outside the attention windows of all the sequence's tokens to come. As long as more of its
/// blocks will be cached, the last cached one is kept, because the next one is cached below it. So are all blocks of a prompt
/// that is to be pinned.
pub(crate) fn release_out_of_window(kv: &mut KvBlocks, sequence: &mut Sequence) {
    if sequence.keeps_all_blocks() {
        return;
    }
    let unseen = kv.limits().unseen_blocks(sequence.computed);
    let caches_more = match kv.generated() {
        GeneratedTokens::AsInPrompts => true,
        GeneratedTokens::Apart => sequence.next_kind() == TokenKind::Prompt,
    };
    let most = if caches_more {
        sequence.cached_blocks.saturating_sub(1)
    } else {
        unseen
    };
    let unseen = unseen.min(most);
    if unseen > sequence.released_blocks {
        kv.release_leading(&mut sequence.blocks[sequence.released_blocks..unseen]);
        sequence.released_blocks = unseen;
    }
}

/// The error of a sequence that the pool cannot hold.
pub(super) fn out_of_blocks() -> SequenceError {
    SequenceError::ModelFailed("the KV pool cannot hold this sequence beside the pinned prefixes".to_owned())
}
