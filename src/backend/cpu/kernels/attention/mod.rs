//! Causal attention over paged keys and values, with grouped query heads (arXiv 2305.13245).
//!
//! A query row goes through the tokens that it sees in segments of [`sizes::SEGMENT`] tokens, which begin at
//! multiples of that. Inside of a segment, scores and sums are those of textbook softmax, over positions in ascending
//! order; the results of segments are merged in ascending order, as online softmax does (arXiv 1805.02867). How
//! scores and sums are rounded depends on how keys and values are stored: [`floats`] or [`bf16`] says it. None of
//! this depends on which rows share a tile or on which thread computes a segment. So chunked and whole prefill,
//! cached and cold, give the same bits.

mod batch;
mod bf16;
mod cache;
mod exp2;
mod floats;
mod query_tile;
mod sizes;
mod softmax;
mod span;
mod tasks;
mod worker;

pub use self::{
    batch::attention,
    cache::{LayerCache, RopeAngles, SlotMapping, rope_and_store},
    sizes::BLOCK_TOKENS,
    span::AttentionSpan,
};

#[cfg(test)]
mod tests;
