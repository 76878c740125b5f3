//! CPU kernels: products with packed weights, paged attention, norms, rotary embedding and what else a model computes.
//!
//! Every output element has a fixed order of operations, whatever the batch, the tile or the thread. An element of a
//! product in f32 is one chain of fused multiply-adds over the inputs in ascending order; in integers it is one such
//! chain over groups of inputs, whose sums are exact; [`bf16`] states the order in bf16. So a row gets the same bits
//! alone and in a batch, and on every instruction set.
//!
//! `unsafe` stands in this folder only. Each `unsafe fn` says under "Safety" what its caller must ensure, and each
//! block says after `SAFETY:` why that holds there.
//!
//! # Terms
//!
//! | Term | Meaning |
//! |---|---|
//! | row | One token's activations. A product has `m` rows. |
//! | input, `k` | A column of a weight matrix, over which a product sums. |
//! | output | A row of a weight matrix, and an element of a product's row. |
//! | lane | An output, counted from the first of its panel or vector. |
//! | panel | 64 neighbouring outputs. A matrix is packed panel by panel, and inside of a panel input by input. |
//! | strip | 32 neighbouring outputs, half a panel. Integer kernels compute a strip of many rows at a time. |
//! | word | Four bytes with weights of one output: four of eight bits, eight of four bits, or parts of six-bit weights. |
//! | group | Inputs whose weights share a scale: 16 or 32. Activations in eight bits share one for each 32. |
//! | run | 32 inputs, which AMX multiplies in one instruction in bf16. |
//! | pair | An even input and the odd one behind it, in one 32-bit lane. |
//! | tile | What an AMX register holds: up to 16 rows of 64 bytes. |
//! | micro tile | Rows and vectors of outputs whose sums are in vector registers ([`micro`]). |
//! | block | 16 tokens of the KV cache. |
//! | slot | A token's place in the KV cache: a block and an offset in it. |
//! | segment | 128 tokens, over which attention computes softmax at once. |
//! | query tile | Query rows of a sequence that read the same keys. |
//! | region | One run of a function on all threads of the pool. |
//! | task | One of the indices that a region runs its function with. |
//! | work range | The tasks that a thread begins with. |
//! | scratch | A thread's own buffers, which grow to their largest use and stay. |
//! | pack | To rearrange weights when a model is loaded, into the order in which kernels read them. |
//! | unpack | To turn weights of four or six bits into bytes. |
//! | expand | To turn stored weights, keys or values into floats. |
//!
//! # Where the time of a prompt goes
//!
//! One layer of SmolLM2 in Q4_1 with 512 rows, on two threads of a processor with AMX, in microseconds as
//! `engine-bench --profile` tells them:
//!
//! | Part | `bf16` | `int8` |
//! |---|---|---|
//! | norms | 70 | 90 |
//! | queries, keys and values | 280 | 550 |
//! | rotation and KV write | 80 | 80 |
//! | attention | 640 | 1,680 |
//! | attention's output | 200 | 370 |
//! | gate, up, activation and down | 1,080 | 2,810 |
//! | all | 2,350 | 5,580 |

mod activations;
mod arena;
mod attention;
mod bf16;
mod buffers;
mod compute;
mod dense_attention;
mod disjoint;
mod elementwise;
mod floats;
mod gated;
mod int8;
mod isa;
mod linear;
mod low_rank;
mod matmul;
mod micro;
mod norms;
mod output;
mod packed;
mod panel;
#[cfg(all(test, exact_memory))]
mod planted;
mod pointwise;
mod pool;
mod precision;
mod prefetch;
mod quantised;
mod ranges;
mod row_groups;
mod scales;
mod strip;
#[cfg(test)]
mod test_support;
#[cfg(target_arch = "x86_64")]
mod tile_config;

pub use activations::TokenRows;
pub use arena::Arena;
pub use attention::{
    AttentionSpan, BLOCK_TOKENS, LayerCache, RopeAngles, SlotMapping, attention, rope_and_store,
};
pub use compute::Compute;
pub use dense_attention::{
    DenseAttention, DenseInput, DenseSpan, DistanceBias, HeadRows, PositionTerms, ScoreBias,
};
pub use elementwise::{add_bias, gate, soft_cap};
pub use gated::{GatedBuffers, GatedFeedForward};
pub use isa::Isa;
pub use linear::Linear;
pub use low_rank::{LowRank, add_low_rank};
pub use matmul::{matmul, matmul_by_kind};
pub use norms::Norm;
pub use output::Output;
pub use packed::PackedMatrix;
pub use panel::PackError;
pub use pool::ThreadPool;
pub use row_groups::{RowGroups, RowRun};
