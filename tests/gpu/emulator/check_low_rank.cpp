// The kernels of low_rank.cu against sums in f64.
#include "check.hpp"

namespace check {
namespace {

constexpr u32 NONE = 0xffffffff;
constexpr u32 ADAPTERS = 3;
constexpr u32 MAX_RANK = 16;

struct Adapters {
    // A and B of each part, [adapter * 3 + part].
    std::vector<Memory<float>> a;
    std::vector<Memory<float>> b;
    Memory<low_rank::LowRankPart> parts;
};

// Parts have different ranks, and some have none. Their outputs lie side by side.
Adapters make_adapters(u32 inputs, const u32 (&outputs)[3], Random& random) {
    Adapters all;
    const u32 ranks[ADAPTERS][3] = {{16, 8, 0}, {1, 0, 5}, {4, 16, 3}};
    for (u32 adapter = 0; adapter < ADAPTERS; adapter++) {
        u32 first = 0;
        for (u32 part = 0; part < 3; part++) {
            const u32 rank = ranks[adapter][part];
            all.a.push_back(normals(random, rank * inputs));
            all.b.push_back(normals(random, rank * outputs[part]));
            all.parts.push_back({all.a.back().data(), all.b.back().data(), rank, first, outputs[part], 0});
            first += outputs[part];
        }
    }
    return all;
}

Memory<float> update(const Adapters& adapters, const Memory<u16>& x, const Memory<u32>& chosen, u32 inputs,
                     const Memory<float>& before) {
    const u32 rows = static_cast<u32>(chosen.size());
    const u32 width = static_cast<u32>(before.size()) / rows;
    Memory<float> inner(rows * 3 * MAX_RANK, NAN);
    low_rank::LowRankDownArgs down = {};
    down.x = x.data();
    down.parts = adapters.parts.data();
    down.adapters = chosen.data();
    down.inner = inner.data();
    down.inputs = inputs;
    down.max_rank = MAX_RANK;
    launch("low_rank_down", {rows, 3}, 128, 0, down);
    Memory<float> out = before;
    low_rank::LowRankUpArgs up = {};
    up.inner = inner.data();
    up.parts = adapters.parts.data();
    up.adapters = chosen.data();
    up.out = out.data();
    up.out_width = width;
    up.max_rank = MAX_RANK;
    launch("low_rank_up", {rows, 3, (width + 255) / 256}, 256, 0, up);
    return out;
}

void check_updates(u32 inputs, const u32 (&outputs)[3]) {
    Random random(inputs);
    const Adapters adapters = make_adapters(inputs, outputs, random);
    const Memory<u32> chosen = {2, NONE, 0, 1, 1, NONE, 2};
    const u32 rows = static_cast<u32>(chosen.size());
    const u32 width = outputs[0] + outputs[1] + outputs[2] + 5;
    const Memory<u16> x = normals_bf16(random, rows * inputs);
    const Memory<float> before = normals(random, rows * width);
    const auto after = in_all_orders([&] { return update(adapters, x, chosen, inputs, before); });
    for (u32 row = 0; row < rows; row++) {
        std::vector<double> expected(before.begin() + row * width, before.begin() + (row + 1) * width);
        std::vector<double> sizes(width, 1.0);
        for (u32 p = 0; p < 3 && chosen[row] != NONE; p++) {
            const low_rank::LowRankPart& part = adapters.parts[chosen[row] * 3 + p];
            for (u32 rank = 0; rank < part.rank; rank++) {
                double inner = 0;
                double size = 0;
                for (u32 i = 0; i < inputs; i++) {
                    const double weight = part.a[rank * inputs + i];
                    const double product = weight * from_bf16(x[row * inputs + i]);
                    inner += product;
                    size += std::fabs(product);
                }
                for (u32 o = 0; o < part.outputs; o++) {
                    expected[part.first_output + o] += inner * part.b[o * part.rank + rank];
                    sizes[part.first_output + o] += size * std::fabs(part.b[o * part.rank + rank]);
                }
            }
        }
        for (u32 o = 0; o < width; o++) {
            const u32 index = row * width + o;
            if (chosen[row] == NONE) {
                expect_same_bits("an output of a row without an adapter", index, after[index], before[index]);
            }
            expect_close("output", index, after[index], expected[o], 1e-6 * sizes[o]);
        }
        // The row by itself.
        const Memory<u16> x_alone(x.begin() + row * inputs, x.begin() + (row + 1) * inputs);
        const Memory<float> before_alone(before.begin() + row * width, before.begin() + (row + 1) * width);
        const Memory<float> alone = update(adapters, x_alone, {chosen[row]}, inputs, before_alone);
        expect(memcmp(alone.data(), &after[row * width], width * 4) == 0, "a row's update depends on its company");
    }
}

void updates() {
    check_updates(64, {32, 16, 16});
    check_updates(257, {300, 1, 7});
    check_updates(1028, {70, 513, 33});
    check_updates(3, {5, 6, 7});
}

}  // namespace

std::vector<Check> low_rank_checks() {
    return {{"low_rank: updates of rows with different adapters", updates}};
}

}  // namespace check
