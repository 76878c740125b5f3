//! A model's KV blocks: the pool and the prefix cache, kept in step.

use super::{
    block_pool::BlockPool,
    prefix::Prefix,
    prefix_cache::{Parent, PrefixCache},
};
use crate::model::{ModelLimits, NULL_BLOCK};

/// The pool and the prefix cache of one model.
///
/// Every block is in exactly one of four states: free, held by sequences (cached or not), cached and idle
/// (evictable, so as good as free), or pinned and idle.
///
/// Where every layer has a window, a sequence lets go of its first blocks while it holds later ones. As long as
/// nobody needs the memory they stay in the cache, and the whole prefix can be found. When one of them is taken,
/// what is cached below it cannot be found any more and leaves the cache.
#[derive(Debug)]
pub struct KvBlocks {
    pool: BlockPool,
    cache: PrefixCache,
    limits: ModelLimits,
}

impl KvBlocks {
    /// A model's pool; nothing is cached.
    pub fn new(limits: ModelLimits) -> Self {
        Self {
            pool: BlockPool::new(limits.num_blocks as u32),
            cache: PrefixCache::new(limits.num_blocks),
            limits,
        }
    }

    /// Forgets all blocks and what they hold.
    pub fn clear(&mut self) {
        *self = Self::new(self.limits.clone());
    }

    /// Holds the blocks of the longest cached prefix of `sequence`, at most `limit` of them, and appends them
    /// to `blocks`.
    pub fn match_prefix(&mut self, sequence: Prefix<&[u32]>, limit: usize, blocks: &mut Vec<u32>) {
        let mut parent = Parent::Root(sequence.adapter);
        for chunk in sequence.tokens.chunks_exact(self.limits.block_size).take(limit) {
            let Some(block) = self.cache.child(parent, chunk) else {
                return;
            };
            self.retain(block);
            blocks.push(block);
            parent = Parent::Block(block);
        }
    }

    /// Takes a block: a free one, else the least recently used leaf of the cache, else what a window has left
    /// behind.
    pub fn allocate(&mut self) -> Option<u32> {
        if self.pool.free() == 0 {
            self.cache.evict(|block| self.pool.recycle(block));
        }
        self.pool.take()
    }

    /// Caches a held block that has become full, below the block of the preceding tokens. Where the same
    /// prefix is cached already (two sequences computed it at the same time), the caller's block is given
    /// back and the cached one, which has the same contents, is held and returned instead. So whoever holds
    /// a cached block holds its ancestors too, but for those that it has let go of.
    pub fn publish(&mut self, parent: Parent, tokens: &[u32], block: u32) -> u32 {
        match self.cache.child(parent, tokens) {
            Some(cached) if cached != block => {
                self.retain(cached);
                self.release(block);
                cached
            }
            Some(_) => block,
            None => {
                self.cache.insert(parent, tokens, block);
                block
            }
        }
    }

    /// Lets go of blocks, the last first; cached ones stay until they are evicted. Leaves `blocks` empty.
    pub fn release_all(&mut self, blocks: &mut Vec<u32>) {
        for block in blocks.drain(..).rev().filter(|&block| block != NULL_BLOCK) {
            self.release(block);
        }
    }

    /// Lets go of some of a sequence's blocks, the last first, and leaves [`NULL_BLOCK`] in their places.
    pub fn let_go(&mut self, blocks: &mut [u32]) {
        for block in blocks.iter_mut().rev() {
            self.release(std::mem::replace(block, NULL_BLOCK));
        }
    }

    /// Like [`KvBlocks::release_all`], but forgets what nobody else holds: its contents are not trusted.
    pub fn discard_all(&mut self, blocks: &mut Vec<u32>) {
        let first = blocks.iter().copied().find(|&block| block != NULL_BLOCK);
        let let_go: Vec<u32> = first
            .map(|first| self.cache.ancestors(first))
            .into_iter()
            .flatten()
            .collect();
        for block in blocks.drain(..).rev().filter(|&block| block != NULL_BLOCK) {
            self.release(block);
            self.forget(block);
        }
        let_go.into_iter().for_each(|block| self.forget(block));
    }

    fn forget(&mut self, block: u32) {
        if self.cache.evict_leaf(block) {
            self.pool.recycle(block);
        }
    }

