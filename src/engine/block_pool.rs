//! Fixed KV blocks with reference counts.

/// Hands out block ids. A block is free, held by one or more sequences, or not held but kept by the prefix cache. The
/// pool manages the first two states and leaves the third to its caller.
#[derive(Debug)]
pub(crate) struct BlockPool {
    references: Vec<u32>,
    free: Vec<u32>,
    touched: usize,
}

impl BlockPool {
    /// A pool of `blocks` free blocks.
    pub(crate) fn new(blocks: u32) -> Self {
        Self {
            references: vec![0; blocks as usize],
            // Blocks are taken from the end, so low ids come first.
            free: (0..blocks).rev().collect(),
            touched: 0,
        }
    }

    /// Takes a free block, which is then held once.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.references[block as usize] = 1;
        self.touched = self.touched.max(block as usize + 1);
        Some(block)
    }

    /// Holds a block once more.
    pub(crate) fn retain(&mut self, block: u32) {
        self.references[block as usize] += 1;
    }

    /// Releases a block once. Returns `true` when no sequence holds it any more; the caller then either keeps it in the
    /// prefix cache or makes it free with [`BlockPool::recycle`].
    pub(crate) fn release(&mut self, block: u32) -> bool {
        let references = &mut self.references[block as usize];
        debug_assert!(
            *references > 0,
            "block {block} is released more often than it was taken"
        );
        *references = references.saturating_sub(1);
        *references == 0
    }

    /// Makes a block free that no sequence holds.
    pub(crate) fn recycle(&mut self, block: u32) {
        debug_assert_eq!(self.references[block as usize], 0);
        self.free.push(block);
    }

    /// Whether a sequence holds the block.
    pub(crate) fn is_held(&self, block: u32) -> bool {
        self.references[block as usize] > 0
    }

    /// Whether a single sequence holds the block.
    pub(crate) fn is_held_once(&self, block: u32) -> bool {
        self.references[block as usize] == 1
    }

    /// Number of free blocks.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// How many blocks have been taken at least once. Recycled blocks are taken first, so that this grows only when no
    /// other block is free.
    pub(crate) fn touched(&self) -> usize {
        self.touched
    }

    /// Number of blocks.
    #[cfg(test)]
    pub(crate) fn total(&self) -> usize {
        self.references.len()
    }

    /// Number of blocks that sequences hold.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.references.iter().filter(|&&n| n > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn low_ids_come_first_and_an_empty_pool_says_so() {
        let mut pool = BlockPool::new(2);
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(0), Some(1), None));
        assert!(pool.release(0));
        pool.recycle(0);
        assert_eq!((pool.take(), pool.touched()), (Some(0), 2));
    }

    proptest! {
        /// Compared with a plain list of reference counts.
        #[test]
        fn counts_agree_with_a_naive_model(operations in prop::collection::vec((0u8..3, 0u32..8), 0..200)) {
            let mut pool = BlockPool::new(8);
            let mut counts = [0u32; 8];
            for (operation, pick) in operations {
                match operation {
                    0 => match pool.take() {
                        Some(block) => {
                            prop_assert_eq!(counts[block as usize], 0);
                            counts[block as usize] = 1;
                        }
                        None => prop_assert!(counts.iter().all(|&n| n > 0)),
                    },
                    1 if counts[pick as usize] > 0 => {
                        pool.retain(pick);
                        counts[pick as usize] += 1;
                    }
                    2 if counts[pick as usize] > 0 => {
                        counts[pick as usize] -= 1;
                        let last = pool.release(pick);
                        prop_assert_eq!(last, counts[pick as usize] == 0);
                        if last {
                            pool.recycle(pick);
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(pool.free(), counts.iter().filter(|&&n| n == 0).count());
                prop_assert_eq!(pool.held() + pool.free(), pool.total());
            }
        }
    }
}
