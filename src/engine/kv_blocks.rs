//! A model's KV blocks: the pool and the prefix cache, kept in step.

use super::{
    block_pool::BlockPool,
    prefix::{Owner, Prefix},
    prefix_cache::{Parent, PrefixCache},
};
use crate::backend::{ModelLimits, NULL_BLOCK};

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

    /// Holds the blocks of the longest cached prefix of `sequence` that `reader` finds, at most `limit` of them,
    /// and appends them to `blocks`.
    pub fn match_prefix(
        &mut self,
        reader: &Owner,
        sequence: Prefix<&[u32]>,
        limit: usize,
        blocks: &mut Vec<u32>,
    ) {
        let mut parent = Parent::Root(sequence.adapter);
        for chunk in sequence.tokens.chunks_exact(self.limits.block_size).take(limit) {
            let Some(block) = self.cache.child(parent, reader, chunk) else {
                return;
            };
            self.retain(block);
            blocks.push(block);
            parent = Parent::Block(block);
        }
    }

    /// Blocks of the longest cached prefix of `sequence` that `reader` finds.
    pub fn cached(&self, reader: &Owner, sequence: Prefix<&[u32]>) -> usize {
        let (mut parent, mut blocks) = (Parent::Root(sequence.adapter), 0);
        for chunk in sequence.tokens.chunks_exact(self.limits.block_size) {
            let Some(block) = self.cache.child(parent, reader, chunk) else {
                break;
            };
            (parent, blocks) = (Parent::Block(block), blocks + 1);
        }
        blocks
    }

    /// Takes a block: a free one, else the least recently used leaf of the cache, else what a window has left
    /// behind.
    pub fn allocate(&mut self) -> Option<u32> {
        if self.pool.free() == 0 {
            self.cache.evict(|block| self.pool.recycle(block));
        }
        self.pool.take()
    }

    /// Caches a held block that has become full, below the block of the preceding tokens. Where `owner` finds the
    /// same prefix already (two sequences computed it at the same time), the caller's block is given
    /// back and the cached one, which has the same contents, is held and returned instead. So whoever holds
    /// a cached block holds its ancestors too, but for those that it has let go of.
    pub fn publish(&mut self, parent: Parent, owner: &Owner, tokens: &[u32], block: u32) -> u32 {
        match self.cache.child(parent, owner, tokens) {
            Some(cached) if cached != block => {
                self.retain(cached);
                self.release(block);
                cached
            }
            Some(_) => block,
            None => {
                self.cache.insert(parent, owner, tokens, block);
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

    /// How many of these blocks are no other sequence's and not pinned: what letting go of them would give back.
    pub fn own(&self, blocks: &[u32]) -> usize {
        let own = |block: u32| self.pool.is_held_once(block) && !self.cache.is_pinned(block);
        blocks
            .iter()
            .filter(|&&block| block != NULL_BLOCK && own(block))
            .count()
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
