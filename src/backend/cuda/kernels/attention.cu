// Causal attention of ragged rows over paged keys and values in bf16, with grouped query heads, a sliding window and a
// soft cap of scores. It is compiled once for each head size: -DHEAD=64.
//
// A row goes through the tokens that it sees in segments of `SEGMENT` tokens, which begin at multiples of that, and
// inside of a segment in tiles of `KEYS` tokens. The states of segments are folded in ascending order. Tokens that a
// row does not see leave its state as it is, to the bit. So a row's bits depend neither on the rows of its tile, nor on
// how a prompt is cut into chunks, nor on whether one block of threads has all segments or each has one.
#include "device.cuh"

#define JOIN_NAMES(kernel, head) kernel##_##head
#define JOIN(kernel, head) JOIN_NAMES(kernel, head)
// The name of a kernel, with the head size behind it.
#define NAMED(kernel) JOIN(kernel, HEAD)

// Tokens in a block of the KV cache.
constexpr u32 PAGE = 16;
// Query rows of a tile. A query row is one token's query of one head, of those heads that share a key head.
constexpr u32 ROWS = 64;
constexpr u32 SEGMENT = 256;
constexpr u32 THREADS = 128;

// Tokens in a tile of keys and values: fewer for large heads, so that two tiles fit into shared memory.
DEVICE constexpr u32 keys_of_tile(u32 head) {
    return head <= 128 ? 64 : 32;
}
// Bytes of shared memory of attention_whole and attention_split: the queries, and two tiles of keys and values. At most
// 96 KiB.
DEVICE constexpr u32 attention_shared_bytes(u32 head) {
    return (ROWS + 4 * keys_of_tile(head)) * head * 2;
}

constexpr u32 KEYS = keys_of_tile(HEAD);
// Pieces of 16 bytes in a row of a tile.
constexpr u32 CHUNKS = HEAD / 8;
constexpr u32 TILE_BYTES = KEYS * HEAD * 2;
// Blocks of threads that a multiprocessor has registers for.
constexpr u32 BLOCKS = HEAD <= 64 ? 3 : 2;
static_assert(HEAD % 16 == 0 && HEAD >= 16 && HEAD <= 256, "heads are multiples of 16 and at most 256");
static_assert(attention_shared_bytes(HEAD) <= 99 * 1024, "that is what a block of threads can have on every card");

// Some query rows of a sequence, over all of the sequence's tokens so far.
struct Tile {
    u32 first_row;     // the sequence's first row in the batch
    u32 sequence_row;  // the tile's first query row in the sequence: row r is head r % group of token r / group
    u32 rows;          // query rows; 0: nothing to do
    u32 context;       // the sequence's tokens before its first row
    u32 table;         // where its block table begins in `tables`
};

struct AttentionArgs {
    const float* qkv;   // [row][queries | keys | values], of which the queries are read
    const u16* keys;    // [block][kv_head][PAGE][HEAD]
    const u16* values;  // [block][kv_head][PAGE][HEAD]
    const u32* tables;
    const Tile* tiles;
    u16* out;        // [row][heads * HEAD]
    float* partial;  // states of segments, [row][head][segments][HEAD + 2]: sums, maximum, denominator
    u32 heads;
    u32 kv_heads;
    u32 qkv_width;
    u32 window;    // tokens that a token sees, itself included; 0: all
    u32 segments;  // room in `partial`: at least the segments of the longest sequence
    float scale;
    float soft_cap;  // 0: none
};

// Of two query rows of each lane, which are rows lane / 4 and lane / 4 + 8 of the warp's 16. Of each eight dimensions,
// the lane has number 2 (lane % 4) and the one after it.
struct State {
    float maximum[2];
    float denominator[2];
    float sums[HEAD / 8][4];
};

// The address of a chunk of a row. Chunks of neighbouring rows are swapped, so that the same chunk of eight rows lies
// in eight different groups of banks whatever the length of a row, which is 2, 4 or a multiple of 8 chunks times an odd
// number.
DEVICE u8* cell(u8* tile, u32 row, u32 chunk) {
    constexpr u32 swapped = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
    return tile + (row * CHUNKS + (chunk ^ (row / (8 / swapped) % swapped))) * 16;
}

