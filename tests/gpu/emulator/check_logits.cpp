// The kernels of logits.cu against plain loops in f64.
#include <algorithm>

#include "check.hpp"

namespace check {
namespace {

using logits::Probe;
using logits::ReadLogitsArgs;
using logits::RowReading;

struct ReadRows {
    Memory<float> logits;
    Memory<RowReading> readings;
    Memory<float> probed;
};

struct Reader {
    u32 vocab;
    float scale = 1;
    float soft_cap = 0;
    Memory<Probe> probes;
    Memory<u32> tokens;

    ReadRows read(const Memory<float>& before) const {
        ReadRows rows;
        rows.logits = before;
        rows.readings.resize(probes.size());
        memset(static_cast<void*>(rows.readings.data()), 0x55, probes.size() * sizeof(RowReading));
        rows.probed.assign(tokens.size(), NAN);
        ReadLogitsArgs args = {};
        args.logits = rows.logits.data();
        args.probes = probes.data();
        args.probe_tokens = tokens.data();
        args.readings = rows.readings.data();
        args.probe_logits = rows.probed.data();
        args.vocab = vocab;
        args.scale = scale;
        args.soft_cap = soft_cap;
        launch("read_logits", {static_cast<u32>(probes.size())}, 512, 0, args);
        return rows;
    }
};

void expect_readings(const Reader& reader, const Memory<float>& before) {
    const ReadRows rows = reader.read(before);
    in_all_orders([&] { return reader.read(before).readings; });
    in_all_orders([&] { return reader.read(before).probed; });
    const bool changes = reader.scale != 1 || reader.soft_cap != 0;
    for (size_t row = 0; row < reader.probes.size(); row++) {
        const float* found = &rows.logits[row * reader.vocab];
        double sum = 0;
        bool sound = true;
        u32 most_likely = 0;
        for (u32 i = 0; i < reader.vocab; i++) {
            const float logit = before[row * reader.vocab + i];
            if (changes) {
                double expected = static_cast<double>(logit) * reader.scale;
                if (reader.soft_cap != 0) {
                    expected = reader.soft_cap * std::tanh(expected / reader.soft_cap);
                }
                expect_close("logit", i, found[i], expected, 1e-6 * (1 + std::fabs(expected)) * (1 + reader.soft_cap));
            } else {
                expect(bits_of_float(found[i]) == bits_of_float(logit), "a logit changes that should not");
            }
            sound = sound && found[i] < INFINITY;
            most_likely = found[i] > found[most_likely] ? i : most_likely;
        }
        const float max = found[most_likely];
        sound = sound && max > -INFINITY;
        const RowReading& reading = rows.readings[row];
        expect(reading.sound == (sound ? 1u : 0u), "row " + std::to_string(row) + " is taken for sound, or is not");
        if (sound) {
            for (u32 i = 0; i < reader.vocab; i++) {
                sum += std::exp(static_cast<double>(found[i]) - max);
            }
            expect(reading.most_likely == most_likely, at("most likely of row", row, reading.most_likely, most_likely));
            expect(reading.max == max, at("largest logit of row", row, reading.max, max));
            expect_close("log-sum-exp of row", row, reading.log_sum_exp, max + std::log(sum), 1e-12);
        }
        for (u32 j = 0; j < reader.probes[row].count; j++) {
            const u32 index = reader.probes[row].first + j;
            const u32 token = reader.tokens[index];
            const float expected = token < reader.vocab ? found[token] : -INFINITY;
            expect_same_bits("probed logit", index, rows.probed[index], expected);
        }
    }
}

Reader make_reader(u32 vocab, size_t rows, Random& random) {
    Reader reader;
    reader.vocab = vocab;
    for (size_t row = 0; row < rows; row++) {
        const u32 counts[] = {0, 2, 700};
        const u32 count = counts[row % 3];
        reader.probes.push_back({static_cast<u32>(reader.tokens.size()), count});
        for (u32 j = 0; j < count; j++) {
            const u32 tokens[] = {random.below(vocab), vocab - 1, vocab, 0xffffffff};
            reader.tokens.push_back(tokens[random.below(j < 2 ? 2 : 4)]);
        }
    }
    return reader;
}

void plain_rows() {
    for (u32 vocab : {1u, 2u, 31u, 513u, 2048u, 2051u, 32003u}) {
        Random random(vocab);
        Reader reader = make_reader(vocab, 3, random);
        Memory<float> before = normals(random, 3 * vocab);
        for (float& logit : before) {
            logit *= 8;
        }
        expect_readings(reader, before);
        reader.scale = 0.25f;
        expect_readings(reader, before);
        reader.soft_cap = 3;
        expect_readings(reader, before);
        reader.scale = 1;
        expect_readings(reader, before);
    }
}

// A NaN or an infinity anywhere is found; masked tokens are no fault; the first of several largest logits counts.
void faults_and_ties() {
    const u32 vocab = 1531;
    Random random(3);
    const float faults[] = {NAN, -NAN, INFINITY};
    for (u32 token : {0u, 3u, 511u, 1024u, 1529u, 1530u}) {
        Reader reader = make_reader(vocab, 6, random);
        Memory<float> before = normals(random, 6 * vocab);
        for (u32 row = 0; row < 3; row++) {
            before[row * vocab + token] = faults[row];
        }
        // All masked, all but one masked, and three largest ones.
        std::fill(before.begin() + 3 * vocab, before.begin() + 5 * vocab, -INFINITY);
        before[4 * vocab + token] = -7;
        for (u32 other : {1530u, token, 700u}) {
            before[5 * vocab + other] = 20;
        }
        expect_readings(reader, before);
    }
    Reader reader = make_reader(5, 2, random);
    expect_readings(reader, {-0.0f, 0.0f, -1, -0.0f, 0, 0.0f, -0.0f, -INFINITY, -3e38f, -3.4e38f});
}

void expect_top(const Memory<float>& row, u32 vocab, u32 count) {
    const size_t rows = row.size() / vocab;
    Memory<double> inverse_temperatures;
    for (size_t r = 0; r < rows; r++) {
        const double several[] = {1, 1 / 0.7, 0.5, 40};
        inverse_temperatures.push_back(several[r % 4]);
    }
    Memory<double> weights(rows, NAN);
    const auto top = in_all_orders([&] {
        Memory<logits::TopLogit> found(rows * count, {77777777, NAN});
        const logits::TopLogitsArgs args = {
            row.data(), inverse_temperatures.data(), found.data(), weights.data(), vocab, count};
        launch("top_logits", {static_cast<u32>(rows)}, 512, 0, args);
        return found;
    });
    for (size_t r = 0; r < rows; r++) {
        std::vector<u32> order(vocab);
        for (u32 i = 0; i < vocab; i++) {
            order[i] = i;
        }
        const float* logit = &row[r * vocab];
        const auto value = [&](u32 i) { return std::isnan(logit[i]) ? -INFINITY : logit[i]; };
        std::stable_sort(order.begin(), order.end(), [&](u32 a, u32 b) { return value(a) > value(b); });
        for (u32 i = 0; i < count; i++) {
            const logits::TopLogit found = top[r * count + i];
            expect(found.token == order[i], at("token of rank", i, found.token, order[i]));
            const float expected = logit[order[i]];
            expect(bits_of_float(found.logit) == bits_of_float(expected), "a value is not its token's");
        }
        const double largest = logit[order[0]];
        double weight = 0;
        for (u32 i = 0; i < vocab; i++) {
            weight += std::exp((logit[i] - largest) * inverse_temperatures[r]);
        }
        if (std::isfinite(weight)) {
            expect_close("weight of row", r, weights[r], weight, 1e-12 * weight);
        }
    }
}

void top() {
    Random random(17);
    for (u32 vocab : {1u, 5u, 256u, 300u, 5003u, 32003u}) {
        for (u32 count : {1u, 2u, 40u, 255u, 256u}) {
            if (count <= vocab) {
                expect_top(normals(random, 2 * vocab), vocab, count);
            }
        }
    }
    // Many equal ones, of which some belong to the result and some do not.
    Memory<float> ties(3 * 3000);
    for (float& logit : ties) {
        const float values[] = {1, 2, 0.0f, -0.0f, -1, -INFINITY, NAN};
        logit = values[random.below(7)];
    }
    expect_top(ties, 3000, 256);
    for (float& logit : ties) {
        const float values[] = {0.0f, -0.0f, -1, -INFINITY, NAN};
        logit = values[random.below(5)];
    }
    expect_top(ties, 3000, 256);
    Memory<float> same(1000, -2.5f);
    expect_top(same, 1000, 100);
    same[999] = INFINITY;
    same[3] = -3e38f;
    expect_top(same, 1000, 256);
}

}  // namespace

std::vector<Check> logits_checks() {
    return {
        {"logits: read_logits, plain rows", plain_rows},
        {"logits: read_logits, faults and ties", faults_and_ties},
        {"logits: top_logits", top},
    };
}

}  // namespace check
