// Kernels that go through rows of activations: embedding, norms, rotation and storing of keys and values, activations,
// biases, rounding. A row's results depend on that row alone.
#include "device.cuh"

constexpr u32 ROW_THREADS = 256;
// Elements of a row that one block of threads takes, in kernels that cut rows.
constexpr u32 PART = 4 * ROW_THREADS;
// Tokens in a block of the KV cache.
constexpr u32 CACHE_BLOCK = 16;
// The slot of rows that are there to fill up a batch.
constexpr u32 NO_SLOT = 0xffffffffu;

constexpr u32 LAYER_NORM = 1;
constexpr u32 SILU = 0;
constexpr u32 GELU = 1;

struct EmbedArgs {
    const u16* table;           // [vocabulary][width]
    const u16* position_table;  // [positions][width], or null
    const u32* tokens;
    const u32* positions;
    float* hidden;  // [row][width]
    u32 width;
    float scale;
};

// The embedding of each row's token, scaled, and that of its position added. Grid: (rows).
KERNEL BOUNDS(256, 1) embed(const EmbedArgs args) {
    const u32 row = blockIdx.x;
    const u16* token = args.table + static_cast<u64>(args.tokens[row]) * args.width;
    const u16* position = nullptr;
    if (args.position_table != nullptr) {
        position = args.position_table + static_cast<u64>(args.positions[row]) * args.width;
    }
    float* hidden = args.hidden + static_cast<u64>(row) * args.width;
    for (u32 first = 4 * threadIdx.x; first < args.width; first += PART) {
        Four four = load_four(token, first, args.width);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            four.at[i] = mul(four.at[i], args.scale);
        }
        if (position != nullptr) {
            Four added = load_four(position, first, args.width);
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                four.at[i] = add(four.at[i], added.at[i]);
            }
        }
        store_four(hidden, first, args.width, four);
    }
}

// A thread's part of the sum of a row, or of a head: fours `index`, `index + threads`, ... in ascending order.
DEVICE float partial_sum(const float* row, u32 width, u32 index, u32 threads) {
    float sum = 0;
    for (u32 first = 4 * index; first < width; first += 4 * threads) {
        Four four = load_four(row, first, width);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            sum = add(sum, four.at[i]);
        }
    }
    return sum;
}

// A thread's part of the sum of the squares of `x - mean`.
DEVICE float partial_sum_of_squares(const float* row, u32 width, float mean, u32 index, u32 threads) {
    float sum = 0;
    for (u32 first = 4 * index; first < width; first += 4 * threads) {
        Four four = load_four(row, first, width);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            float difference = first + i < width ? add(four.at[i], -mean) : 0.0f;
            sum = fused(difference, difference, sum);
        }
    }
    return sum;
}

// The factor that scales differences from the mean, from the sum of their squares.
DEVICE float norm_scale(float sum_of_squares, u32 width, float eps) {
    float variance = divide(sum_of_squares, static_cast<float>(width));
    return divide(1.0f, square_root(add(variance, eps)));
}

struct NormRowsArgs {
    const float* x;       // [row][width]
    const float* weight;  // [width]
    const float* bias;    // [width], or null
    u16* rounded;         // [row][width], or null: the norm is added to `sum`
    float* sum;           // [row][width]
    u32 width;
    u32 kind;  // 0: root mean square, 1: layer norm
    float eps;
};

// The norm of each row, rounded to bf16 for the next product or added to other rows. Grid: (rows).
KERNEL BOUNDS(256, 1) norm_rows(const NormRowsArgs args) {
    const u64 begin = static_cast<u64>(blockIdx.x) * args.width;
    const u32 width = args.width;
    const float* x = args.x + begin;
    float mean = 0;
    if (args.kind == LAYER_NORM) {
        float sum = block_sum<ROW_THREADS>(partial_sum(x, width, threadIdx.x, ROW_THREADS));
        mean = divide(sum, static_cast<float>(width));
    }
    float squares = block_sum<ROW_THREADS>(partial_sum_of_squares(x, width, mean, threadIdx.x, ROW_THREADS));
    const float scale = norm_scale(squares, width, args.eps);
    for (u32 first = 4 * threadIdx.x; first < width; first += PART) {
        Four four = load_four(x, first, width);
        Four weight = load_four(args.weight, first, width);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            four.at[i] = mul(mul(add(four.at[i], -mean), scale), weight.at[i]);
        }
        if (args.bias != nullptr) {
            Four bias = load_four(args.bias, first, width);
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                four.at[i] = add(four.at[i], bias.at[i]);
            }
        }
        if (args.rounded != nullptr) {
            store_four(args.rounded + begin, first, width, four);
        } else {
            Four sum = load_four(args.sum + begin, first, width);
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                sum.at[i] = add(sum.at[i], four.at[i]);
            }
            store_four(args.sum + begin, first, width, sum);
        }
    }
}

struct NormHeadsArgs {
    float* qkv;           // [row][qkv_width], heads first
    const float* weight;  // [heads that are normed][head_dim]
    u32 qkv_width;
    u32 head_dim;
    u32 kind;
    float eps;
};

