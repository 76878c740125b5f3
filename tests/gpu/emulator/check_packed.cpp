// The kernels of packed.cu against products in f64 with weights that are unpacked by their definition.
#include "check.hpp"

namespace check {
namespace {

using packed::PackedMatrix;

constexpr u32 TILE = 16;
constexpr u32 TILE_INPUTS = 32;
constexpr u32 BASE_INPUTS = 256;

// One of the formats of quantised weights in model files, as far as the kernels know it.
struct Format {
    const char* name;
    u32 bits;
    // The least and the largest integer.
    int least;
    int most;
    u32 zero;
    // Neighbouring weights with one scale.
    u32 group;
    bool has_minimum;
    // Whether scales are a base for 256 weights times a step.
    bool has_steps;
};

const Format FORMATS[] = {
    {"q8_0", 8, -128, 127, 128, 32, false, false}, {"q5_1", 8, 0, 31, 128, 32, true, false},
    {"q6_k", 8, -32, 31, 128, 16, false, true},    {"q5_k", 8, 0, 31, 128, 32, true, true},
    {"q4_0", 4, -8, 7, 8, 32, false, false},       {"q4_1", 4, 0, 15, 0, 32, true, false},
    {"q4_k", 4, 0, 15, 0, 32, true, true},         {"q2_k", 4, 0, 3, 0, 16, true, true},
};

// Weights as a file has them, and as the kernels want them.
struct Weights {
    Format format;
    u32 outputs;
    u32 inputs;
    std::vector<float> scales;    // [output][group]
    std::vector<float> minimums;  // [output][group]
    std::vector<int> integers;    // [output][input]
    Memory<u32> packed;
    Memory<u32> factors;
    Memory<u32> bases;
    PackedMatrix matrix;

