//! Products of attention in AMX tiles, run by run between pieces of other work.

use super::sub_tile::{SEGMENT_RUNS, SubTile};
use crate::backend::cpu::kernels::{
    attention::{
        cache::LayerCache,
        sizes::{BLOCK_TOKENS, SEGMENT},
    },
    bf16::{Operands, PairBits, RUN, RUN_PAIRS, RunBits, SteppedProduct, TILE_ROWS},
    micro::LANES,
    output::{Output, OutputTile},
};

/// Outputs of two tiles side by side.
pub(super) const PAIR_OF_TILES: usize = 2 * LANES;

/// Products that are computed while vectors do other work. Those with values come first.
pub(super) struct Products<'a> {
    keys: Option<KeyProducts<'a>>,
    values: Option<ValueProducts<'a>>,
    /// Index of the next product to begin, over those with values and then those with keys.
    next: usize,
    /// The product that is under way.
    product: SteppedProduct,
    /// Runs of all products.
    runs: usize,
    /// Counts up to the pieces of the other work, by `runs` for each: a run is due whenever it gets there.
    due: usize,
}

/// Products of a part's queries and a segment's keys: one for each run of tokens that the part sees.
pub(super) struct KeyProducts<'a> {
    /// The part.
    pub part: &'a SubTile<'a>,
    /// The query tile's queries, `[rows / TILE_ROWS][runs of dimensions][TILE_ROWS]`.
    pub queries: &'a [RunBits],
    /// The keys.
    pub cache: &'a LayerCache,
    /// What is written, `[ROW_BLOCK][SEGMENT]`.
    pub scores: &'a mut [f32],
}

/// Products of a part's numerators and a segment's values: one for each pair of tiles of dimensions.
pub(super) struct ValueProducts<'a> {
    /// The part.
    pub part: &'a SubTile<'a>,
    /// Rounded numerators, `[ROW_BLOCK / TILE_ROWS][SEGMENT_RUNS][TILE_ROWS]`.
    pub numerators: &'a [RunBits],
    /// Values in pairs of tokens, `[dimensions / PAIR_OF_TILES][SEGMENT_RUNS][2][RUN_PAIRS]`.
    pub values: &'a [PairBits],
    /// What is written, the query tile's: `[rows][dimensions]`, filled up to whole tiles.
    pub weighted_sums: &'a mut [f32],
}

impl<'a> Products<'a> {
    /// Products of which none is begun.
    pub(super) fn new(keys: Option<KeyProducts<'a>>, values: Option<ValueProducts<'a>>) -> Self {
        let of_keys = keys.as_ref().map_or(0, |keys| keys.count() * keys.runs());
        let of_values = values.as_ref().map_or(0, |values| values.count() * values.runs());
        Self {
            keys,
            values,
            next: 0,
            product: SteppedProduct::NONE,
            runs: of_keys + of_values,
            due: 0,
        }
    }

    /// The product whose next run is due, if one is, with one more of `pieces` pieces of the other work.
    #[inline(always)]
    pub(super) fn due(&mut self, pieces: usize) -> Option<&mut SteppedProduct> {
        self.due += self.runs;
        if self.due < pieces {
            return None;
        }
        self.due -= pieces;
        self.under_way()
    }

    /// Computes all that is left.
    ///
    /// # Safety
    /// This thread's tile registers have the shapes for the tile's rows, at most
    /// [`ROW_BLOCK`](crate::backend::cpu::kernels::bf16::ROW_BLOCK). The processor has AMX-BF16, and the system has granted this
    /// process the use of tile data.
    pub(super) unsafe fn finish(&mut self) {
        while let Some(product) = self.under_way() {
            // SAFETY: the caller vouches for the registers and the processor; `begin` gives the product operands that exist.
            unsafe {
                product.load();
                product.multiply_first();
                product.multiply_second();
                product.multiply_rest();
            }
        }
    }

    /// The product that is under way, or the next.
    #[inline(always)]
    fn under_way(&mut self) -> Option<&mut SteppedProduct> {
        if !self.product.is_under_way() {
            self.begin_next();
        }
        self.product.is_under_way().then_some(&mut self.product)
    }