    /// Keeps cached blocks for good. They must be a path from the root.
    pub fn pin(&mut self, blocks: &[u32]) {
        for &block in blocks {
            self.cache.pin(block);
        }
    }

    /// Blocks that can be allocated now: free ones and idle cached ones that are not pinned.
    pub fn available(&self) -> usize {
        self.pool.free() + self.cache.evictable()
    }

    /// Blocks that are pinned.
    pub fn pinned(&self) -> usize {
        self.cache.pinned()
    }

    /// Blocks that were ever handed out: those whose memory the system has had to give.
    pub fn touched(&self) -> usize {
        self.pool.touched()
    }

    /// Blocks in the pool.
    #[cfg(test)]
    pub fn total(&self) -> usize {
        self.pool.total()
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.limits.block_size
    }

    /// The model's limits.
    pub fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    /// Blocks that hold this many tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.limits.block_size)
    }

    fn retain(&mut self, block: u32) {
        if !self.pool.is_held(block) {
            self.cache.hold(block);
        }
        self.pool.retain(block);
    }

    fn release(&mut self, block: u32) {
        if self.pool.release(block) {
            if self.cache.contains(block) {
                self.cache.idle(block);
            } else {
                self.pool.recycle(block);
            }
        }
    }

    /// Blocks that sequences hold.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.pool.held()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::model::AdapterIndex;

    const BLOCK: usize = 2;
    const BLOCKS: usize = 12;

    fn pool(num_blocks: usize) -> KvBlocks {
        KvBlocks::new(ModelLimits {
            vocab_size: 10,
            context_length: 100,
            block_size: BLOCK,
            num_blocks,
            window: None,
        })
    }

    fn plain(tokens: &[u32]) -> Prefix<&[u32]> {
        Prefix {
            adapter: None,
            tokens,
        }
    }

    /// What a scheduler does with the blocks of one sequence.
    struct Holder {
        adapter: Option<AdapterIndex>,
        tokens: Vec<u32>,
        blocks: Vec<u32>,
        /// Blocks found in the cache when it started.
        matched: usize,
        /// Blocks that it has let go of.
        gone: usize,
    }

    impl Holder {
        fn held(&self) -> &[u32] {
            &self.blocks[self.gone..]
        }

        fn let_go(&mut self, kv: &mut KvBlocks, count: usize) {
            kv.let_go(&mut self.blocks[self.gone..count]);
            self.gone = count;
        }
    }

    fn start(kv: &mut KvBlocks, tokens: Vec<u32>) -> Option<Holder> {
        start_with(kv, None, tokens)
    }

    fn start_with(kv: &mut KvBlocks, adapter: Option<AdapterIndex>, tokens: Vec<u32>) -> Option<Holder> {
        let mut blocks = Vec::new();
        let prefix = Prefix {
            adapter,
            tokens: tokens.as_slice(),
        };
        kv.match_prefix(prefix, tokens.len() / BLOCK, &mut blocks);
        let matched = blocks.len();
        while blocks.len() < tokens.len() / BLOCK {
            match kv.allocate() {
                Some(block) => blocks.push(block),
                None => {
                    kv.release_all(&mut blocks);
                    return None;
                }
            }
        }
        Some(Holder {
            adapter,
            tokens,
            blocks,
            matched,
            gone: 0,
        })
    }

    fn publish(kv: &mut KvBlocks, holder: &mut Holder) {
        for i in holder.matched..holder.blocks.len() {
            let root = Parent::Root(holder.adapter);
            let parent = i.checked_sub(1).map_or(root, |p| Parent::Block(holder.blocks[p]));
            let chunk = &holder.tokens[i * BLOCK..(i + 1) * BLOCK];
            holder.blocks[i] = kv.publish(parent, chunk, holder.blocks[i]);
        }
    }

    #[test]
    fn a_published_prefix_is_found_and_a_twin_gives_its_blocks_back() {
        let mut kv = pool(BLOCKS);
        let mut first = start(&mut kv, vec![1, 2, 3, 4]).unwrap();
        let mut twin = start(&mut kv, vec![1, 2, 3, 4]).unwrap();
        assert_eq!(kv.held(), 4);
        publish(&mut kv, &mut first);
        publish(&mut kv, &mut twin);
        assert_eq!(first.blocks, twin.blocks);
        assert_eq!(kv.held(), 2);
        kv.release_all(&mut first.blocks);
        kv.release_all(&mut twin.blocks);
        assert_eq!((kv.held(), kv.available()), (0, BLOCKS));
        assert_eq!(start(&mut kv, vec![1, 2, 3, 4, 5, 6]).unwrap().matched, 2);
        assert_eq!(
            start(&mut kv, vec![3, 4]).unwrap().matched,
            0,
            "the same block after another prefix"
        );
    }

    #[test]
    fn adapters_never_share_blocks() {
        let mut kv = pool(BLOCKS);
        let adapters = [None, Some(AdapterIndex(0)), Some(AdapterIndex(1))];
        let mut holders: Vec<Holder> = Vec::new();
        for adapter in adapters {
            let mut holder = start_with(&mut kv, adapter, vec![1, 2, 3, 4]).unwrap();
            assert_eq!(holder.matched, 0, "nothing of another adapter is found");
            publish(&mut kv, &mut holder);
            assert!(holders.iter().all(|other| other.blocks != holder.blocks));
            holders.push(holder);
        }
        assert_eq!(kv.held(), 6);
        for (adapter, holder) in adapters.into_iter().zip(&holders) {
            let again = start_with(&mut kv, adapter, vec![1, 2, 3, 4]).unwrap();
            assert_eq!((again.matched, &again.blocks), (2, &holder.blocks));
        }
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first_and_pinned_ones_stay() {
        let mut kv = pool(4);
        for tokens in [vec![1, 1, 2, 2], vec![3, 3], vec![4, 4]] {
            let mut holder = start(&mut kv, tokens).unwrap();
            publish(&mut kv, &mut holder);
            if holder.tokens[0] == 3 {
                kv.pin(&holder.blocks);
            }
            kv.release_all(&mut holder.blocks);
        }
        assert_eq!((kv.available(), kv.pinned()), (3, 1));
        let mut blocks = Vec::new();
        kv.match_prefix(plain(&[1, 1, 2, 2]), 2, &mut blocks);
        kv.release_all(&mut blocks);
        // [4, 4] is now the oldest leaf, then [1, 1, 2, 2], then its parent; the pinned block never goes.
        let taken: Vec<u32> = (0..3).map(|_| kv.allocate().unwrap()).collect();
        assert_eq!(taken, [3, 1, 0]);
        assert_eq!(kv.allocate(), None);
        kv.match_prefix(plain(&[3, 3]), 1, &mut blocks);
        assert_eq!(blocks, [2]);
    }

    #[test]
    fn what_a_window_left_behind_is_found_until_it_is_taken_and_then_nothing_below_it_is() {
        let mut kv = pool(6);
        let tokens = vec![1, 1, 2, 2, 3, 3, 4, 4];
        let mut long = start(&mut kv, tokens.clone()).unwrap();
        publish(&mut kv, &mut long);
        long.let_go(&mut kv, 2);
        assert_eq!(long.blocks, [NULL_BLOCK, NULL_BLOCK, 2, 3]);
        assert_eq!((kv.held(), kv.available()), (2, 4));
        let mut again = start(&mut kv, tokens.clone()).unwrap();
        assert_eq!((again.matched, &again.blocks[..]), (4, &[0, 1, 2, 3][..]));
        kv.release_all(&mut again.blocks);
        // Two are free, and the last of those left behind goes first: the beginning stays as long as it can.
        let taken: Vec<u32> = (0..3).map(|_| kv.allocate().unwrap()).collect();
        assert_eq!((taken, kv.available()), (vec![4, 5, 1], 1));
        assert_eq!(start(&mut kv, vec![1, 1]).unwrap().matched, 1);
        assert!(
            start(&mut kv, tokens).is_none(),
            "only the first block of it is found"
        );
        // The rest is nobody's cache any more, and free as soon as it is let go.
        kv.release_all(&mut long.blocks);
        assert_eq!((kv.held(), kv.available()), (4, 2));
    }

    #[test]
    fn discarded_blocks_take_those_with_them_that_were_let_go_before() {
        let mut kv = pool(4);
        let mut faulty = start(&mut kv, vec![1, 1, 2, 2, 3, 3]).unwrap();
        publish(&mut kv, &mut faulty);
        faulty.let_go(&mut kv, 2);
        kv.discard_all(&mut faulty.blocks);
        assert_eq!(start(&mut kv, vec![1, 1, 2, 2, 3, 3]).unwrap().matched, 0);
    }

    #[test]
    fn discarded_blocks_are_not_found_again_unless_someone_else_holds_them() {
        let mut kv = pool(4);
        let mut shared = start(&mut kv, vec![1, 1]).unwrap();
        publish(&mut kv, &mut shared);
        let mut faulty = start(&mut kv, vec![1, 1, 2, 2]).unwrap();
        publish(&mut kv, &mut faulty);
        kv.discard_all(&mut faulty.blocks);
        assert_eq!(start(&mut kv, vec![1, 1, 2, 2]).unwrap().matched, 1);
    }

    proptest! {
        /// Random sequences over a tiny alphabet against a map of everything that was ever published: what
        /// is found is the right block for that very prefix, nothing held or pinned is ever evicted, and the
        /// states add up.
        #[test]
        fn agrees_with_a_naive_model(
            operations in prop::collection::vec(
                (0u8..5, prop::collection::vec(0u32..2, 2..=8), any::<prop::sample::Index>()),
                1..80,
            ),
        ) {
            let mut kv = pool(BLOCKS);
            let mut contents: HashMap<u32, Vec<u32>> = HashMap::new(); // block -> its whole prefix
            let mut holders: Vec<Holder> = Vec::new();
            let mut pinned: HashSet<Vec<u32>> = HashSet::new();
            for (operation, tokens, pick) in operations {
                match operation {
                    0 | 1 => {
                        let Some(mut holder) = start(&mut kv, tokens) else { continue };
                        for (i, block) in holder.blocks.iter().enumerate() {
                            let prefix = holder.tokens[..(i + 1) * BLOCK].to_vec();
                            if i < holder.matched {
                                prop_assert_eq!(&contents[block], &prefix);
                            } else {
                                for other in &holders {
                                    prop_assert!(!other.held().contains(block), "a held block was given away");
                                }
                                if let Some(old) = contents.get(block) {
                                    prop_assert!(!pinned.contains(old), "a pinned block was given away");
                                }
                            }
                        }
                        publish(&mut kv, &mut holder);
                        for (i, &block) in holder.blocks.iter().enumerate() {
                            let prefix = holder.tokens[..(i + 1) * BLOCK].to_vec();
                            contents.retain(|_, old| *old != prefix);
                            contents.insert(block, prefix);
                        }
                        holders.push(holder);
                    }
                    2 if !holders.is_empty() => {
                        let mut holder = holders.swap_remove(pick.index(holders.len()));
                        kv.release_all(&mut holder.blocks);
                    }
                    4 if !holders.is_empty() => {
                        let holder = pick.index(holders.len());
                        let count = tokens[0] as usize + 1;
                        let holder = &mut holders[holder];
                        // The last one stays, as the parent of the next.
                        if holder.gone < count && count < holder.blocks.len() {
                            holder.let_go(&mut kv, count);
                        }
                    }
                    3 if !holders.is_empty() && pinned.len() < 3 => {
                        let holder = &holders[pick.index(holders.len())];
                        if holder.gone > 0 {
                            continue;
                        }
                        kv.pin(&holder.blocks[..1]);
                        pinned.insert(holder.tokens[..BLOCK].to_vec());
                    }
                    _ => {}
                }
                let held: HashSet<u32> = holders.iter().flat_map(|h| h.held().iter().copied()).collect();
                let pinned_idle = contents
                    .iter()
                    .filter(|(block, prefix)| pinned.contains(*prefix) && !held.contains(block))
                    .count();
                prop_assert_eq!(kv.held(), held.len());
                prop_assert_eq!(kv.pinned(), pinned.len());
                prop_assert!(pinned_idle <= pinned.len());
                prop_assert_eq!(kv.available() + held.len() + pinned_idle, kv.total());
            }
            // All that is available can really be had.
            let available = kv.available();
            for _ in 0..available {
                prop_assert!(kv.allocate().is_some());
            }
            prop_assert_eq!(kv.allocate(), None);
        }
    }
}