    float scale(u32 output, u32 input) const {
        return scales[output * (inputs / format.group) + input / format.group];
    }
    float minimum(u32 output, u32 input) const {
        return minimums[output * (inputs / format.group) + input / format.group];
    }
};

// A positive number in f16, between 2^-9 and 2^-7.
u32 random_half(Random& random) {
    return (6 + random.below(2)) << 10 | random.below(1024);
}

// Puts the integers where lanes expect them.
void pack_integers(Weights& weights) {
    const Format& format = weights.format;
    const u32 words = format.bits / 2;
    const u32 tiles = (weights.outputs + TILE - 1) / TILE;
    const u32 input_tiles = weights.inputs / TILE_INPUTS;
    weights.packed.assign(static_cast<size_t>(tiles) * input_tiles * 32 * words, 0);
    for (u32 output = 0; output < weights.outputs; output++) {
        for (u32 input = 0; input < weights.inputs; input++) {
            const u32 stored = static_cast<u32>(weights.integers[output * weights.inputs + input]) + format.zero;
            const u32 in_tile = input % TILE_INPUTS;
            const u32 step = in_tile / 16;
            const u32 place = in_tile % 16 / 4;
            const u32 pair = output % TILE / 8 + in_tile % 4 / 2 * 2;
            const u32 half = in_tile % 2;
            const u32 lane = output % 8 * 4 + place;
            const size_t tile = static_cast<size_t>(output / TILE) * input_tiles + input / TILE_INPUTS;
            const u32 word = format.bits == 8 ? 2 * step + pair / 2 : step;
            const u32 shift = format.bits == 8 ? 8 * (pair % 2 + 2 * half) : 4 * (pair + 4 * half);
            weights.packed[(tile * 32 + lane) * words + word] |= stored << shift;
        }
    }
}

Weights make_weights(const Format& format, u32 outputs, u32 inputs, Random& random) {
    Weights weights;
    weights.format = format;
    weights.outputs = outputs;
    weights.inputs = inputs;
    for (u32 i = 0; i < outputs * inputs; i++) {
        const u32 range = static_cast<u32>(format.most - format.least + 1);
        weights.integers.push_back(format.least + static_cast<int>(random.below(range)));
    }
    const u32 tiles = (outputs + TILE - 1) / TILE;
    const u32 groups = inputs / format.group;
    const size_t factors = static_cast<size_t>(tiles) * groups * TILE;
    const size_t base_tiles = inputs / BASE_INPUTS;
    // What fills up the last tile is garbage.
    weights.factors.assign(format.has_steps ? factors / 2 : factors, 0x7fff7fff);
    weights.bases.assign(format.has_steps ? tiles * base_tiles * TILE : 0, 0x7fff7fff);
    for (u32 output = 0; output < outputs; output++) {
        u32 base = 0;
        for (u32 group = 0; group < groups; group++) {
            const size_t at = (static_cast<size_t>(output / TILE) * groups + group) * TILE + output % TILE;
            if (!format.has_steps) {
                // Minimums are negative. Formats without them have anything there.
                const u32 both = random_half(random) | (random_half(random) | 0x8000) << 16;
                weights.factors[at] = both;
                weights.scales.push_back(float_from_f16(both & 0xffff));
                weights.minimums.push_back(float_from_f16(both >> 16));
                continue;
            }
            if (group * format.group % BASE_INPUTS == 0) {
                base = random_half(random) | (random_half(random) | 0x8000) << 16;
                const size_t base_tile = output / TILE * base_tiles + group * format.group / BASE_INPUTS;
                weights.bases[base_tile * TILE + output % TILE] = base;
            }
            const int step = static_cast<int>(random.below(256)) - 128;
            const u32 minimum_step = random.below(64);
            const u16 both = static_cast<u16>((static_cast<u32>(step) & 0xff) | minimum_step << 8);
            memcpy(reinterpret_cast<u8*>(weights.factors.data()) + at * 2, &both, 2);
            weights.scales.push_back(float_from_f16(base & 0xffff) * static_cast<float>(step));
            weights.minimums.push_back(float_from_f16(base >> 16) * static_cast<float>(minimum_step));
        }
    }
    if (!format.has_minimum) {
        std::fill(weights.minimums.begin(), weights.minimums.end(), 0.0f);
    }
    pack_integers(weights);
    PackedMatrix& matrix = weights.matrix;
    matrix.integers = weights.packed.data();
    matrix.factors = weights.factors.data();
    matrix.bases = format.has_steps ? weights.bases.data() : nullptr;
    matrix.outputs = outputs;
    matrix.inputs = inputs;
    matrix.zero = format.zero;
    matrix.groups = TILE_INPUTS / format.group;
    matrix.has_minimum = format.has_minimum ? 1 : 0;
    matrix.pad = 0;
    return weights;
}

std::string kernel(const char* name, const Format& format) {
    return std::string(name) + "_" + std::to_string(format.bits);
}

constexpr u32 SPARE = 3;

// The product, in rows that are longer than the outputs.
Memory<float> multiply(const Weights& weights, const Memory<u16>& x, const Memory<float>& before, u32 add) {
    Memory<float> out = before;
    const u32 rows = static_cast<u32>(x.size()) / weights.inputs;
    packed::PackedProductArgs args = {};
    args.weights = weights.matrix;
    args.x = x.data();
    args.out = out.data();
    args.rows = rows;
    args.out_width = weights.outputs + SPARE;
    args.add = add;
    const Grid grid = {(weights.outputs + TILE - 1) / TILE, (rows + 15) / 16, 1};
    launch(kernel("packed_product", weights.format), grid, 256, 0, args);
    return out;
}

void check_product(const Weights& weights, u32 rows, u32 add, Random& random) {
    const u32 inputs = weights.inputs;
    const u32 width = weights.outputs + SPARE;
    const Memory<u16> x = normals_bf16(random, rows * inputs);
    const Memory<float> before = normals(random, rows * width);
    const auto out = in_all_orders([&] { return multiply(weights, x, before, add); });
    for (u32 row = 0; row < rows; row++) {
        for (u32 output = 0; output < width; output++) {
            const u32 index = row * width + output;
            if (output >= weights.outputs) {
                expect_same_bits("an element behind the outputs", index, out[index], before[index]);
                continue;
            }
            double expected = add != 0 ? before[index] : 0.0;
            double size = std::fabs(expected);
            for (u32 input = 0; input < inputs; input++) {
                const double scale = weights.scale(output, input);
                const double integer = weights.integers[output * inputs + input];
                const double minimum = weights.minimum(output, input);
                const double value = from_bf16(x[row * inputs + input]);
                expected += (scale * integer + minimum) * value;
                size += (std::fabs(scale * integer) + std::fabs(minimum)) * std::fabs(value);
            }
            expect_close(weights.format.name, index, out[index], expected, 1e-6 * size);
        }
        const Memory<u16> x_alone(x.begin() + row * inputs, x.begin() + (row + 1) * inputs);
        const Memory<float> before_alone(before.begin() + row * width, before.begin() + (row + 1) * width);
        const Memory<float> alone = multiply(weights, x_alone, before_alone, add);
        expect(memcmp(alone.data(), &out[row * width], width * 4) == 0, "a row's product depends on its company");
    }
}

void check_expansion(const Weights& weights) {
    const u32 inputs = weights.inputs;
    const auto out = in_all_orders([&] {
        Memory<u16> expanded(weights.outputs * inputs, BF16_NAN);
        const packed::PackedExpandArgs args = {weights.matrix, expanded.data()};
        const Grid grid = {(weights.outputs + TILE - 1) / TILE, (inputs + 255) / 256, 1};
        launch(kernel("packed_expand", weights.format), grid, 256, 0, args);
        return expanded;
    });
    for (u32 output = 0; output < weights.outputs; output++) {
        for (u32 input = 0; input < inputs; input++) {
            const u32 index = output * inputs + input;
            const float integer = static_cast<float>(weights.integers[index]);
            const float weight = std::fma(weights.scale(output, input), integer, weights.minimum(output, input));
            const u16 expected = to_bf16(weight);
            expect(out[index] == expected, at(weights.format.name, index, from_bf16(out[index]), from_bf16(expected)));
        }
    }
}

void products() {
    for (const Format& format : FORMATS) {
        Random random(format.bits + format.zero + format.group);
        // Fewer tiles of inputs than warps, and more than a warp loads ahead; a last tile of outputs that is not full.
        check_product(make_weights(format, 21, 256, random), 3, 0, random);
        check_product(make_weights(format, 16, 1280, random), 9, 1, random);
        check_product(make_weights(format, 5, 512, random), 18, 0, random);
    }
    // Widths that are no multiple of 256, which formats without bases have.
    Random random(3);
    check_product(make_weights(FORMATS[0], 37, 96, random), 8, 1, random);
    check_product(make_weights(FORMATS[4], 16, 32, random), 16, 0, random);
}

void expansions() {
    for (const Format& format : FORMATS) {
        Random random(format.bits + format.zero + format.group);
        check_expansion(make_weights(format, 21, 512, random));
    }
    Random random(4);
    check_expansion(make_weights(FORMATS[0], 3, 96, random));
    check_expansion(make_weights(FORMATS[5], 16, 32, random));
}

// Every integer that a byte and a nibble can hold.
void integers_are_exact() {
    for (u32 byte = 0; byte < 256; byte++) {
        packed::Integers<8> integers;
        integers.words = {{byte << 8, byte << 16, byte, byte << 24}};
        const float expected = static_cast<float>(byte) - 128;
        expect_same_bits("byte", byte, float_from_bf16(integers.pair(0, 1, 0) & 0xffff), expected);
        expect_same_bits("byte", byte, float_from_bf16(integers.pair(0, 2, 0) >> 16), expected);
        expect_same_bits("byte", byte, float_from_bf16(integers.pair(1, 0, 0) & 0xffff), expected);
        expect_same_bits("byte", byte, float_from_bf16(integers.pair(1, 3, 0) >> 16), expected);
    }
    for (u32 nibble = 0; nibble < 16; nibble++) {
        for (u32 zero : {0u, 8u}) {
            packed::Integers<4> integers;
            integers.words = {{nibble << 8, nibble << 16}};
            const float expected = static_cast<float>(nibble) - static_cast<float>(zero);
            expect_same_bits("nibble", nibble, float_from_bf16(integers.pair(0, 2, zero) & 0xffff), expected);
            expect_same_bits("nibble", nibble, float_from_bf16(integers.pair(1, 0, zero) >> 16), expected);
        }
    }
}

}  // namespace

std::vector<Check> packed_checks() {
    return {
        {"packed: integers are exact", integers_are_exact},
        {"packed: products", products},
        {"packed: expansion to bf16", expansions},
    };
}

}  // namespace check
