// Products with weights that stay packed in integers of 8 or 4 bits, and their expansion to bf16.
//
// A weight is scale * integer + minimum. Neighbouring weights of an output, 32 or 16 of them, share a scale and a
// minimum. Integers are exact in bf16, so tensor cores multiply the integers with the inputs, and the sums of each
// group are scaled in f32. An output's bits depend neither on the number of rows nor on what they are.
//
// Weights lie in tiles of 16 outputs and 32 inputs, as the lanes of a warp need them. Lane 4 g + t has outputs g and
// g + 8 of the tile. In step s, which is the tile's inputs 16 s to 16 s + 15, it has the four from 16 s + 4 t on. These
// are the pairs of step s: 0 is output g with the first two inputs, 1 is output g + 8 with the first two, 2 and 3
// are the same with the last two inputs.
//   8 bits: words 2 s and 2 s + 1 of the lane's four. Pairs 0 and 2 are bytes 0 and 2 of these words, and pairs 1 and 3
//           are bytes 1 and 3. A byte is the integer plus 128.
//   4 bits: word s of the lane's two. Pair p is nibbles p and p + 4. A nibble is the integer plus `zero`.
// Where the number of outputs is no multiple of 16, the last tile is filled up with anything.
#include "device.cuh"

constexpr u32 PACKED_THREADS = 256;
constexpr u32 PACKED_WARPS = PACKED_THREADS / WARP;
constexpr u32 TILE_OUTPUTS = 16;
constexpr u32 TILE_INPUTS = 32;
// Rows of x that a block of threads multiplies at once, in columns of mma's second operand.
constexpr u32 COLUMNS = 8;
constexpr u32 BLOCK_ROWS = 2 * COLUMNS;
// Tiles that a warp loads before it multiplies the first of them.
constexpr u32 AHEAD = 4;
// Inputs that have one base, where scales have steps.
constexpr u32 BASE_INPUTS = 256;

struct PackedMatrix {
    // [tile of outputs][tile of inputs][lane][words of a lane]
    const u32* integers;
    // [tile of outputs][tile of inputs][group in the tile][16 outputs]. Without bases: 32 bits each, the scale in f16
    // in the low half, the minimum in f16 in the high half. With bases: 16 bits each, the scale's step as a signed
    // integer in the low byte, the minimum's step as an unsigned one in the high byte.
    const u32* factors;
    // [tile of outputs][256 inputs][16 outputs], or null: what steps are multiplied with, the scale's in f16 in the low
    // half, the minimum's in the high half.
    const u32* bases;
    u32 outputs;
    u32 inputs;       // a multiple of 32, and of 256 where there are bases
    u32 zero;         // of 4-bit integers; at most 8
    u32 groups;       // in a tile: 1 of 32 inputs, or 2 of 16
    u32 has_minimum;  // 0: minimums are not read
    u32 pad;
};

// A lane's integers of a tile.
template <u32 BITS>
struct Integers;

template <>
struct Integers<8> {
    static constexpr u32 WORDS = 4;
    FourWords words;

    DEVICE_MEMBER void load(const u32* from) {
        words = load_16(from);
    }
    // Pair `pair` of step `step`, as two bf16. The low seven bits of a byte become the fraction of a number from 128
    // on; the eighth decides whether 128 or 256 is subtracted.
    DEVICE_MEMBER u32 pair(u32 step, u32 pair, u32) const {
        const u32 bytes = words.at[2 * step + pair / 2] >> (8 * (pair % 2));
        return add_bf16((bytes & 0x007f007fu) | 0x43004300u, (bytes & 0x00800080u) ^ 0xc380c380u);
    }
};

template <>
struct Integers<4> {
    static constexpr u32 WORDS = 2;
    TwoWords words;

    DEVICE_MEMBER void load(const u32* from) {
        words = load_8(from);
    }
    // A nibble becomes the fraction of a number from 128 on, from which 128 and the zero are subtracted.
    DEVICE_MEMBER u32 pair(u32 step, u32 pair, u32 zero) const {
        const u32 nibbles = words.at[step] >> (4 * pair);
        return add_bf16((nibbles & 0x000f000fu) | 0x43004300u, 0xc300c300u | zero | zero << 16);
    }
};

struct Factor {
    float scale;
    float minimum;
};

// The factors of a lane's two outputs in a tile, as they lie in memory.
struct StoredFactors {
    u32 factors[2][2];  // [group][half of the outputs]
    u32 bases[2];