DEVICE void clear(State& state) {
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        state.maximum[half] = negative_infinity();
        state.denominator[half] = 0;
    }
    UNROLL
    for (u32 n = 0; n < HEAD / 8; n++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            state.sums[n][i] = 0;
        }
    }
}

// How two neighbouring segments become one.
struct Fold {
    float maximum;
    float first_factor;
    float second_factor;
};

DEVICE Fold fold_of(float first_maximum, float second_maximum) {
    Fold fold;
    fold.maximum = larger(first_maximum, second_maximum);
    // Where a row has seen nothing yet, both maxima are -inf, and their difference would be NaN.
    const float base = fold.maximum == negative_infinity() ? 0.0f : fold.maximum;
    fold.first_factor = exp2_fast(add(first_maximum, -base));
    fold.second_factor = exp2_fast(add(second_maximum, -base));
    return fold;
}

DEVICE float folded(const Fold& fold, float first, float second) {
    return fused(first, fold.first_factor, mul(second, fold.second_factor));
}

DEVICE void fold_states(State& total, const State& part) {
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        const Fold fold = fold_of(total.maximum[half], part.maximum[half]);
        total.maximum[half] = fold.maximum;
        total.denominator[half] = folded(fold, total.denominator[half], part.denominator[half]);
        UNROLL
        for (u32 n = 0; n < HEAD / 8; n++) {
            UNROLL
            for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                total.sums[n][i] = folded(fold, total.sums[n][i], part.sums[n][i]);
            }
        }
    }
}

// The first token that `token` sees.
DEVICE u32 first_visible(u32 token, u32 window) {
    return window != 0 && token + 1 > window ? token + 1 - window : 0;
}

// The tokens that at least one row of a tile sees.
struct Span {
    u32 begin;
    u32 end;
};

DEVICE Span span_of(const AttentionArgs& args, const Tile& tile, u32 group) {
    Span span;
    span.begin = first_visible(tile.context + tile.sequence_row / group, args.window);
    span.end = tile.context + (tile.sequence_row + tile.rows - 1) / group + 1;
    return span;
}

// Where a query row is in the batch: its row times the number of heads, and its head.
DEVICE u64 batch_head(const AttentionArgs& args, const Tile& tile, u32 group, u32 kv_head, u32 row) {
    const u32 packed = tile.sequence_row + row;
    return static_cast<u64>(tile.first_row + packed / group) * args.heads + kv_head * group + packed % group;
}

// Rounds the tile's queries to bf16 and writes them to shared memory, and zeros in place of rows that it has not.
DEVICE void load_queries(const AttentionArgs& args, const Tile& tile, u32 group, u32 kv_head, u8* queries) {
    for (u32 i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const u32 row = i / CHUNKS;
        const u32 chunk = i % CHUNKS;
        FourWords words = {{0, 0, 0, 0}};
        if (row < tile.rows) {
            const u32 packed = tile.sequence_row + row;
            const u64 begin = static_cast<u64>(tile.first_row + packed / group) * args.qkv_width;
            const u32 head = kv_head * group + packed % group;
            const float* from = args.qkv + begin + head * HEAD + chunk * 8;
            UNROLL
            for (u32 pair = 0; pair < 4; pair += 2) {
                const FourWords four = load_16(from + 2 * pair);
                words.at[pair] = pack_bf16(float_from_bits(four.at[0]), float_from_bits(four.at[1]));
                words.at[pair + 1] = pack_bf16(float_from_bits(four.at[2]), float_from_bits(four.at[3]));
            }
        }
        store_16_shared(cell(queries, row, chunk), words);
    }
}

// Begins to copy the keys and values of tokens `first` to `first + KEYS - 1`. Tokens outside of the span become zeros:
// behind its end may be anything, and before its begin there may be no block.
DEVICE void load_tile(const AttentionArgs& args, const Tile& tile, Span span, u32 kv_head, u32 first, u8* to) {
    constexpr u32 pieces = (KEYS * CHUNKS + THREADS - 1) / THREADS;
    // All blocks are looked up before the first copy, so that no copy waits for a look-up behind another copy.
    u32 blocks[pieces];
    UNROLL
    for (u32 piece = 0; piece < pieces; piece++) {
        const u32 token = first + (piece * THREADS + threadIdx.x) / CHUNKS;
        const bool real = token >= span.begin && token < span.end;
        blocks[piece] = real ? args.tables[tile.table + token / PAGE] : 0;
    }
    UNROLL
    for (u32 piece = 0; piece < pieces; piece++) {
        const u32 row = (piece * THREADS + threadIdx.x) / CHUNKS;
        const u32 chunk = (piece * THREADS + threadIdx.x) % CHUNKS;
        const u32 token = first + row;
        const bool real = token >= span.begin && token < span.end;
        const u64 slot = (static_cast<u64>(blocks[piece]) * args.kv_heads + kv_head) * PAGE + token % PAGE;
        const u64 at = slot * HEAD + chunk * 8;
        if (row < KEYS) {
            copy_16_async(cell(to, row, chunk), args.keys + at, real);
            copy_16_async(cell(to + TILE_BYTES, row, chunk), args.values + at, real);
        }
    }
    commit_copies();
}

