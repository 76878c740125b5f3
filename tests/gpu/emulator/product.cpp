// The product that a library computes on a card, in plain order.
#include <algorithm>
#include <cstring>
#include <vector>

#include "library.hpp"

namespace {

typedef float FourFloats __attribute__((vector_size(16)));
// Outputs that are computed together; each has its own sum.
constexpr u32 OUTPUTS = 16;

// What belongs to each output of a panel.
union Panel {
    FourFloats fours[OUTPUTS / 4];
    float at[OUTPUTS];
};

float float_of(u16 bits) {
    const u32 wide = static_cast<u32>(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

}  // namespace

void emulated_product(const u16* weights, const u16* x, float* out, u32 outputs, u32 inputs, u32 rows, int add) {
    std::vector<Panel> panel(inputs);
    for (u32 first = 0; first < outputs; first += OUTPUTS) {
        const u32 count = std::min(OUTPUTS, outputs - first);
        std::fill(panel.begin(), panel.end(), Panel());
        for (u32 o = 0; o < count; o++) {
            const u16* row = weights + static_cast<size_t>(first + o) * inputs;
            for (u32 i = 0; i < inputs; i++) {
                panel[i].at[o] = float_of(row[i]);
            }
        }
        for (u32 r = 0; r < rows; r++) {
            Panel sums = {};
            for (u32 i = 0; i < inputs; i++) {
                const float value = float_of(x[static_cast<size_t>(r) * inputs + i]);
                for (u32 four = 0; four < OUTPUTS / 4; four++) {
                    sums.fours[four] += value * panel[i].fours[four];
                }
            }
            for (u32 o = 0; o < count; o++) {
                float& to = out[static_cast<size_t>(r) * outputs + first + o];
                to = add != 0 ? to + sums.at[o] : sums.at[o];
            }
        }
    }
}
