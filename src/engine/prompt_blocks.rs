//! The full blocks of a prompt as hashes, to find out how many leading blocks two prompts have in common.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A prompt's full blocks, and how many of them need not be computed.
#[derive(Debug, Clone, Default)]
pub(crate) struct PromptBlocks {
    /// Hashes of the prompt up to the end of each block. Where two prompts agree in one, they agree in all before it.
    hashes: Box<[u64]>,
    /// Leading blocks that were in the cache when the sequence arrived.
    cached: usize,
    /// Leading blocks that were in the cache, or that other sequences may compute before this one does.
    expected: usize,
}

impl PromptBlocks {
    /// The blocks of a prompt whose first `cached` blocks are in the cache.
    pub(crate) fn new(prompt: &[u32], block_size: usize, cached: usize) -> Self {
        let mut hasher = DefaultHasher::new();
        let hashes = prompt.chunks_exact(block_size).map(|block| {
            block.hash(&mut hasher);
            hasher.finish()
        });
        Self {
            hashes: hashes.collect(),
            cached,
            expected: cached,
        }
    }

    /// Leading blocks that another sequence may put into the cache, if its answer makes it up to `blocks` blocks long.
    pub(crate) fn shared_with(&self, other: &Self, blocks: usize) -> usize {
        let both = self.hashes.len().min(other.hashes.len());
        let (mut common, mut differs) = (0, both + 1);
        while common + 1 < differs {
            let middle = common.midpoint(differs);
            if self.hashes[middle - 1] == other.hashes[middle - 1] {
                common = middle;
            } else {
                differs = middle;
            }
        }
        // Where this prompt contains all of the other one, the other sequence's answer may continue it in the same way.
        let reach = if common == other.hashes.len() {
            blocks
        } else {
            common
        };
        reach.min(self.hashes.len())
    }

    /// Notes that other sequences may compute this many of the leading blocks.
    pub(crate) fn expect(&mut self, blocks: usize) {
        self.expected = self.expected.max(blocks);
    }

    /// Leading blocks that may not have to be computed for this sequence.
    pub(crate) fn expected(&self) -> usize {
        self.expected
    }

    /// Whether the sequence may be deferred until another one has computed a common prefix, while later sequences pass
    /// it.
    pub(crate) fn may_be_deferred(&self) -> bool {
        self.expected > self.cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(prompt: &[u32]) -> PromptBlocks {
        PromptBlocks::new(prompt, 2, 0)
    }

    #[test]
    fn hashes_tell_how_many_blocks_two_prompts_have_in_common() {
        let long = blocks(&[1, 1, 2, 2, 3, 3, 4]);
        for (other, length, shared) in [
            (&[1, 1, 2, 2, 9, 9][..], 3, 2),
            (&[9, 9, 2, 2, 3, 3], 3, 0),
            (&[1, 1, 2, 2, 3, 3, 4], 3, 3),
            // All of the other prompt: its answer may continue as this prompt does.
            (&[1, 1], 1, 1),
            (&[1, 1], 2, 2),
            (&[1], 9, 3),
        ] {
            assert_eq!(
                long.shared_with(&blocks(other), length),
                shared,
                "{other:?} {length}"
            );
        }
    }

    #[test]
    fn what_others_may_compute_is_not_counted_and_may_defer_a_sequence() {
        let mut blocks = PromptBlocks::new(&[1, 1, 2, 2, 3, 3], 2, 1);
        blocks.expect(1);
        assert_eq!((blocks.expected(), blocks.may_be_deferred()), (1, false));
        blocks.expect(3);
        blocks.expect(2);
        assert_eq!((blocks.expected(), blocks.may_be_deferred()), (3, true));
    }
}
