//! The sizes of a model that its scheduler needs, and what follows from them.

use crate::model::spec::ModelConfig;

/// Stands in a block table for a block that no layer reads any more.
pub const NULL_BLOCK: u32 = u32::MAX;

/// How the keys, values and logits of generated tokens compare with those of the same tokens in a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GeneratedTokens {
    /// They are the same: it does not matter what a token is.
    #[default]
    AsInPrompts,
    /// They are others, because products are computed in another precision. So a part of a sequence has tokens of one kind,
    /// and what was computed of generated tokens is of no use to a prompt that continues with the same tokens.
    Apart,
}

/// The sizes of a model that its scheduler needs.
#[derive(Debug, Clone)]
pub struct ModelLimits {
    /// Number of tokens in the vocabulary, and of logits in a row.
    pub vocab_size: usize,
    /// Longest sequence in tokens, prompt and answer together.
    pub context_length: usize,
    /// Tokens per KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub num_blocks: usize,
    /// The widest sliding window of any layer: how many tokens a token attends to, itself included. `None` where a layer
    /// attends to all that came before.
    pub window: Option<usize>,
}

impl ModelLimits {
    /// The limits of a decoder with a pool of `num_blocks` blocks of `block_size` tokens each.
    pub(crate) fn of_decoder(config: &ModelConfig, block_size: usize, num_blocks: usize) -> Self {
        let mut limits = Self {
            vocab_size: config.sizes.vocab,
            context_length: config.context_length,
            block_size,
            num_blocks,
            window: config.window(),
        };
        if limits.most_blocks() > num_blocks {
            limits.context_length = limits.context_length.min(num_blocks * block_size);
        }
        limits
    }

    /// How many of a sequence's first blocks no token attends to any more once `computed` of its tokens are computed.
    pub fn unseen_blocks(&self, computed: usize) -> usize {
        let first_seen = self
            .window
            .map_or(0, |window| (computed + 1).saturating_sub(window));
        first_seen / self.block_size
    }

    /// How many of `context` earlier tokens a token attends to.
    pub fn seen(&self, context: usize) -> usize {
        self.window.map_or(context, |window| context.min(window))
    }

    /// Most tokens of one sequence that a step computes. With a sliding window the chunks are short, so that the sequence
    /// holds few blocks beside its window.
    pub fn longest_chunk(&self) -> usize {
        self.window
            .map_or(usize::MAX, |window| (window / 4).max(self.block_size))
    }

    /// Most blocks that a sequence holds, however long it is: those that a window and a chunk lie in, and the last full one.
    pub fn most_blocks(&self) -> usize {
        let Some(window) = self.window else {
            return usize::MAX;
        };
        let tokens = self.longest_chunk() + window.max(self.block_size + 1) - 2;
        tokens.div_ceil(self.block_size) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(block_size: usize, window: Option<usize>) -> ModelLimits {
        ModelLimits {
            vocab_size: 2,
            context_length: 1000,
            block_size,
            num_blocks: 100,
            window,
        }
    }

    #[test]
    fn without_a_window_everything_is_seen_and_nothing_bounds_a_sequence() {
        let limits = limits(4, None);
        assert_eq!((limits.unseen_blocks(900), limits.seen(900)), (0, 900));
        assert_eq!(
            (limits.longest_chunk(), limits.most_blocks()),
            (usize::MAX, usize::MAX)
        );
    }

    #[test]
    fn mistral_holds_its_window_and_a_quarter() {
        let limits = limits(16, Some(4096));
        assert_eq!((limits.unseen_blocks(4095), limits.unseen_blocks(4111)), (0, 1));
        assert_eq!((limits.longest_chunk(), limits.most_blocks()), (1024, 321));
    }

    /// Whatever the chunks, what a sequence holds covers all that is seen, and is no more than was promised.
    #[test]
    fn the_most_blocks_are_enough_for_every_window_block_and_chunk() {
        for (block, window) in (1..7).flat_map(|block| (1..20).map(move |window| (block, window))) {
            let limits = limits(block, Some(window));
            let mut reached = 0;
            for (first, chunk) in
                (0..30).flat_map(|first| (1..=limits.longest_chunk()).map(move |c| (first, c)))
            {
                let published = first / block;
                let unseen = limits.unseen_blocks(first).min(published.saturating_sub(1));
                assert!(
                    unseen * block <= (first + 1).saturating_sub(window),
                    "a seen token is gone"
                );
                reached = reached.max((first + chunk).div_ceil(block) - unseen);
            }
            assert!(reached <= limits.most_blocks(), "{block} {window}: {reached}");
            assert!(reached + 1 >= limits.most_blocks(), "{block} {window}: {reached}");
        }
    }
}
