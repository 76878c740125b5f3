//! The prefixes that are kept for growing texts between two looks.
//!
//! A kept block is cached and not held: it can be allocated like every idle block, but only after all idle blocks that are not
//! kept. So no sequence waits for a kept block, whatever is kept; what a text loses is only time. All texts together keep at most
//! a half of the pool's blocks ([`KEPT_SHARE`]). Beyond that, the texts that were looked at longest ago keep theirs no more.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use super::{
    prefix_cache::{KeptNode, PrefixCache},
    request::PrefixKeeper,
};

/// One in so many of the pool's blocks may be kept, so that the cache serves others too.
pub(crate) const KEPT_SHARE: usize = 2;

/// How many texts are asked before each step whether they have ended, so that a step costs no more the more texts are open. Up
/// to this many are all asked; of more, each is asked again after a few steps, and what it keeps until then is only evicted later.
const ASKED_PER_STEP: usize = 64;

/// What one text keeps.
#[derive(Debug)]
struct KeptPrefix {
    keeper: Weak<()>,
    nodes: Vec<KeptNode>,
}

/// The kept prefixes.
#[derive(Debug, Default)]
pub(crate) struct KeptPrefixes {
    /// That of the oldest look first.
    prefixes: VecDeque<KeptPrefix>,
    /// The one whose text is asked next whether it has ended.
    next: usize,
}

impl KeptPrefixes {
    /// Keeps these blocks, the leading ones of a prefix in their order, for a text, in place of those that it has kept before. Of
    /// all texts at most `most` blocks are kept.
    pub(crate) fn keep(
        &mut self,
        cache: &mut PrefixCache,
        keeper: &PrefixKeeper,
        blocks: impl Iterator<Item = u32>,
        most: usize,
    ) {
        let keeper = Arc::downgrade(&keeper.0);
        let place = self.prefixes.iter().position(|kept| kept.keeper.ptr_eq(&keeper));
        let before = place.and_then(|place| self.remove(place));
        // Pinned blocks, which a prefix may begin with, need not be kept.
        let nodes = blocks.filter_map(|block| cache.keep(block));
        let nodes = nodes.take(most).collect();
        if let Some(before) = before {
            release(cache, before);
        }
        self.prefixes.push_back(KeptPrefix { keeper, nodes });
        while cache.kept() > most {
            let Some(oldest) = self.remove(0) else { break };
            release(cache, oldest);
        }
    }

    /// Takes one out. The one that is asked next stays so, unless it is this one.
    fn remove(&mut self, place: usize) -> Option<KeptPrefix> {
        let removed = self.prefixes.remove(place)?;
        if place < self.next {
            self.next -= 1;
        }
        Some(removed)
    }

    /// Keeps nothing any more for texts that have ended, as far as they are asked now.
    pub(crate) fn release_ended(&mut self, cache: &mut PrefixCache) {
        for _ in 0..self.prefixes.len().min(ASKED_PER_STEP) {
            if self.next >= self.prefixes.len() {
                self.next = 0;
            }
            match self.prefixes.get(self.next) {
                Some(kept) if kept.keeper.strong_count() > 0 => self.next += 1,
                _ => {
                    let ended = self.remove(self.next);
                    ended.into_iter().for_each(|ended| release(cache, ended));
                }
            }
        }
    }
}

fn release(cache: &mut PrefixCache, kept: KeptPrefix) {
    kept.nodes.into_iter().for_each(|node| cache.unkeep(node));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{prefix::CacheOwner, prefix_cache::Parent, tenant::Tenant};

    #[test]
    fn each_of_many_texts_that_have_ended_keeps_nothing_after_a_few_steps() {
        let texts = 3 * ASKED_PER_STEP;
        let (mut cache, mut kept) = (PrefixCache::new(texts), KeptPrefixes::default());
        let owner = CacheOwner::Tenant(Tenant::default());
        let mut keepers: Vec<PrefixKeeper> = Vec::new();
        for block in 0..texts as u32 {
            let keeper = PrefixKeeper::default();
            cache.insert(Parent::Root(None), &owner, &[block], block);
            kept.keep(&mut cache, &keeper, std::iter::once(block), texts);
            keepers.push(keeper);
        }
        kept.release_ended(&mut cache);
        assert_eq!(cache.kept(), texts, "no text has ended");
        keepers.truncate(ASKED_PER_STEP);
        for _ in 0..3 {
            kept.release_ended(&mut cache);
        }
        assert_eq!(cache.kept(), ASKED_PER_STEP);
    }
}
