// Reads rows of logits on the card, so that no row has to be sent to the host.
#include "device.cuh"

constexpr u32 LOGITS_THREADS = 512;
constexpr u32 LOGITS_WARPS = LOGITS_THREADS / WARP;

struct Probe {
    u32 first;  // where the row's tokens begin in `probe_tokens`
    u32 count;
};

struct RowReading {
    double log_sum_exp;
    float max;
    u32 most_likely;
    u32 sound;  // 0: the row has a NaN, a positive infinity, or nothing above negative infinity; the rest means nothing
    u32 pad;
};

struct ReadLogitsArgs {
    float* logits;            // [row][vocab]
    const Probe* probes;      // one for each row
    const u32* probe_tokens;  // tokens whose logits are asked for
    RowReading* readings;     // one for each row
    float* probe_logits;      // as `probe_tokens`
    u32 vocab;
    float scale;     // 1: logits stay as they are
    float soft_cap;  // 0: none
};

// The largest logit so far, and the lowest token that has it.
struct Largest {
    float logit;
    u32 token;
};

DEVICE Largest larger_of(Largest a, Largest b) {
    const bool second = b.logit > a.logit || (b.logit == a.logit && b.token < a.token);
    return second ? b : a;
}

// e^x for x of at most 0, with a relative error below 1e-14, and 0 below -708.
DEVICE double exponential_of_negative(double x) {
    if (!(x >= -708.0)) {
        return 0.0;
    }
    // 1.5 * 2^52: adding it rounds to an integer, which is then in the low bits.
    const double rounding = 6755399441055744.0;
    const double shifted = fused(x, 1.4426950408889634, rounding);
    const double n = add(shifted, -rounding);
    double r = fused(n, -0.6931471805599453, x);
    r = fused(n, -2.3190468138462996e-17, r);
    // Taylor's series around 0; r is at most 0.35.
    double p = 2.08767569878681e-9;
    p = fused(p, r, 2.505210838544172e-8);
    p = fused(p, r, 2.755731922398589e-7);
    p = fused(p, r, 2.7557319223985893e-6);
    p = fused(p, r, 2.48015873015873e-5);
    p = fused(p, r, 1.984126984126984e-4);
    p = fused(p, r, 1.388888888888889e-3);
    p = fused(p, r, 8.333333333333333e-3);
    p = fused(p, r, 4.1666666666666664e-2);
    p = fused(p, r, 0.16666666666666666);
    p = fused(p, r, 0.5);
    p = fused(p, r, 1.0);
    p = fused(p, r, 1.0);
    const double power = double_from_bits((bits_of_double(shifted) << 52) + 0x3ff0000000000000ull);
    return mul(p, power);
}

// Scales and caps logits in place, and finds what the host needs to know of a row. Grid: (rows).
KERNEL BOUNDS(512, 1) read_logits(const ReadLogitsArgs args) {
    SHARED_ARRAY(float, LOGITS_WARPS, warp_logits);
    SHARED_ARRAY(u32, LOGITS_WARPS, warp_tokens);
    SHARED_ARRAY(u32, LOGITS_WARPS, warp_faults);
    const u32 lane = threadIdx.x % WARP;
    const u32 vocab = args.vocab;
    float* row = args.logits + static_cast<u64>(blockIdx.x) * vocab;
    const bool changes = args.scale != 1.0f || args.soft_cap != 0.0f;
    Largest largest = {negative_infinity(), 0xffffffffu};
    u32 faults = 0;
    for (u32 first = 4 * threadIdx.x; first < vocab; first += 4 * LOGITS_THREADS) {
        Four four = load_four(row, first, vocab);
        if (changes) {
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                four.at[i] = mul(four.at[i], args.scale);
                if (args.soft_cap != 0.0f) {
                    four.at[i] = mul(args.soft_cap, hyperbolic_tangent(divide(four.at[i], args.soft_cap)));
                }
            }
            store_four(row, first, vocab, four);
        }
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            if (first + i < vocab) {
                // NaN is not smaller than anything.
                faults |= four.at[i] < positive_infinity() ? 0 : 1;
                if (four.at[i] > largest.logit) {
                    largest = {four.at[i], first + i};
                }
            }
        }
    }
    UNROLL
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) {
        const Largest other = {shuffle_xor(largest.logit, mask), shuffle_xor(largest.token, mask)};
        largest = larger_of(largest, other);
        faults |= shuffle_xor(faults, mask);
    }
    if (lane == 0) {
        warp_logits.set(threadIdx.x / WARP, largest.logit);
        warp_tokens.set(threadIdx.x / WARP, largest.token);
        warp_faults.set(threadIdx.x / WARP, faults);
    }
    // From here on all threads see the logits that others have changed, too.
    sync_block();
    largest = {warp_logits.get(0), warp_tokens.get(0)};
    faults = warp_faults.get(0);
    UNROLL
    for (u32 warp = 1; warp < LOGITS_WARPS; warp++) {
        largest = larger_of(largest, {warp_logits.get(warp), warp_tokens.get(warp)});
        faults |= warp_faults.get(warp);
    }
    const bool sound = faults == 0 && largest.logit > negative_infinity();
    double sum = 0;
    if (sound) {
        for (u32 first = 4 * threadIdx.x; first < vocab; first += 4 * LOGITS_THREADS) {
            const Four four = load_four(row, first, vocab);
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                if (first + i < vocab) {
                    const double difference = add(static_cast<double>(four.at[i]), -static_cast<double>(largest.logit));
                    sum = add(sum, exponential_of_negative(difference));
                }
            }
        }
    }
    sum = block_sum<LOGITS_THREADS>(sum);
    if (threadIdx.x == 0) {
        RowReading reading;
        reading.log_sum_exp = sound ? add(static_cast<double>(largest.logit), natural_logarithm(sum)) : 0.0;
        reading.max = sound ? largest.logit : 0.0f;
        reading.most_likely = sound ? largest.token : 0;
        reading.sound = sound ? 1 : 0;
        reading.pad = 0;
        args.readings[blockIdx.x] = reading;
    }
    const Probe probe = args.probes[blockIdx.x];
    for (u32 i = threadIdx.x; i < probe.count; i += LOGITS_THREADS) {
        const u32 token = args.probe_tokens[probe.first + i];
        args.probe_logits[probe.first + i] = token < vocab ? row[token] : negative_infinity();
    }
}