// Scores of a warp's 16 queries against a tile of keys. Queries are read again for each tile of keys: with them in
// registers, there would be fewer blocks of threads on a multiprocessor.
DEVICE void score_keys(float (&scores)[KEYS / 8][4], u8* queries, u8* keys) {
    const u32 warp = threadIdx.x / WARP;
    const u32 lane = threadIdx.x % WARP;
    UNROLL
    for (u32 n = 0; n < KEYS / 8; n++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            scores[n][i] = 0;
        }
    }
    // Not all rounds are unrolled, or the compiler would keep the addresses of all in registers.
    UNROLL_BY(4)
    for (u32 d = 0; d < HEAD / 16; d++) {
        u32 query[4];
        load_matrices(query, cell(queries, warp * 16 + lane % 16, 2 * d + lane / 16));
        UNROLL
        for (u32 n = 0; n < KEYS / 16; n++) {
            // Matrices 0 and 1 are both halves of the dimensions for eight keys, 2 and 3 for the next eight.
            u32 key[4];
            load_matrices(key, cell(keys, n * 16 + lane % 8 + lane / 16 * 8, 2 * d + lane / 8 % 2));
            mma_bf16(scores[2 * n], query, key[0], key[1]);
            mma_bf16(scores[2 * n + 1], query, key[2], key[3]);
        }
    }
}

// Scales and caps scores. They become exponents of 2.
DEVICE void scale_scores(float (&scores)[KEYS / 8][4], float scale, float soft_cap) {
    const float log2_of_e = 1.44269504f;
    const float factor = soft_cap == 0 ? mul(scale, log2_of_e) : divide(scale, soft_cap);
    UNROLL
    for (u32 n = 0; n < KEYS / 8; n++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            scores[n][i] = mul(scores[n][i], factor);
        }
    }
    if (soft_cap != 0) {
        const float cap = mul(soft_cap, log2_of_e);
        UNROLL
        for (u32 n = 0; n < KEYS / 8; n++) {
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                scores[n][i] = mul(cap, hyperbolic_tangent(scores[n][i]));
            }
        }
    }
}

// Replaces scores by numerators of softmax, and takes their maximum and sum into the state. `tokens` are the tokens of
// the lane's two rows, `first` is the tile's first key.
DEVICE void take_scores(State& part, float (&scores)[KEYS / 8][4], const u32 (&tokens)[2], u32 window, u32 first) {
    const u32 lane = threadIdx.x % WARP;
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        const u32 token = tokens[half];
        const u32 low = first_visible(token, window);
        float maximum = part.maximum[half];
        UNROLL
        for (u32 n = 0; n < KEYS / 8; n++) {
            UNROLL
            for (u32 i = 0; i < 2; i++) {
                const u32 key = first + n * 8 + 2 * (lane % 4) + i;
                float& score = scores[n][2 * half + i];
                score = key <= token && key >= low ? score : negative_infinity();
                maximum = larger(maximum, score);
            }
        }
        // Four lanes share a row.
        maximum = larger(maximum, shuffle_xor(maximum, 1));
        maximum = larger(maximum, shuffle_xor(maximum, 2));
        const float base = maximum == negative_infinity() ? 0.0f : maximum;
        const float correction = exp2_fast(add(part.maximum[half], -base));
        part.maximum[half] = maximum;
        float sum = 0;
        UNROLL
        for (u32 n = 0; n < KEYS / 8; n++) {
            UNROLL
            for (u32 i = 0; i < 2; i++) {
                float& score = scores[n][2 * half + i];
                score = exp2_fast(add(score, -base));
                sum = add(sum, score);
            }
        }
        sum = add(sum, shuffle_xor(sum, 1));
        sum = add(sum, shuffle_xor(sum, 2));
        part.denominator[half] = fused(part.denominator[half], correction, sum);
        UNROLL
        for (u32 n = 0; n < HEAD / 8; n++) {
            part.sums[n][2 * half] = mul(part.sums[n][2 * half], correction);
            part.sums[n][2 * half + 1] = mul(part.sums[n][2 * half + 1], correction);
        }
    }
}