// Norms heads in place, each by itself. Grid: (rows, heads), one warp for each head.
KERNEL BOUNDS(32, 1) norm_heads(const NormHeadsArgs args) {
    const u32 width = args.head_dim;
    const float* weight = args.weight + static_cast<u64>(blockIdx.y) * width;
    float* head = args.qkv + static_cast<u64>(blockIdx.x) * args.qkv_width + blockIdx.y * width;
    float mean = 0;
    if (args.kind == LAYER_NORM) {
        float sum = warp_sum(partial_sum(head, width, threadIdx.x, WARP));
        mean = divide(sum, static_cast<float>(width));
    }
    float squares = warp_sum(partial_sum_of_squares(head, width, mean, threadIdx.x, WARP));
    const float scale = norm_scale(squares, width, args.eps);
    for (u32 first = 4 * threadIdx.x; first < width; first += 4 * WARP) {
        Four four = load_four(head, first, width);
        Four weights = load_four(weight, first, width);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            four.at[i] = mul(mul(add(four.at[i], -mean), scale), weights.at[i]);
        }
        store_four(head, first, width, four);
    }
}

struct RopeStoreArgs {
    float* qkv;        // [row][queries | keys | values]
    const float* cos;  // [position][pairs]
    const float* sin;
    const u32* positions;
    const u32* slots;
    u16* keys;  // [block][kv_head][CACHE_BLOCK][head_dim]
    u16* values;
    u32 heads;
    u32 kv_heads;
    u32 head_dim;
    u32 pairs;        // rotated pairs of a head; 0: none
    u32 interleaved;  // whether pairs are neighbours, or `pairs` apart
};

// Two dimensions of a head after rotation, and where they are.
struct RotatedPair {
    u32 first;
    u32 second;
    float first_value;
    float second_value;
};

// Rotates pair `pair` of a head.
DEVICE RotatedPair rotate(const RopeStoreArgs& args, const float* head, u32 pair, u64 angles) {
    RotatedPair rotated;
    rotated.first = args.interleaved != 0 ? 2 * pair : pair;
    rotated.second = args.interleaved != 0 ? 2 * pair + 1 : pair + args.pairs;
    const float x = head[rotated.first];
    const float y = head[rotated.second];
    const float cos = args.cos[angles + pair];
    const float sin = args.sin[angles + pair];
    rotated.first_value = fused(x, cos, -mul(y, sin));
    rotated.second_value = fused(y, cos, mul(x, sin));
    return rotated;
}

DEVICE u16 round_to_bf16(float value) {
    return static_cast<u16>(pack_bf16(value, 0.0f) & 0xffff);
}

// Rotates queries in place, and writes rotated keys and values to the cache, rounded to bf16. Grid: (rows).
KERNEL BOUNDS(256, 1) rope_store(const RopeStoreArgs args) {
    const u32 row = blockIdx.x;
    const u32 head_dim = args.head_dim;
    float* queries = args.qkv + static_cast<u64>(row) * (args.heads + 2 * args.kv_heads) * head_dim;
    const u64 angles = static_cast<u64>(args.positions[row]) * args.pairs;
    for (u32 i = threadIdx.x; i < args.heads * args.pairs; i += ROW_THREADS) {
        float* head = queries + i / args.pairs * head_dim;
        RotatedPair rotated = rotate(args, head, i % args.pairs, angles);
        head[rotated.first] = rotated.first_value;
        head[rotated.second] = rotated.second_value;
    }
    const u32 slot = args.slots[row];
    if (slot == NO_SLOT) {
        return;
    }
    const float* keys = queries + args.heads * head_dim;
    const float* values = keys + args.kv_heads * head_dim;
    // Where the first head's dimensions of this slot begin, and the distance from head to head.
    const u32 stride = CACHE_BLOCK * head_dim;
    const u64 begin = static_cast<u64>(slot / CACHE_BLOCK) * args.kv_heads * stride + slot % CACHE_BLOCK * head_dim;
    for (u32 i = threadIdx.x; i < args.kv_heads * args.pairs; i += ROW_THREADS) {
        const u32 head = i / args.pairs;
        RotatedPair rotated = rotate(args, keys + head * head_dim, i % args.pairs, angles);
        u16* key = args.keys + begin + static_cast<u64>(head) * stride;
        key[rotated.first] = round_to_bf16(rotated.first_value);
        key[rotated.second] = round_to_bf16(rotated.second_value);
    }
    // The dimensions that are not rotated.
    const u32 rest = head_dim - 2 * args.pairs;
    for (u32 i = threadIdx.x; i < args.kv_heads * rest; i += ROW_THREADS) {
        const u32 head = i / rest;
        const u32 dimension = 2 * args.pairs + i % rest;
        u16* key = args.keys + begin + static_cast<u64>(head) * stride;
        key[dimension] = round_to_bf16(keys[head * head_dim + dimension]);
    }
    for (u32 i = threadIdx.x; i < args.kv_heads * head_dim; i += ROW_THREADS) {
        const u32 head = i / head_dim;
        u16* value = args.values + begin + static_cast<u64>(head) * stride;
        value[i % head_dim] = round_to_bf16(values[i]);
    }
}

