//! A model's KV blocks: the block pool and the prefix cache, kept consistent with each other.

use super::{
    block_pool::BlockPool,
    kept_prefixes::{KEPT_SHARE, KeptPrefixes},
    prefix::{CacheOwner, Prefix},
    prefix_cache::{Parent, PrefixCache},
    request::PrefixKeeper,
};
use crate::backend::{GeneratedTokens, ModelLimits, NULL_BLOCK};

/// How many blocks of a pool are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KvCounts {
    /// Blocks that can be allocated now: free ones, and cached ones that are neither held nor pinned.
    pub available: usize,
    /// Blocks that are pinned.
    pub pinned: usize,
    /// Blocks that have been handed out at least once.
    pub touched: usize,
}

/// The pool and the prefix cache of one model.
///
/// Every block is in exactly one of four states: free, held by sequences (cached or not), cached and idle
/// (evictable, so as good as free), or pinned and idle. Of the evictable ones, those that are kept for growing texts go last.
///
/// Where every layer has a sliding window, a sequence releases its first blocks while it holds later ones. They stay in
/// the cache, and the whole prefix can be found, until their memory is needed. When one of them is evicted, the blocks
/// cached below it cannot be found any more and leave the cache too.
///
/// Where a model computes [generated tokens apart](GeneratedTokens::Apart), only blocks whose tokens are all of a prompt are in
/// the cache, because a prompt with the same tokens would have other keys and values.
#[derive(Debug)]
pub(crate) struct KvBlocks {
    pool: BlockPool,
    cache: PrefixCache,
    kept: KeptPrefixes,
    limits: ModelLimits,
    generated: GeneratedTokens,
}

impl KvBlocks {
    /// The blocks of a model with these limits, all free.
    pub(crate) fn new(limits: ModelLimits) -> Self {
        Self {
            pool: BlockPool::new(limits.num_blocks as u32),
            cache: PrefixCache::new(limits.num_blocks),
            kept: KeptPrefixes::default(),
            limits,
            generated: GeneratedTokens::AsInPrompts,
        }
    }

    /// The same for a model that computes generated tokens in this way.
    pub(crate) fn with_generated(self, generated: GeneratedTokens) -> Self {
        Self { generated, ..self }
    }