// Most logits that top_logits finds.
constexpr u32 MOST_TOP = 256;
// Bits of a key that one pass looks at, and the values that these can have.
constexpr u32 DIGIT_BITS = 8;
constexpr u32 DIGITS = 1 << DIGIT_BITS;

struct TopLogit {
    u32 token;
    float logit;
};

struct TopLogitsArgs {
    const float* logits;                 // [row][vocab]
    const double* inverse_temperatures;  // one for each row
    TopLogit* top;                       // [row][count]
    double* weights;                     // one for each row
    u32 vocab;
    u32 count;  // at most MOST_TOP, and at most `vocab`
};

// A number that is larger for a larger logit, and of equal logits for the lower token. NaN counts as -inf.
DEVICE u64 key_of(float logit, u32 token) {
    // Both zeros are equal.
    const float plain = logit == logit ? add(logit, 0.0f) : negative_infinity();
    const u32 bits = bits_of_float(plain);
    const u32 ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return static_cast<u64>(ordered) << 32 | ~token;
}

// The largest `count` logits of each row in descending order, equal ones by ascending token; and the row's weight, the sum
// of e^((logit - largest) / temperature) over all tokens. Rows that are not sound get something. Grid: (rows).
//
// Digit by digit, from the highest down, it counts the keys that begin as the smallest key of the result does, until
// the whole of that key is known. Keys are all different, so exactly `count` are at least as large.
KERNEL BOUNDS(512, 1) top_logits(const TopLogitsArgs args) {
    SHARED_ARRAY(u32, DIGITS, counts);
    SHARED_ARRAY(u32, 4, found);
    SHARED_ARRAY(u64, MOST_TOP, keys);
    const u32 thread = threadIdx.x;
    const float* row = args.logits + static_cast<u64>(blockIdx.x) * args.vocab;
    u64 prefix = 0;
    // Keys that begin with `prefix` and belong to the result.
    u32 wanted = args.count;
    for (u32 bit = 64; bit > 0;) {
        bit -= DIGIT_BITS;
        if (thread < DIGITS) {
            counts.set(thread, 0);
        }
        sync_block();
        for (u32 token = thread; token < args.vocab; token += LOGITS_THREADS) {
            const u64 key = key_of(row[token], token);
            const bool begins = bit + DIGIT_BITS == 64 || key >> (bit + DIGIT_BITS) == prefix;
            if (begins) {
                counts.add_atomic(static_cast<u32>(key >> bit) % DIGITS, 1);
            }
        }
        sync_block();
        if (thread == 0) {
            u32 digit = DIGITS - 1;
            u32 left = wanted;
            while (digit > 0 && counts.get(digit) < left) {
                left -= counts.get(digit);
                digit -= 1;
            }
            found.set(0, digit);
            found.set(1, left);
        }
        sync_block();
        prefix = prefix << DIGIT_BITS | found.get(0);
        wanted = found.get(1);
    }
    // Collect the keys in any order, and then sort them.
    if (thread == 0) {
        found.set(2, 0);
    }
    if (thread < MOST_TOP) {
        keys.set(thread, 0);
    }
    sync_block();
    for (u32 token = thread; token < args.vocab; token += LOGITS_THREADS) {
        const u64 key = key_of(row[token], token);
        if (key >= prefix) {
            keys.set(found.add_atomic(2, 1), key);
        }
    }
    sync_block();
    // Bitonic sort, in descending order: each thread has one pair in each step.
    for (u32 length = 2; length <= MOST_TOP; length *= 2) {
        for (u32 distance = length / 2; distance > 0; distance /= 2) {
            if (thread < MOST_TOP / 2) {
                const u32 low = 2 * thread - thread % distance;
                const u32 high = low + distance;
                const bool descending = (low & length) == 0;
                const u64 first = keys.get(low);
                const u64 second = keys.get(high);
                if ((first < second) == descending) {
                    keys.set(low, second);
                    keys.set(high, first);
                }
            }
            sync_block();
        }
    }
    if (thread < args.count) {
        const u32 token = ~static_cast<u32>(keys.get(thread));
        const float logit = token < args.vocab ? row[token] : negative_infinity();
        args.top[static_cast<u64>(blockIdx.x) * args.count + thread] = {token, logit};
    }
    const double largest = static_cast<double>(row[~static_cast<u32>(keys.get(0)) % args.vocab]);
    const double inverse_temperature = args.inverse_temperatures[blockIdx.x];
    double weight = 0;
    for (u32 token = thread; token < args.vocab; token += LOGITS_THREADS) {
        const double difference = add(static_cast<double>(row[token]), -largest);
        weight = add(weight, exponential_of_negative(mul(difference, inverse_temperature)));
    }
    weight = block_sum<LOGITS_THREADS>(weight);
    if (thread == 0) {
        args.weights[blockIdx.x] = weight;
    }
}