// Adds numerators times values. The numerators lie in the lanes as mma wants its first operand.
DEVICE void add_values(State& part, const float (&numerators)[KEYS / 8][4], u8* values) {
    const u32 lane = threadIdx.x % WARP;
    UNROLL
    for (u32 n = 0; n < KEYS / 16; n++) {
        const u32 weights[4] = {
            pack_bf16(numerators[2 * n][0], numerators[2 * n][1]),
            pack_bf16(numerators[2 * n][2], numerators[2 * n][3]),
            pack_bf16(numerators[2 * n + 1][0], numerators[2 * n + 1][1]),
            pack_bf16(numerators[2 * n + 1][2], numerators[2 * n + 1][3]),
        };
        UNROLL
        for (u32 d = 0; d < HEAD / 16; d++) {
            u32 value[4];
            load_matrices_transposed(value, cell(values, n * 16 + lane % 16, 2 * d + lane / 16));
            mma_bf16(part.sums[2 * d], weights, value[0], value[1]);
            mma_bf16(part.sums[2 * d + 1], weights, value[2], value[3]);
        }
    }
}

// Writes a segment's state for attention_fold.
DEVICE void store_state(const AttentionArgs& args, const State& state, u64 batch_head, u32 half) {
    const u32 pair = threadIdx.x % 4;
    float* to = args.partial + (batch_head * args.segments + blockIdx.z) * (HEAD + 2);
    UNROLL
    for (u32 n = 0; n < HEAD / 8; n++) {
        const u32 low = bits_of_float(state.sums[n][2 * half]);
        const u32 high = bits_of_float(state.sums[n][2 * half + 1]);
        store_8(to + n * 8 + 2 * pair, {{low, high}});
    }
    if (pair == 0) {
        store_8(to + HEAD, {{bits_of_float(state.maximum[half]), bits_of_float(state.denominator[half])}});
    }
}

// Writes a row's attention, rounded for the next product.
DEVICE void store_attention(const AttentionArgs& args, const State& state, u64 batch_head, u32 half) {
    const u32 pair = threadIdx.x % 4;
    const float inverse = divide(1.0f, state.denominator[half]);
    u16* to = args.out + batch_head * HEAD;
    UNROLL
    for (u32 n = 0; n < HEAD / 8; n++) {
        const float low = mul(state.sums[n][2 * half], inverse);
        const float high = mul(state.sums[n][2 * half + 1], inverse);
        store_4(to + n * 8 + 2 * pair, pack_bf16(low, high));
    }
}

