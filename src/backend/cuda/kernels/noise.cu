// Made-up weights, made where they are used: a model whose files are not at hand is there in seconds, and nothing is copied.
#include "device.cuh"

constexpr u32 NOISE_THREADS = 256;

// As in random.rs, which says where they are from.
constexpr u64 STEP = 0x9e3779b97f4a7c15ull;
constexpr u64 FIRST_FACTOR = 0xbf58476d1ce4e5b9ull;
constexpr u64 SECOND_FACTOR = 0x94d049bb133111ebull;

struct FillNoiseArgs {
    u16* out;     // [count], bf16
    u64 counter;  // of the first word
    u32 count;
    float scale;  // of values from -32768 to 32767
};

// The word that SplitMix64 makes of a counter.
DEVICE u64 mix(u64 counter) {
    u64 word = counter + STEP;
    word = (word ^ word >> 30) * FIRST_FACTOR;
    word = (word ^ word >> 27) * SECOND_FACTOR;
    return word ^ word >> 31;
}

// Four values of each word, with the host's bits. Grid: (values / 1024, rounded up).
KERNEL BOUNDS(256, 1) fill_noise(const FillNoiseArgs args) {
    const u32 index = blockIdx.x * NOISE_THREADS + threadIdx.x;
    const u32 first = 4 * index;
    if (first >= args.count) {
        return;
    }
    const u64 word = mix(args.counter + STEP * index);
    Four four;
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        const int value = static_cast<int>(word >> (16 * i) & 0xffff) - 32768;
        four.at[i] = mul(static_cast<float>(value), args.scale);
    }
    store_four(args.out, first, args.count, four);
}
