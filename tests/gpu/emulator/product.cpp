// The product that a library computes on a card, in plain order.
#include <algorithm>
#include <cstring>
#include <vector>

#include "library.hpp"

namespace {

// Outputs that are computed together; each has its own sum.
constexpr u32 OUTPUTS = 16;
typedef float Eight __attribute__((vector_size(32), aligned(32)));

struct Sums {
    Eight low;
    Eight high;
};

float float_of(u16 bits) {
    const u32 wide = static_cast<u32>(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

}  // namespace

void emulated_product(const u16* weights, const u16* x, float* out, u32 outputs, u32 inputs, u32 rows, int add) {
    std::vector<Sums> panel(inputs);
    for (u32 first = 0; first < outputs; first += OUTPUTS) {
        const u32 count = std::min(OUTPUTS, outputs - first);
        memset(static_cast<void*>(panel.data()), 0, inputs * sizeof(Sums));
        for (u32 o = 0; o < count; o++) {
            const u16* row = weights + static_cast<size_t>(first + o) * inputs;
            for (u32 i = 0; i < inputs; i++) {
                (o < 8 ? panel[i].low : panel[i].high)[o % 8] = float_of(row[i]);
            }
        }
        for (u32 r = 0; r < rows; r++) {
            Sums sums = {};
            for (u32 i = 0; i < inputs; i++) {
                const float value = float_of(x[static_cast<size_t>(r) * inputs + i]);
                sums.low += value * panel[i].low;
                sums.high += value * panel[i].high;
            }
            for (u32 o = 0; o < count; o++) {
                float& to = out[static_cast<size_t>(r) * outputs + first + o];
                const float sum = o < 8 ? sums.low[o] : sums.high[o % 8];
                to = add != 0 ? to + sum : sum;
            }
        }
    }
}