// A tile's attention over all of its segments, or over segment blockIdx.z.
template <bool SPLIT>
DEVICE void attend(const AttentionArgs& args) {
    SHARED_BYTES(shared);
    const Tile tile = args.tiles[blockIdx.x];
    if (tile.rows == 0) {
        return;
    }
    const u32 kv_head = blockIdx.y;
    const u32 group = args.heads / args.kv_heads;
    const Span span = span_of(args, tile, group);
    // Tiles of keys lie at multiples of their length.
    u32 first = span.begin / KEYS * KEYS;
    u32 end = span.end;
    if (SPLIT) {
        const u32 segment_begin = blockIdx.z * SEGMENT;
        const u32 segment_end = segment_begin + SEGMENT;
        if (segment_begin >= span.end || segment_end <= span.begin) {
            return;
        }
        first = first > segment_begin ? first : segment_begin;
        end = end < segment_end ? end : segment_end;
    }
    u8* stages = shared + ROWS * HEAD * 2;
    load_tile(args, tile, span, kv_head, first, stages);
    load_queries(args, tile, group, kv_head, shared);
    const u32 warp = threadIdx.x / WARP;
    const u32 lane = threadIdx.x % WARP;
    // The lane's two rows in the tile, and their tokens.
    const u32 rows[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
    const u32 tokens[2] = {
        tile.context + (tile.sequence_row + rows[0]) / group,
        tile.context + (tile.sequence_row + rows[1]) / group,
    };
    State total;
    clear(total);
    State part;
    clear(part);
    for (u32 stage = 0; first < end; first += KEYS, stage ^= 1) {
        wait_for_copies<0>();
        // Now this tile of keys, and the queries, are there for all threads, and all have done with the tile before,
        // whose place the next one takes.
        sync_block();
        if (first + KEYS < end) {
            load_tile(args, tile, span, kv_head, first + KEYS, stages + (stage ^ 1) * 2 * TILE_BYTES);
        }
        // Warps without rows only help to copy.
        if (warp * 16 < tile.rows) {
            u8* keys = stages + stage * 2 * TILE_BYTES;
            float scores[KEYS / 8][4];
            score_keys(scores, shared, keys);
            scale_scores(scores, args.scale, args.soft_cap);
            take_scores(part, scores, tokens, args.window, first);
            add_values(part, scores, keys + TILE_BYTES);
            if (!SPLIT && ((first + KEYS) % SEGMENT == 0 || first + KEYS >= end)) {
                fold_states(total, part);
                clear(part);
            }
        }
    }
    UNROLL
    for (u32 half = 0; half < 2; half++) {
        if (rows[half] < tile.rows) {
            const u64 at = batch_head(args, tile, group, kv_head, rows[half]);
            if (SPLIT) {
                store_state(args, part, at, half);
            } else {
                store_attention(args, total, at, half);
            }
        }
    }
}

// Larger heads would need more registers than a thread has for both states, so they have no attention_whole.
#if HEAD <= 128
// Attention of tiles. Grid: (tiles, kv_heads).
KERNEL BOUNDS(128, BLOCKS) NAMED(attention_whole)(const AttentionArgs args) {
    attend<false>(args);
}
#endif

// The states of each segment of tiles. Grid: (tiles, kv_heads, segments).
KERNEL BOUNDS(128, BLOCKS) NAMED(attention_split)(const AttentionArgs args) {
    attend<true>(args);
}

// Folds the states of a row's segments as attention_whole does, one warp for each row. Grid: (tiles, kv_heads, at least
// the query rows of any tile). Where tiles have few rows, a grid of that depth spares most of the blocks of threads.
KERNEL BOUNDS(32, 1) NAMED(attention_fold)(const AttentionArgs args) {
    constexpr u32 pairs = HEAD / 2;
    constexpr u32 lane_pairs = (pairs + WARP - 1) / WARP;
    const Tile tile = args.tiles[blockIdx.x];
    const u32 row = blockIdx.z;
    if (row >= tile.rows) {
        return;
    }
    const u32 group = args.heads / args.kv_heads;
    const Span span = span_of(args, tile, group);
    const u64 at = batch_head(args, tile, group, blockIdx.y, row);
    float maximum = negative_infinity();
    float denominator = 0;
    float sums[lane_pairs][2];
    UNROLL
    for (u32 i = 0; i < lane_pairs; i++) {
        sums[i][0] = 0;
        sums[i][1] = 0;
    }
    for (u32 segment = span.begin / SEGMENT; segment <= (span.end - 1) / SEGMENT; segment++) {
        const float* from = args.partial + (at * args.segments + segment) * (HEAD + 2);
        const TwoWords state = load_8(from + HEAD);
        const Fold fold = fold_of(maximum, float_from_bits(state.at[0]));
        maximum = fold.maximum;
        denominator = folded(fold, denominator, float_from_bits(state.at[1]));
        UNROLL
        for (u32 i = 0; i < lane_pairs; i++) {
            const u32 pair = i * WARP + threadIdx.x;
            if (pair < pairs) {
                const TwoWords added = load_8(from + 2 * pair);
                sums[i][0] = folded(fold, sums[i][0], float_from_bits(added.at[0]));
                sums[i][1] = folded(fold, sums[i][1], float_from_bits(added.at[1]));
            }
        }
    }
    const float inverse = divide(1.0f, denominator);
    UNROLL
    for (u32 i = 0; i < lane_pairs; i++) {
        const u32 pair = i * WARP + threadIdx.x;
        if (pair < pairs) {
            store_4(args.out + at * HEAD + 2 * pair, pack_bf16(mul(sums[i][0], inverse), mul(sums[i][1], inverse)));
        }
    }
}
