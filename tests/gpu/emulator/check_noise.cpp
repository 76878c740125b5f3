// The kernel of noise.cu against splitmix64 as it is published: a generator that is asked for one word after the other.
#include "check.hpp"

namespace check {
namespace {

constexpr u16 UNTOUCHED = 0x1234;

// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
struct SplitMix64 {
    u64 state;
    u64 next() {
        state += 0x9e3779b97f4a7c15ull;
        u64 z = state;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }
};

Memory<u16> fill(u64 counter, u32 count, float scale, u32 room) {
    return in_all_orders([&] {
        Memory<u16> out(room, UNTOUCHED);
        launch("fill_noise", {(count + 1023) / 1024}, 256, 0, noise::FillNoiseArgs{out.data(), counter, count, scale});
        return out;
    });
}

void fill_noise() {
    for (u64 counter : {u64{0}, u64{1234567}, ~u64{0}}) {
        for (u32 count : {1u, 3u, 4u, 250u, 1024u, 1025u, 5003u}) {
            for (float scale : {1.0f, 0.0266f / 32768}) {
                const auto found = fill(counter, count, scale, count + 9);
                SplitMix64 generator{counter};
                u64 word = 0;
                for (u32 i = 0; i < count; i++) {
                    word = i % 4 == 0 ? generator.next() : word;
                    const float value = static_cast<float>(static_cast<int>(word >> 16 * (i % 4) & 0xffff) - 32768);
                    const u16 expected = to_bf16(value * scale);
                    expect(found[i] == expected, at("value", i, from_bf16(found[i]), from_bf16(expected)));
                }
                for (u32 i = count; i < count + 9; i++) {
                    expect(found[i] == UNTOUCHED, "something is written behind the last value");
                }
            }
        }
    }
}

// A launch that goes on where another one ended makes the same values as one launch for both.
void noise_in_pieces() {
    const auto whole = fill(77, 4096, 1.0f, 4096);
    const auto rest = fill(77 + 0x9e3779b97f4a7c15ull * 300, 4096 - 1200, 1.0f, 4096 - 1200);
    for (u32 i = 0; i < rest.size(); i++) {
        expect(rest[i] == whole[1200 + i], at("value", i, rest[i], whole[1200 + i]));
    }
}

}  // namespace

std::vector<Check> noise_checks() {
    return {
        {"noise: fill_noise", fill_noise},
        {"noise: in pieces", noise_in_pieces},
    };
}

}  // namespace check