// x * the normal distribution's share below x, by Abramowitz and Stegun's 7.1.26, with the CPU's bits.
DEVICE float gelu(float x) {
    float magnitude = float_from_bits(bits_of_float(x) & 0x7fffffffu);
    float z = mul(magnitude, 0.70710678f);
    float t = divide(1.0f, fused(0.3275911f, z, 1.0f));
    float p = 0.5307027f;
    p = fused(p, t, -0.726576f);
    p = fused(p, t, 0.7107069f);
    p = fused(p, t, -0.14224837f);
    p = fused(p, t, 0.1274148f);
    float tail = mul(mul(p, t), exponential(mul(-z, z)));
    return mul(x, x < 0.0f ? tail : add(1.0f, -tail));
}

// gelu with its approximation by tanh. x/2 * (1 + tanh(y)) is x / (1 + e^(-2y)).
DEVICE float gelu_tanh(float x) {
    float inner = fused(mul(mul(x, x), 0.044715f), x, x);
    return divide(x, add(1.0f, exponential(mul(-1.595769f, inner))));
}

DEVICE float activate_one(float x, u32 activation) {
    if (activation == SILU) {
        return divide(x, add(1.0f, exponential(-x)));
    }
    if (activation == GELU) {
        return gelu(x);
    }
    return gelu_tanh(x);
}

struct GateArgs {
    const float* gate_up;  // [row][gate | up]
    u16* gated;            // [row][width]
    u32 width;
    u32 activation;  // 0: silu, 1: gelu, 2: gelu by tanh
};

// activation(gate) * up, rounded to bf16 for the next product. Grid: (rows, parts of 1024 elements).
KERNEL BOUNDS(256, 1) gate(const GateArgs args) {
    const u64 row = blockIdx.x;
    const u32 first = blockIdx.y * PART + 4 * threadIdx.x;
    if (first >= args.width) {
        return;
    }
    const float* gates = args.gate_up + 2 * row * args.width;
    Four four = load_four(gates, first, args.width);
    Four up = load_four(gates + args.width, first, args.width);
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        four.at[i] = mul(activate_one(four.at[i], args.activation), up.at[i]);
    }
    store_four(args.gated + row * args.width, first, args.width, four);
}

struct ActivateArgs {
    float* rows;  // [row][width]
    u32 width;
    u32 activation;
};

// The activation of each element, in place. Grid: (rows, parts of 1024 elements).
KERNEL BOUNDS(256, 1) activate(const ActivateArgs args) {
    const u32 first = blockIdx.y * PART + 4 * threadIdx.x;
    if (first >= args.width) {
        return;
    }
    float* row = args.rows + static_cast<u64>(blockIdx.x) * args.width;
    Four four = load_four(row, first, args.width);
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        four.at[i] = activate_one(four.at[i], args.activation);
    }
    store_four(row, first, args.width, four);
}

struct AddBiasArgs {
    float* rows;        // [row][width]
    const float* bias;  // [width]
    u32 width;
};

// Adds a bias to each row. Grid: (rows, parts of 1024 elements).
KERNEL BOUNDS(256, 1) add_bias(const AddBiasArgs args) {
    const u32 first = blockIdx.y * PART + 4 * threadIdx.x;
    if (first >= args.width) {
        return;
    }
    float* row = args.rows + static_cast<u64>(blockIdx.x) * args.width;
    Four four = load_four(row, first, args.width);
    Four bias = load_four(args.bias, first, args.width);
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        four.at[i] = add(four.at[i], bias.at[i]);
    }
    store_four(row, first, args.width, four);
}

struct RoundRowsArgs {
    const float* x;  // [row][width]
    u16* rounded;    // [row][width]
    u32 width;
};

// Rounds rows to bf16 for the next product. Grid: (rows, parts of 1024 elements).
KERNEL BOUNDS(256, 1) round_rows(const RoundRowsArgs args) {
    const u32 first = blockIdx.y * PART + 4 * threadIdx.x;
    if (first >= args.width) {
        return;
    }
    const u64 begin = static_cast<u64>(blockIdx.x) * args.width;
    store_four(args.rounded + begin, first, args.width, load_four(args.x + begin, first, args.width));
}

struct KeepRowsArgs {
    u32* rows;           // [row][words]
    const u32* indices;  // ascending, without repetition
    u32 count;
    u32 words;  // 32-bit words of a row
};

// Row i becomes what row `indices[i]` was. Indices ascend, so row i is read by nobody after it is written. A thread has
// one word of all rows, so threads need not wait for one another. Grid: (words / 256, rounded up).
KERNEL BOUNDS(256, 1) keep_rows(const KeepRowsArgs args) {
    const u32 word = blockIdx.x * ROW_THREADS + threadIdx.x;
    if (word >= args.words) {
        return;
    }
    for (u32 i = 0; i < args.count; i++) {
        const u64 from = static_cast<u64>(args.indices[i]) * args.words + word;
        args.rows[static_cast<u64>(i) * args.words + word] = args.rows[from];
    }
}
