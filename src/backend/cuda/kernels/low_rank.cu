// Low-rank updates of products (LoRA, arXiv 2106.09685), out += B . (A . x), where each row may have another adapter.
#include "device.cuh"

constexpr u32 DOWN_THREADS = 128;
constexpr u32 UP_THREADS = 256;
// The parts of one product's outputs that can have an update of their own: queries, keys and values, for example.
constexpr u32 PARTS = 3;
// The adapter of rows that have none.
constexpr u32 NO_ADAPTER = 0xffffffffu;

struct LowRankPart {
    const float* a;  // [rank][inputs]
    const float* b;  // [outputs][rank]
    u32 rank;        // 0: this part has no update
    u32 first_output;
    u32 outputs;
    u32 pad;
};

struct LowRankDownArgs {
    const u16* x;              // [row][inputs]
    const LowRankPart* parts;  // [adapter][PARTS]
    const u32* adapters;       // an adapter for each row, or NO_ADAPTER
    float* inner;              // [row][PARTS][max_rank]
    u32 inputs;
    u32 max_rank;
};

// A . x for each row and part: one warp for each rank at a time. Grid: (rows, PARTS).
KERNEL BOUNDS(128, 1) low_rank_down(const LowRankDownArgs args) {
    const u64 row = blockIdx.x;
    const u32 adapter = args.adapters[row];
    if (adapter == NO_ADAPTER) {
        return;
    }
    const LowRankPart part = args.parts[static_cast<u64>(adapter) * PARTS + blockIdx.y];
    const u16* x = args.x + row * args.inputs;
    const u32 lane = threadIdx.x % WARP;
    for (u32 rank = threadIdx.x / WARP; rank < part.rank; rank += DOWN_THREADS / WARP) {
        const float* a = part.a + static_cast<u64>(rank) * args.inputs;
        float sum = 0;
        for (u32 first = 4 * lane; first < args.inputs; first += 4 * WARP) {
            const Four inputs = load_four(x, first, args.inputs);
            const Four weights = load_four(a, first, args.inputs);
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                sum = fused(inputs.at[i], weights.at[i], sum);
            }
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            args.inner[(row * PARTS + blockIdx.y) * args.max_rank + rank] = sum;
        }
    }
}

struct LowRankUpArgs {
    const float* inner;        // [row][PARTS][max_rank]
    const LowRankPart* parts;  // [adapter][PARTS]
    const u32* adapters;
    float* out;  // [row][out_width]
    u32 out_width;
    u32 max_rank;
};

// Adds B . inner to each row's outputs: one thread for each output. Grid: (rows, PARTS, most outputs of a part / 256,
// rounded up).
KERNEL BOUNDS(256, 1) low_rank_up(const LowRankUpArgs args) {
    const u64 row = blockIdx.x;
    const u32 adapter = args.adapters[row];
    if (adapter == NO_ADAPTER) {
        return;
    }
    const LowRankPart part = args.parts[static_cast<u64>(adapter) * PARTS + blockIdx.y];
    const u32 output = blockIdx.z * UP_THREADS + threadIdx.x;
    if (part.rank == 0 || output >= part.outputs) {
        return;
    }
    const float* inner = args.inner + (row * PARTS + blockIdx.y) * args.max_rank;
    const float* b = part.b + static_cast<u64>(output) * part.rank;
    float sum = 0;
    for (u32 rank = 0; rank < part.rank; rank++) {
        sum = fused(b[rank], inner[rank], sum);
    }
    float* out = args.out + row * args.out_width + part.first_output + output;
    *out = add(*out, sum);
}
