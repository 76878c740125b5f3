// What the checks of the emulated kernels share.
#pragma once

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "library.hpp"
#include "memory.hpp"

namespace check {

// Numbers that are the same in every run.
class Random {
  public:
    explicit Random(u64 seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}

    u32 below(u32 bound) {
        return static_cast<u32>(next() % bound);
    }
    // Between -1 and 1.
    float uniform() {
        return static_cast<float>(static_cast<double>(next() >> 11) / 4503599627370496.0 - 1.0);
    }
    // About normally distributed.
    float normal() {
        float sum = 0;
        for (int i = 0; i < 6; i++) {
            sum += uniform();
        }
        return sum * 0.7071f;
    }
    template <class T>
    void shuffle(T& items) {
        for (size_t i = items.size(); i > 1; i--) {
            std::swap(items[i - 1], items[below(static_cast<u32>(i))]);
        }
    }

  private:
    u64 next() {
        state_ += 0x9e3779b97f4a7c15ull;
        u64 z = state_;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return z ^ (z >> 31);
    }

    u64 state_;
};

[[noreturn]] inline void fail(const std::string& what) {
    throw std::runtime_error(what);
}

inline void expect(bool holds, const std::string& what) {
    if (!holds) {
        fail(what);
    }
}

struct Grid {
    u32 x = 1;
    u32 y = 1;
    u32 z = 1;
};

// Launches a kernel, which must make no mistake.
template <class Args>
void launch(const std::string& kernel, Grid grid, u32 threads, u32 shared_bytes, const Args& args) {
    if (emulated_launch(kernel.c_str(), grid.x, grid.y, grid.z, threads, shared_bytes, &args) != 0) {
        fail(emulated_error());
    }
}

// Calls `body` with several orders of threads and both ways in which copies arrive; it returns results, which must have
// the same bits each time. Returns these.
template <class Body>
auto in_all_orders(const Body& body) {
    emulated_settings(1, 0);
    const auto first = body();
    for (u64 seed = 2; seed < 5; seed++) {
        emulated_settings(seed, seed % 2 == 0);
        const auto other = body();
        expect(memcmp(first.data(), other.data(), first.size() * sizeof(first[0])) == 0,
               "the bits depend on the order of threads, or on when copies arrive");
    }
    emulated_settings(1, 0);
    return first;
}

inline u16 to_bf16(float x) {
    return static_cast<u16>(pack_bf16(x, 0.0f) & 0xffff);
}
inline float from_bf16(u16 bits) {
    return float_from_bf16(bits);
}
constexpr u16 BF16_NAN = 0x7fc0;

inline std::string at(const char* what, size_t index, double found, double expected) {
    return std::string(what) + " " + std::to_string(index) + " is " + std::to_string(found) + " and should be " +
           std::to_string(expected);
}

inline void expect_close(const char* what, size_t index, double found, double expected, double tolerance) {
    const bool both_nan = std::isnan(found) && std::isnan(expected);
    const bool close = std::fabs(found - expected) <= tolerance || found == expected;
    expect(both_nan || close, at(what, index, found, expected));
}

inline void expect_same_bits(const char* what, size_t index, float found, float expected) {
    expect(bits_of_float(found) == bits_of_float(expected), at(what, index, found, expected));
}

inline Memory<float> normals(Random& random, size_t count) {
    Memory<float> values(count);
    for (float& value : values) {
        value = random.normal();
    }
    return values;
}

inline Memory<u16> normals_bf16(Random& random, size_t count) {
    Memory<u16> values(count);
    for (u16& value : values) {
        value = to_bf16(random.normal());
    }
    return values;
}

// A check and its name.
struct Check {
    const char* name;
    void (*run)();
};

std::vector<Check> row_checks();
std::vector<Check> attention_checks();
std::vector<Check> low_rank_checks();
std::vector<Check> logits_checks();
std::vector<Check> packed_checks();
std::vector<Check> noise_checks();
std::vector<Check> emulator_checks();

}  // namespace check