    // Loads them; `output` is the lane's first output in the tile.
    DEVICE_MEMBER void load(const PackedMatrix& weights, u64 tile, u32 input_tile, u32 output) {
        const u32 input_tiles = weights.inputs / TILE_INPUTS;
        const u64 begin = (tile * input_tiles + input_tile) * weights.groups * TILE_OUTPUTS + output;
        const u64 base_tiles = weights.inputs / BASE_INPUTS;
        const u64 base_tile = tile * base_tiles + input_tile / (BASE_INPUTS / TILE_INPUTS);
        UNROLL
        for (u32 half = 0; half < 2; half++) {
            UNROLL
            for (u32 group = 0; group < 2; group++) {
                const u64 at = begin + group * TILE_OUTPUTS + half * 8;
                if (group < weights.groups) {
                    const bool plain = weights.bases == nullptr;
                    factors[group][half] =
                        plain ? weights.factors[at] : reinterpret_cast<const u16*>(weights.factors)[at];
                }
            }
            if (weights.bases != nullptr) {
                bases[half] = weights.bases[base_tile * TILE_OUTPUTS + output + half * 8];
            }
        }
    }

    DEVICE_MEMBER Factor get(const PackedMatrix& weights, u32 group, u32 half) const {
        const u32 stored = factors[group][half];
        Factor factor;
        if (weights.bases == nullptr) {
            factor.scale = float_from_f16(stored & 0xffff);
            factor.minimum = float_from_f16(stored >> 16);
            return factor;
        }
        // Two's complement in eight bits.
        const int scale_step = static_cast<int>((stored & 0xff) ^ 0x80) - 128;
        factor.scale = mul(float_from_f16(bases[half] & 0xffff), static_cast<float>(scale_step));
        factor.minimum = mul(float_from_f16(bases[half] >> 16), static_cast<float>(stored >> 8));
        return factor;
    }
};

// What a lane needs of a tile of weights.
template <u32 BITS>
struct LaneTile {
    Integers<BITS> integers;
    StoredFactors factors;

    DEVICE_MEMBER void load(const PackedMatrix& weights, u64 tile, u32 input_tile) {
        const u32 lane = threadIdx.x % WARP;
        const u32 input_tiles = weights.inputs / TILE_INPUTS;
        const u64 at = (tile * input_tiles + input_tile) * WARP + lane;
        integers.load(weights.integers + at * Integers<BITS>::WORDS);
        factors.load(weights, tile, input_tile, lane / 4);
    }
};

struct PackedProductArgs {
    PackedMatrix weights;
    const u16* x;  // [row][inputs]
    float* out;    // [row][out_width], of which the first `outputs` are written
    u32 rows;
    u32 out_width;
    u32 add;  // whether the product is added to `out`
    u32 pad;
};

// The sums of a lane, for both sets of columns: outputs g and g + 8 with columns 2 t and 2 t + 1.
struct ProductSums {
    float at[2][4];
};

// Adds the product of one tile to a lane's sums.
template <u32 BITS>
DEVICE void multiply_tile(const PackedProductArgs& args, const LaneTile<BITS>& tile, u32 input_tile, u32 column_sets,
                          ProductSums& sums) {
    const PackedMatrix& weights = args.weights;
    const u32 lane = threadIdx.x % WARP;
    const u32 ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
    TwoWords x[2][2] = {};  // [set of columns][step]
    UNROLL
    for (u32 set = 0; set < 2; set++) {
        const u32 row = blockIdx.y * BLOCK_ROWS + set * COLUMNS + lane / 4;
        if (row < args.rows) {
            const u64 begin = static_cast<u64>(row) * weights.inputs + input_tile * TILE_INPUTS + lane % 4 * 4;
            x[set][0] = load_8(args.x + begin);
            x[set][1] = load_8(args.x + begin + 16);
        }
    }
    float products[2][4] = {};
    float input_sums[2][4] = {};
    UNROLL
    for (u32 step = 0; step < 2; step++) {
        const u32 pairs[4] = {
            tile.integers.pair(step, 0, weights.zero),
            tile.integers.pair(step, 1, weights.zero),
            tile.integers.pair(step, 2, weights.zero),
            tile.integers.pair(step, 3, weights.zero),
        };
        UNROLL
        for (u32 set = 0; set < 2; set++) {
            if (set < column_sets) {
                const TwoWords inputs = x[set][step];
                mma_bf16(products[set], pairs, inputs.at[0], inputs.at[1]);
                if (weights.has_minimum != 0) {
                    mma_bf16(input_sums[set], ones, inputs.at[0], inputs.at[1]);
                }
            }
        }
        const bool ends_group = step == 1 || weights.groups == 2;
        if (ends_group) {
            UNROLL
            for (u32 half = 0; half < 2; half++) {
                const Factor first = tile.factors.get(weights, 0, half);
                const Factor factor = weights.groups == 2 && step == 1 ? tile.factors.get(weights, 1, half) : first;
                UNROLL
                for (u32 set = 0; set < 2; set++) {
                    UNROLL
                    for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                        float& sum = sums.at[set][i];
                        sum = fused(factor.scale, products[set][i], sum);
                        products[set][i] = 0;
                        if (weights.has_minimum != 0) {
                            sum = fused(factor.minimum, input_sums[set][i], sum);
                            input_sums[set][i] = 0;
                        }
                    }
                }
            }
        }
    }
}