    /// Makes all blocks free and forgets their contents.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.limits.clone()).with_generated(self.generated);
    }

    /// Finds the longest cached prefix of `sequence` that `reader` may find, holds its blocks, at most `limit` of them, and
    /// appends them to `blocks`.
    pub(crate) fn match_prefix(
        &mut self,
        reader: &CacheOwner,
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

    /// Number of blocks of the longest cached prefix of `sequence` that `reader` may find.
    pub(crate) fn cached_prefix(&self, reader: &CacheOwner, sequence: Prefix<&[u32]>) -> usize {
        let (mut parent, mut blocks) = (Parent::Root(sequence.adapter), 0);
        for chunk in sequence.tokens.chunks_exact(self.limits.block_size) {
            let Some(block) = self.cache.child(parent, reader, chunk) else {
                break;
            };
            (parent, blocks) = (Parent::Block(block), blocks + 1);
        }
        blocks
    }

    /// Allocates a block: a free one, else the least recently used leaf of the cache, else a block that a sequence
    /// released because it left its attention window.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        if self.pool.free() == 0 {
            self.cache.evict(|block| self.pool.recycle(block));
        }
        self.pool.take()
    }

    /// Puts a held block that has become full into the prefix cache, below the block of the preceding tokens. Where
    /// `owner` finds the same prefix already, because two sequences computed it at the same time, the caller's block is
    /// released, and the cached block with the same contents is held and returned instead. So a sequence that holds a
    /// cached block also holds the blocks before it, except those that it has released.
    pub(crate) fn cache_block(
        &mut self,
        parent: Parent,
        owner: &CacheOwner,
        tokens: &[u32],
        block: u32,
    ) -> u32 {
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

    /// Releases blocks, the last first, and leaves `blocks` empty. Cached blocks stay in the cache until they are evicted.
    pub(crate) fn release_all(&mut self, blocks: &mut Vec<u32>) {
        for block in blocks.drain(..).rev().filter(|&block| block != NULL_BLOCK) {
            self.release(block);
        }
    }

    /// Releases leading blocks of a sequence, the last first, and puts [`NULL_BLOCK`] into their positions of its block
    /// table.
    pub(crate) fn release_leading(&mut self, blocks: &mut [u32]) {
        for block in blocks.iter_mut().rev() {
            self.release(std::mem::replace(block, NULL_BLOCK));
        }
    }

    /// Like [`KvBlocks::release_all`], but evicts the blocks that no other sequence holds, because their contents are not
    /// trusted. `cached` is what `owner`'s sequence has in the cache. It is looked up, because the sequence may have released
    /// any of its blocks before.
    pub(crate) fn discard_all(&mut self, owner: &CacheOwner, cached: Prefix<&[u32]>, blocks: &mut Vec<u32>) {
        let mut path = Vec::new();
        let mut parent = Parent::Root(cached.adapter);
        for chunk in cached.tokens.chunks_exact(self.limits.block_size) {
            let Some(block) = self.cache.child(parent, owner, chunk) else {
                break;
            };
            path.push(block);
            parent = Parent::Block(block);
        }
        self.release_all(blocks);
        for block in path.into_iter().rev() {
            self.evict_idle(block);
        }
    }

    /// Makes a cached block free if no sequence holds it and none is cached below it.
    fn evict_idle(&mut self, block: u32) {
        if self.cache.evict_leaf(block) {
            self.pool.recycle(block);
        }
    }

    /// How many of these blocks no other sequence holds and no pin keeps, which is how many would become available if
    /// they were released.
    pub(crate) fn held_alone(&self, blocks: &[u32]) -> usize {
        let held_alone = |block: u32| self.pool.is_held_once(block) && !self.cache.is_pinned(block);
        blocks
            .iter()
            .filter(|&&block| block != NULL_BLOCK && held_alone(block))
            .count()
    }

    /// Keeps cached blocks until the pool is cleared. They must be the leading blocks of a prefix.
    pub(crate) fn pin(&mut self, blocks: &[u32]) {
        for &block in blocks {
            self.cache.pin(block);
        }
    }

    /// Keeps the cached prefix that ends with this block for a growing text, in place of the one that it has kept before: its
    /// blocks are evicted after all that are not kept.
    pub(crate) fn keep(&mut self, keeper: &PrefixKeeper, last: u32) {
        let mut path: Vec<u32> = self.cache.ancestors(last).collect();
        path.reverse();
        path.push(last);
        let most = self.limits.num_blocks / KEPT_SHARE;
        self.kept.keep(&mut self.cache, keeper, path.into_iter(), most);
    }

    /// Keeps nothing any more for growing texts that have ended, as far as they are asked now.
    pub(crate) fn release_ended(&mut self) {
        self.kept.release_ended(&mut self.cache);
    }

    /// The pool's counts.
    pub(crate) fn counts(&self) -> KvCounts {
        KvCounts {
            available: self.available(),
            pinned: self.pinned(),
            touched: self.pool.touched(),
        }
    }

    /// Blocks that can be allocated now: free ones and idle cached ones that are not pinned.
    pub(crate) fn available(&self) -> usize {
        self.pool.free() + self.cache.evictable()
    }

    /// Blocks that are pinned.
    pub(crate) fn pinned(&self) -> usize {
        self.cache.pinned()
    }

    /// Blocks that are kept for growing texts.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.cache.kept()
    }

    /// Whether a block is kept for a growing text.
    #[cfg(test)]
    pub(crate) fn is_kept(&self, block: u32) -> bool {
        self.cache.is_kept(block)
    }

    /// Blocks in the pool.
    #[cfg(test)]
    pub(crate) fn total(&self) -> usize {
        self.pool.total()
    }

    /// Tokens per block.
    pub(crate) fn block_size(&self) -> usize {
        self.limits.block_size
    }

    /// Sizes of the model and of its pool.
    pub(crate) fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    /// Whether the model computes generated tokens otherwise than the same tokens in a prompt.
    pub(crate) fn generated(&self) -> GeneratedTokens {
        self.generated
    }

    /// Number of blocks for this many tokens.
    pub(crate) fn blocks_for(&self, tokens: usize) -> usize {
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
    pub(crate) fn held(&self) -> usize {
        self.pool.held()
    }
}
