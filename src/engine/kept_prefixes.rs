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

/// What one text keeps.
#[derive(Debug)]
struct KeptPrefix {
    keeper: Weak<()>,
    nodes: Vec<KeptNode>,
}

/// The kept prefixes, that of the oldest look first.
#[derive(Debug, Default)]
pub(crate) struct KeptPrefixes(VecDeque<KeptPrefix>);

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
        let place = self.0.iter().position(|kept| kept.keeper.ptr_eq(&keeper));
        let before = place.and_then(|place| self.0.remove(place));
        // Pinned blocks, which a prefix may begin with, need not be kept.
        let nodes = blocks.filter_map(|block| cache.keep(block));
        let nodes = nodes.take(most).collect();
        if let Some(before) = before {
            release(cache, before);
        }
        self.0.push_back(KeptPrefix { keeper, nodes });
        while cache.kept() > most {
            let Some(oldest) = self.0.pop_front() else { break };
            release(cache, oldest);
        }
    }

    /// Keeps nothing any more for texts that have ended.
    pub(crate) fn release_ended(&mut self, cache: &mut PrefixCache) {
        self.0.retain_mut(|kept| {
            let has_ended = kept.keeper.strong_count() == 0;
            if has_ended {
                kept.nodes.drain(..).for_each(|node| cache.unkeep(node));
            }
            !has_ended
        });
    }
}

fn release(cache: &mut PrefixCache, kept: KeptPrefix) {
    kept.nodes.into_iter().for_each(|node| cache.unkeep(node));
}