// Warps share the inputs of 16 outputs: warp w has tiles of inputs w, w + 8, ... in ascending order. The warps' sums
// are added in ascending order.
template <u32 BITS>
DEVICE void multiply_packed(const PackedProductArgs& args) {
    SHARED_ARRAY(float, PACKED_WARPS * BLOCK_ROWS * TILE_OUTPUTS, parts);
    const PackedMatrix& weights = args.weights;
    const u32 warp = threadIdx.x / WARP;
    const u32 lane = threadIdx.x % WARP;
    const u32 first_row = blockIdx.y * BLOCK_ROWS;
    const u32 column_sets = args.rows > first_row + COLUMNS ? 2 : 1;
    const u32 input_tiles = weights.inputs / TILE_INPUTS;
    ProductSums sums = {};
    for (u32 first = warp; first < input_tiles; first += AHEAD * PACKED_WARPS) {
        LaneTile<BITS> ahead[AHEAD];
        UNROLL
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 input_tile = first + i * PACKED_WARPS;
            if (input_tile < input_tiles) {
                ahead[i].load(weights, blockIdx.x, input_tile);
            }
        }
        UNROLL
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 input_tile = first + i * PACKED_WARPS;
            if (input_tile < input_tiles) {
                multiply_tile(args, ahead[i], input_tile, column_sets, sums);
            }
        }
    }
    UNROLL
    for (u32 set = 0; set < 2; set++) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            parts.set((warp * 8 + set * 4 + i) * WARP + lane, sums.at[set][i]);
        }
    }
    sync_block();
    // Thread 16 r + o has row r and output o.
    const u32 block_row = threadIdx.x / TILE_OUTPUTS;
    const u32 tile_output = threadIdx.x % TILE_OUTPUTS;
    const u32 from_lane = tile_output % 8 * 4 + block_row % COLUMNS / 2;
    const u32 from_sum = block_row / COLUMNS * 4 + tile_output / 8 * 2 + block_row % 2;
    float sum = parts.get(from_sum * WARP + from_lane);
    UNROLL
    for (u32 other = 1; other < PACKED_WARPS; other++) {
        sum = add(sum, parts.get((other * 8 + from_sum) * WARP + from_lane));
    }
    const u32 row = first_row + block_row;
    const u32 output = blockIdx.x * TILE_OUTPUTS + tile_output;
    if (row < args.rows && output < weights.outputs) {
        float* out = args.out + static_cast<u64>(row) * args.out_width + output;
        *out = args.add != 0 ? add(*out, sum) : sum;
    }
}

// x times the transposed weights. Grid: (outputs / 16, rows / 16), both rounded up.
KERNEL BOUNDS(256, 2) packed_product_8(const PackedProductArgs args) {
    multiply_packed<8>(args);
}

KERNEL BOUNDS(256, 2) packed_product_4(const PackedProductArgs args) {
    multiply_packed<4>(args);
}

struct PackedExpandArgs {
    PackedMatrix weights;
    u16* out;  // [output][inputs]
};

// Each weight rounded once, to bf16. Warps have a tile each.
template <u32 BITS>
DEVICE void expand_packed(const PackedExpandArgs& args) {
    const PackedMatrix& weights = args.weights;
    const u32 lane = threadIdx.x % WARP;
    const u32 input_tile = blockIdx.y * PACKED_WARPS + threadIdx.x / WARP;
    if (input_tile >= weights.inputs / TILE_INPUTS) {
        return;
    }
    LaneTile<BITS> tile;
    tile.load(weights, blockIdx.x, input_tile);
    UNROLL
    for (u32 step = 0; step < 2; step++) {
        UNROLL
        for (u32 half = 0; half < 2; half++) {
            const u32 tile_output = lane / 4 + 8 * half;
            const u32 output = blockIdx.x * TILE_OUTPUTS + tile_output;
            if (output < weights.outputs) {
                const Factor first = tile.factors.get(weights, 0, half);
                const Factor factor = weights.groups == 2 && step == 1 ? tile.factors.get(weights, 1, half) : first;
                const float minimum = weights.has_minimum != 0 ? factor.minimum : 0.0f;
                TwoWords four;
                UNROLL
                for (u32 i = 0; i < 2; i++) {
                    const u32 pair = tile.integers.pair(step, half + 2 * i, weights.zero);
                    const float low = fused(factor.scale, float_from_bf16(pair & 0xffff), minimum);
                    const float high = fused(factor.scale, float_from_bf16(pair >> 16), minimum);
                    four.at[i] = pack_bf16(low, high);
                }
                const u64 input = input_tile * TILE_INPUTS + 16 * step + lane % 4 * 4;
                store_8(args.out + static_cast<u64>(output) * weights.inputs + input, four);
            }
        }
    }
}

// All weights as bf16, for products of many rows. Grid: (outputs / 16, inputs / 256), both rounded up.
KERNEL BOUNDS(256, 1) packed_expand_8(const PackedExpandArgs args) {
    expand_packed<8>(args);
}

KERNEL BOUNDS(256, 1) packed_expand_4(const PackedExpandArgs args) {
    expand_packed<4>(args);
}
