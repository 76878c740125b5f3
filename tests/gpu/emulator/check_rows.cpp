// The kernels of rows.cu against plain loops.
#include "check.hpp"

namespace check {
namespace {

// Widths with and without tails, and rows that are not aligned.
const u32 WIDTHS[] = {1, 3, 4, 17, 64, 1000, 1026, 2051, 4100};

u32 parts(u32 width) {
    return (width + 1023) / 1024;
}

void embed() {
    for (u32 width : WIDTHS) {
        for (bool with_positions : {false, true}) {
            Random random(width);
            const u32 vocabulary = 11;
            const u32 rows = 5;
            const Memory<u16> table = normals_bf16(random, vocabulary * width);
            const Memory<u16> position_table = normals_bf16(random, 7 * width);
            const Memory<u32> tokens = {3, 0, 10, 3, 0};
            const Memory<u32> positions = {0, 6, 2, 5, 0};
            const auto hidden = in_all_orders([&] {
                Memory<float> out(rows * width, NAN);
                rows::EmbedArgs args = {};
                args.table = table.data();
                args.position_table = with_positions ? position_table.data() : nullptr;
                args.tokens = tokens.data();
                args.positions = positions.data();
                args.hidden = out.data();
                args.width = width;
                args.scale = 1.7f;
                launch("embed", {rows}, 256, 0, args);
                return out;
            });
            for (u32 row = 0; row < rows; row++) {
                for (u32 i = 0; i < width; i++) {
                    float expected = from_bf16(table[tokens[row] * width + i]) * 1.7f;
                    if (with_positions) {
                        expected += from_bf16(position_table[positions[row] * width + i]);
                    }
                    expect_same_bits("hidden", row * width + i, hidden[row * width + i], expected);
                }
            }
        }
    }
}

// A norm in f64.
std::vector<double> textbook_norm(const float* x, const float* weight, u32 width, u32 kind, float eps) {
    double mean = 0;
    if (kind == 1) {
        for (u32 i = 0; i < width; i++) {
            mean += x[i];
        }
        mean /= width;
    }
    double variance = 0;
    for (u32 i = 0; i < width; i++) {
        variance += (x[i] - mean) * (x[i] - mean);
    }
    variance /= width;
    std::vector<double> out;
    for (u32 i = 0; i < width; i++) {
        out.push_back((x[i] - mean) / std::sqrt(variance + eps) * weight[i]);
    }
    return out;
}

struct NormCase {
    u32 width;
    u32 kind;
    bool biased;
};

void check_norm(NormCase one) {
    const u32 width = one.width;
    Random random(width + one.kind);
    const u32 rows = 4;
    Memory<float> x = normals(random, rows * width);
    for (u32 i = 0; i < rows * width; i++) {
        // A mean far from 0, for which one pass over squares would not do; and values so small that eps matters.
        x[i] = i < width ? x[i] * 1e-3f : x[i] + 50;
    }
    const Memory<float> weight = normals(random, width);
    const Memory<float> bias = normals(random, width);
    const Memory<float> before = normals(random, rows * width);
    rows::NormRowsArgs args = {};
    args.x = x.data();
    args.weight = weight.data();
    args.bias = one.biased ? bias.data() : nullptr;
    args.width = width;
    args.kind = one.kind;
    args.eps = 1e-5f;
    const auto normed = in_all_orders([&] {
        Memory<float> out(rows * width, 0);
        args.sum = out.data();
        launch("norm_rows", {rows}, 256, 0, args);
        return out;
    });
    Memory<float> sums = before;
    args.sum = sums.data();
    launch("norm_rows", {rows}, 256, 0, args);
    Memory<u16> rounded(rows * width, BF16_NAN);
    args.rounded = rounded.data();
    args.sum = nullptr;
    launch("norm_rows", {rows}, 256, 0, args);
    // One row by itself.
    Memory<u16> last(width, BF16_NAN);
    args.x = x.data() + (rows - 1) * width;
    args.rounded = last.data();
    launch("norm_rows", {1}, 256, 0, args);
    for (u32 row = 0; row < rows; row++) {
        const std::vector<double> expected = textbook_norm(&x[row * width], weight.data(), width, one.kind, 1e-5f);
        for (u32 i = 0; i < width; i++) {
            const size_t index = row * width + i;
            const double value = expected[i] + (one.biased ? bias[i] : 0.0f);
            expect_close("norm", index, normed[index], value, 2e-5 * (1 + std::fabs(value)));
            expect_same_bits("sum", index, sums[index], before[index] + normed[index]);
            expect(rounded[index] == to_bf16(normed[index]), "the rounded norm is not the one that is added");
        }
    }
    expect(memcmp(last.data(), &rounded[(rows - 1) * width], width * 2) == 0, "a row's norm depends on its company");
}

void norm_rows() {
    for (u32 width : WIDTHS) {
        for (u32 kind : {0u, 1u}) {
            for (bool biased : {false, true}) {
                check_norm({width, kind, biased});
            }
        }
    }
}

void norm_heads() {
    for (u32 head_dim : {16u, 48u, 64u, 128u, 256u}) {
        for (u32 kind : {0u, 1u}) {
            Random random(head_dim);
            const u32 rows = 3;
            const u32 normed = 5;
            const u32 width = 8 * head_dim;
            const Memory<float> before = normals(random, rows * width);
            const Memory<float> weight = normals(random, normed * head_dim);
            const auto after = in_all_orders([&] {
                Memory<float> qkv = before;
                launch("norm_heads", {rows, normed}, 32, 0,
                       rows::NormHeadsArgs{qkv.data(), weight.data(), width, head_dim, kind, 1e-6f});
                return qkv;
            });
            for (u32 row = 0; row < rows; row++) {
                for (u32 head = 0; head < 8; head++) {
                    const u32 begin = row * width + head * head_dim;
                    if (head >= normed) {
                        const bool same = memcmp(&after[begin], &before[begin], head_dim * 4) == 0;
                        expect(same, "a head that is not normed changes");
                        continue;
                    }
                    const std::vector<double> expected =
                        textbook_norm(&before[begin], &weight[head * head_dim], head_dim, kind, 1e-6f);
                    for (u32 i = 0; i < head_dim; i++) {
                        const double tolerance = 1e-5 * (1 + std::fabs(expected[i]));
                        expect_close("head", begin + i, after[begin + i], expected[i], tolerance);
                    }
                }
            }
        }
    }
}

struct RopeCase {
    u32 head_dim;
    u32 pairs;
    u32 interleaved;
};

void check_rope(RopeCase one) {
    Random random(one.head_dim + one.pairs);
    const u32 heads = 5;
    const u32 kv_heads = 2;
    const u32 rows = 6;
    const u32 blocks = 4;
    const u32 head_dim = one.head_dim;
    const u32 width = (heads + 2 * kv_heads) * head_dim;
    const Memory<float> before = normals(random, rows * width);
    const Memory<float> cos = normals(random, 9 * one.pairs + 1);
    const Memory<float> sin = normals(random, 9 * one.pairs + 1);
    const Memory<u32> positions = {8, 0, 3, 3, 0, 7};
    // Two of the rows are there to fill up the batch.
    const Memory<u32> slots = {63, 0xffffffff, 0, 17, 0xffffffff, 30};
    const size_t cache = static_cast<size_t>(blocks) * kv_heads * 16 * head_dim;
    struct Result {
        Memory<float> qkv;
        Memory<u16> keys;
        Memory<u16> values;
    };
    const auto run = [&] {
        Result result = {before, Memory<u16>(cache, BF16_NAN), Memory<u16>(cache, BF16_NAN)};
        rows::RopeStoreArgs args = {};
        args.qkv = result.qkv.data();
        args.cos = cos.data();
        args.sin = sin.data();
        args.positions = positions.data();
        args.slots = slots.data();
        args.keys = result.keys.data();
        args.values = result.values.data();
        args.heads = heads;
        args.kv_heads = kv_heads;
        args.head_dim = head_dim;
        args.pairs = one.pairs;
        args.interleaved = one.interleaved;
        launch("rope_store", {rows}, 256, 0, args);
        return result;
    };
    const Result result = run();
    in_all_orders([&] { return run().qkv; });
    in_all_orders([&] { return run().keys; });
    Memory<float> rotated = before;
    for (u32 row = 0; row < rows; row++) {
        for (u32 head = 0; head < heads + kv_heads; head++) {
            float* x = &rotated[row * width + head * head_dim];
            for (u32 j = 0; j < one.pairs; j++) {
                const u32 first = one.interleaved != 0 ? 2 * j : j;
                const u32 second = one.interleaved != 0 ? 2 * j + 1 : j + one.pairs;
                const float c = cos[positions[row] * one.pairs + j];
                const float s = sin[positions[row] * one.pairs + j];
                const float a = x[first];
                const float b = x[second];
                x[first] = std::fma(a, c, -(b * s));
                x[second] = std::fma(b, c, a * s);
            }
        }
    }
    Memory<u16> keys(cache, BF16_NAN);
    Memory<u16> values(cache, BF16_NAN);
    for (u32 row = 0; row < rows; row++) {
        for (u32 i = 0; i < heads * head_dim; i++) {
            expect_same_bits("query", row * width + i, result.qkv[row * width + i], rotated[row * width + i]);
        }
        if (slots[row] == 0xffffffff) {
            continue;
        }
        for (u32 head = 0; head < kv_heads; head++) {
            for (u32 d = 0; d < head_dim; d++) {
                const size_t at = ((slots[row] / 16 * kv_heads + head) * 16 + slots[row] % 16) * head_dim + d;
                keys[at] = to_bf16(rotated[row * width + (heads + head) * head_dim + d]);
                values[at] = to_bf16(rotated[row * width + (heads + kv_heads + head) * head_dim + d]);
            }
        }
    }
    expect(memcmp(keys.data(), result.keys.data(), cache * 2) == 0, "the cache has other keys");
    expect(memcmp(values.data(), result.values.data(), cache * 2) == 0, "the cache has other values");
}

void rope_store() {
    for (u32 head_dim : {16u, 48u, 64u, 128u}) {
        for (u32 interleaved : {0u, 1u}) {
            for (u32 pairs : {0u, head_dim / 8, head_dim / 2}) {
                check_rope({head_dim, pairs, interleaved});
            }
        }
    }
}

double definition(u32 activation, double x) {
    if (activation == 0) {
        return x / (1 + std::exp(-x));
    }
    if (activation == 1) {
        return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    }
    const double inner = std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
    return x / 2 * (1 + std::tanh(inner));
}

// Values of all sizes, and those at the edges.
Memory<float> wide_values(Random& random, size_t count) {
    Memory<float> values = normals(random, count);
    for (size_t i = 0; i < count; i++) {
        const float sizes[] = {1, 4, 12, 100, 1e-3f, 1e-20f, 1e30f};
        values[i] *= sizes[i % 7];
    }
    const float edges[] = {0.0f, -0.0f, NAN, 87.5f, -87.5f, 1e-40f};
    for (size_t i = 0; i < 6 && i < count; i++) {
        values[i] = edges[i];
    }
    return values;
}

void activations() {
    for (u32 width : WIDTHS) {
        for (u32 activation : {0u, 1u, 2u}) {
            Random random(width);
            const u32 rows = 3;
            const Memory<float> before = wide_values(random, rows * width);
            const auto active = in_all_orders([&] {
                Memory<float> x = before;
                launch("activate", {rows, parts(width)}, 256, 0, rows::ActivateArgs{x.data(), width, activation});
                return x;
            });
            Memory<float> gate_up(2 * rows * width);
            for (u32 row = 0; row < rows; row++) {
                for (u32 i = 0; i < width; i++) {
                    gate_up[2 * row * width + i] = before[row * width + i];
                    gate_up[(2 * row + 1) * width + i] = random.normal();
                }
            }
            const auto gated = in_all_orders([&] {
                Memory<u16> out(rows * width, 0x1234);
                rows::GateArgs args = {gate_up.data(), out.data(), width, activation};
                launch("gate", {rows, parts(width)}, 256, 0, args);
                return out;
            });
            for (u32 row = 0; row < rows; row++) {
                for (u32 i = 0; i < width; i++) {
                    const u32 index = row * width + i;
                    const double expected = definition(activation, before[index]);
                    expect_close("activation", index, active[index], expected, 1e-6 * (1 + std::fabs(expected)));
                    const float up = gate_up[(2 * row + 1) * width + i];
                    const u16 rounded = to_bf16(active[index] * up);
                    expect(gated[index] == rounded, at("gated", index, from_bf16(gated[index]), from_bf16(rounded)));
                }
            }
        }
    }
}

void add_bias_and_round() {
    for (u32 width : WIDTHS) {
        Random random(width);
        const u32 rows = 3;
        const Memory<float> before = wide_values(random, rows * width);
        const Memory<float> bias = normals(random, width);
        const auto biased = in_all_orders([&] {
            Memory<float> x = before;
            launch("add_bias", {rows, parts(width)}, 256, 0, rows::AddBiasArgs{x.data(), bias.data(), width});
            return x;
        });
        const auto rounded = in_all_orders([&] {
            Memory<u16> out(rows * width, 0x1234);
            launch("round_rows", {rows, parts(width)}, 256, 0, rows::RoundRowsArgs{before.data(), out.data(), width});
            return out;
        });
        for (u32 i = 0; i < rows * width; i++) {
            expect_same_bits("biased", i, biased[i], before[i] + bias[i % width]);
            expect(rounded[i] == to_bf16(before[i]), at("rounded", i, from_bf16(rounded[i]), before[i]));
        }
    }
}

void rounding_is_to_nearest_even() {
    const struct {
        u32 bits;
        u16 rounded;
    } cases[] = {
        {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0x7f7fffff, 0x7f80},
        {0x80000000, 0x8000}, {0xff800000, 0xff80}, {0x00008000, 0x0000}, {0x00018000, 0x0002}, {0x7f800001, 0x7fff},
    };
    for (const auto& one : cases) {
        expect(to_bf16(float_from_bits(one.bits)) == one.rounded, "rounding to bf16 is wrong");
        expect(pack_bf16(1.0f, float_from_bits(one.bits)) == (0x3f80u | static_cast<u32>(one.rounded) << 16),
               "packing two bf16 is wrong");
    }
}

void keep_rows() {
    for (u32 words : {1u, 7u, 256u, 300u, 1031u}) {
        for (const Memory<u32>& indices : {Memory<u32>{0, 1, 2}, Memory<u32>{9}, Memory<u32>{0, 3, 4, 8, 9}}) {
            Memory<u32> before(10 * words);
            for (u32 i = 0; i < before.size(); i++) {
                before[i] = i * 7919;
            }
            const u32 count = static_cast<u32>(indices.size());
            const auto after = in_all_orders([&] {
                Memory<u32> rows = before;
                launch("keep_rows", {(words + 255) / 256}, 256, 0,
                       rows::KeepRowsArgs{rows.data(), indices.data(), count, words});
                return rows;
            });
            for (u32 i = 0; i < 10 * words; i++) {
                const u32 row = i / words;
                const u32 expected = row < count ? before[indices[row] * words + i % words] : before[i];
                expect(after[i] == expected, at("word", i, after[i], expected));
            }
        }
    }
}

}  // namespace

std::vector<Check> row_checks() {
    return {
        {"rows: embed", embed},
        {"rows: norm_rows", norm_rows},
        {"rows: norm_heads", norm_heads},
        {"rows: rope_store", rope_store},
        {"rows: activate and gate", activations},
        {"rows: add_bias and round_rows", add_bias_and_round},
        {"rows: rounding is to nearest even", rounding_is_to_nearest_even},
        {"rows: keep_rows", keep_rows},
    };
}

}  // namespace check