    #[inline(never)]
    fn begin_next(&mut self) {
        let of_values = self.values.as_ref().map_or(0, ValueProducts::count);
        match (self.next.checked_sub(of_values), &mut self.keys, &mut self.values) {
            (Some(index), Some(keys), _) if index < keys.count() => keys.begin(index, &mut self.product),
            (None, _, Some(values)) => values.begin(self.next, &mut self.product),
            _ => return,
        }
        self.next += 1;
    }
}

impl KeyProducts<'_> {
    fn count(&self) -> usize {
        self.part.runs.len()
    }

    /// Runs of dimensions.
    fn runs(&self) -> usize {
        self.part.tile.layer.shape.head_dim.div_ceil(RUN)
    }

    /// Begins the product with a run of tokens, counted from the first that the part sees.
    fn begin(&mut self, index: usize, product: &mut SteppedProduct) {
        let runs = self.runs();
        let SubTile {
            tile,
            segment,
            rows,
            seen,
            runs: token_runs,
        } = self.part;
        let queries = &self.queries[rows.start / TILE_ROWS * runs * TILE_ROWS..];
        let first_block = seen.start / BLOCK_TOKENS * BLOCK_TOKENS;
        let last_block = (seen.end - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
        let column = (token_runs.start + index) * RUN;
        // One of a run's two blocks may not be there. Its scores are then computed from the other, and no row
        // sees them.
        let keys = [column, column + BLOCK_TOKENS].map(|column| {
            let column = column.clamp(first_block, last_block);
            let block = tile.block_head(*segment * SEGMENT + column);
            self.cache.bf16_block_head(block).keys.as_ptr().cast::<PairBits>()
        });
        let operands = Operands {
            x: queries.as_ptr(),
            x_second: match rows.len() > TILE_ROWS {
                true => queries[runs * TILE_ROWS..].as_ptr(),
                false => std::ptr::null(),
            },
            w: keys,
            w_step: RUN_PAIRS,
            runs,
        };
        // `queries` are whole tiles of rows with `runs` runs, from the part's first row on, a second tile of them where there
        // are more than `TILE_ROWS`. A head's keys of a block are `runs` runs of `RUN_PAIRS` pairs for `BLOCK_TOKENS` tokens.
        // `scores` has `ROW_BLOCK` rows of `SEGMENT`, which is whole runs, so the `RUN` scores from `column` on are a row's own.
        let c = OutputTile {
            start: self.scores[column..].as_mut_ptr(),
            stride: SEGMENT,
            output: Output::Replace,
        };
        product.begin(operands, c);
    }
}

impl ValueProducts<'_> {
    fn count(&self) -> usize {
        self.part.tile.layer.shape.head_dim.div_ceil(PAIR_OF_TILES)
    }

    /// Runs of tokens.
    fn runs(&self) -> usize {
        self.part.runs.len()
    }

    /// Begins the product with a pair of tiles of dimensions.
    fn begin(&mut self, index: usize, product: &mut SteppedProduct) {
        let SubTile { tile, rows, runs, .. } = self.part;
        let width = tile.layer.shape.head_dim.next_multiple_of(PAIR_OF_TILES);
        let values = &self.values[index * SEGMENT_RUNS * RUN..][..SEGMENT_RUNS * RUN];
        let values = &values[runs.start * RUN..];
        let operands = Operands {
            x: self.numerators[runs.start * TILE_ROWS..].as_ptr(),
            x_second: match rows.len() > TILE_ROWS {
                true => self.numerators[(SEGMENT_RUNS + runs.start) * TILE_ROWS..].as_ptr(),
                false => std::ptr::null(),
            },
            w: [values.as_ptr(), values[RUN_PAIRS..].as_ptr()],
            w_step: RUN,
            runs: runs.len(),
        };
        // `numerators` are whole tiles of rows with `SEGMENT_RUNS` runs, two of them; `values` is two tiles for each of the
        // segment's runs from `runs.start` on, and `runs` end within the segment. `weighted_sums` has whole tiles of the query
        // tile's rows, `width` long, which is whole pairs of tiles.
        let c = OutputTile {
            start: self.weighted_sums[rows.start * width + index * PAIR_OF_TILES..].as_mut_ptr(),
            stride: width,
            output: Output::Replace,
        };
        product.begin(operands, c);
    }
}
