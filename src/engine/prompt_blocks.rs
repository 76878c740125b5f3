//! The full blocks of a prompt as hashes, to find out how many leading blocks two prompts have in common.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A prompt's full blocks, and how many of them need not be computed.
#[derive(Debug, Clone, Default)]
pub(crate) struct PromptBlocks {
    /// Hashes of the prompt up to the end of each block. Where two prompts agree in one, they agree in all before it.
    hashes: Box<[u64]>,
    /// Most leading blocks that the sequence puts into the cache, those of its answer included.
    longest: usize,
    /// Leading blocks that were in the cache when the sequence arrived.
    cached: usize,
    /// Leading blocks that were in the cache, or that other sequences may compute before this one does.
    expected: usize,
    /// Its number in the order in which the open sequences have arrived.
    number: u64,
}

impl PromptBlocks {
    /// The blocks of a prompt. The sequence puts at most `longest` blocks into the cache, those of its answer included.
    pub(crate) fn new(prompt: &[u32], block_size: usize, longest: usize) -> Self {
        let mut hasher = DefaultHasher::new();
        let hashes = prompt.chunks_exact(block_size).map(|block| {
            block.hash(&mut hasher);
            hasher.finish()
        });
        Self {
            hashes: hashes.collect(),
            longest,
            ..Self::default()
        }
    }

    /// The same for a prompt whose first `cached` blocks are in the cache.
    pub(crate) fn with_cached(self, cached: usize) -> Self {
        Self {
            cached,
            expected: cached,
            ..self
        }
    }

    /// Hashes of the prompt up to the end of each block.
    pub(crate) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Most leading blocks that the sequence puts into the cache, those of its answer included.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// Its number in the order in which the open sequences have arrived.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Notes the sequence's number in the order of arrivals.
    pub(crate) fn set_number(&mut self, number: u64) {
        self.number = number;
    }

    /// Leading blocks that another sequence may put into the cache.
    pub(crate) fn shared_with(&self, other: &Self) -> usize {
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
            other.longest
        } else {
            common
        };
        reach.min(self.hashes.len())
    }

    /// Notes that other sequences may compute this many of the leading blocks.
    pub(crate) fn expect(&mut self, blocks: usize) {
        self.expected = self.expected.max(blocks);
    }

    /// Leading blocks that were in the cache when the sequence arrived.
    pub(crate) fn cached(&self) -> usize {
        self.cached
    }

    /// Whether other sequences may compute more of the leading blocks than were cached, as far as has been noted. Once they may,
    /// they always may.
    pub(crate) fn expects_more(&self) -> bool {
        self.expected > self.cached
    }

    /// Leading blocks that may not have to be computed for this sequence, as far as has been noted.
    pub(crate) fn expected(&self) -> usize {
        self.expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(prompt: &[u32], longest: usize) -> PromptBlocks {
        PromptBlocks::new(prompt, 2, longest)
    }

    #[test]
    fn hashes_tell_how_many_blocks_two_prompts_have_in_common() {
        let long = blocks(&[1, 1, 2, 2, 3, 3, 4], 3);
        for (other, longest, shared) in [
            (&[1, 1, 2, 2, 9, 9][..], 3, 2),
            (&[9, 9, 2, 2, 3, 3], 3, 0),
            (&[1, 1, 2, 2, 3, 3, 4], 3, 3),
            // All of the other prompt: its answer may continue as this prompt does.
            (&[1, 1], 1, 1),
            (&[1, 1], 2, 2),
            (&[1], 9, 3),
        ] {
            assert_eq!(
                long.shared_with(&blocks(other, longest)),
                shared,
                "{other:?} {longest}"
            );
        }
    }

    #[test]
    fn what_is_expected_only_grows_and_begins_with_what_is_cached() {
        let mut blocks = blocks(&[1, 1, 2, 2, 3, 3], 3).with_cached(1);
        assert_eq!((blocks.cached(), blocks.expected()), (1, 1));
        blocks.expect(3);
        blocks.expect(2);
        assert_eq!((blocks.cached(), blocks.expected()), (1, 3));
    }
}
