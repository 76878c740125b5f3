// Attention against textbook softmax in f64.
#include <algorithm>

#include "check.hpp"

namespace check {
namespace {

using attention::AttentionArgs;
using attention::Tile;

constexpr u32 PAGE = 16;
constexpr u32 TILE_ROWS = 64;
constexpr u32 SEGMENT = 256;
constexpr u32 NO_BLOCK = 0xffffffffu;

// One sequence's rows of a batch.
struct SpanOfRows {
    u32 rows;
    u32 context;
};

struct Shape {
    u32 head;
    u32 heads;
    u32 kv_heads;
    u32 window = 0;
    float soft_cap = 0;
    // Queries are normally distributed times this.
    float spread = 1;

    u32 qkv_width() const { return (heads + 2 * kv_heads) * head; }
    u32 group() const { return heads / kv_heads; }
};

// A batch of sequences whose keys and values are in the cache. Several sequences may begin with the same blocks.
struct Batch {
    Shape shape;
    std::vector<SpanOfRows> spans;
    std::vector<u32> first_rows;
    std::vector<u32> table_begins;
    Memory<u32> tables;
    Memory<float> qkv;
    Memory<u16> keys;
    Memory<u16> values;
    u32 rows = 0;

    size_t slot(size_t span, u32 token, u32 kv_head) const {
        const u32 block = tables[table_begins[span] + token / PAGE];
        return ((static_cast<size_t>(block) * shape.kv_heads + kv_head) * PAGE + token % PAGE) * shape.head;
    }
};

u32 first_visible(u32 token, u32 window) {
    return window != 0 && token + 1 > window ? token + 1 - window : 0;
}

// `shared_tokens` are those that all sequences have in common; they are whole blocks.
Batch make_batch(const Shape& shape, const std::vector<SpanOfRows>& spans, u32 shared_tokens, Random& random) {
    Batch batch;
    batch.shape = shape;
    batch.spans = spans;
    u32 blocks = 3;
    std::vector<u32> order;
    for (const SpanOfRows& span : spans) {
        batch.first_rows.push_back(batch.rows);
        batch.rows += span.rows;
        blocks += (span.rows + span.context + PAGE - 1) / PAGE;
    }
    for (u32 block = 0; block < blocks; block++) {
        order.push_back(block);
    }
    random.shuffle(order);
    // What no sequence has is NaN.
    const size_t elements = static_cast<size_t>(blocks) * shape.kv_heads * PAGE * shape.head;
    batch.keys.assign(elements, BF16_NAN);
    batch.values.assign(elements, BF16_NAN);
    u32 used = 0;
    for (size_t s = 0; s < spans.size(); s++) {
        batch.table_begins.push_back(static_cast<u32>(batch.tables.size()));
        const u32 tokens = spans[s].rows + spans[s].context;
        // Blocks that end before the first token that any row sees are gone.
        const u32 first = first_visible(spans[s].context, shape.window);
        for (u32 begin = 0; begin < tokens; begin += PAGE) {
            const bool shared = s > 0 && begin < shared_tokens;
            if (begin + PAGE <= first) {
                batch.tables.push_back(NO_BLOCK);
            } else if (shared && batch.tables[begin / PAGE] != NO_BLOCK) {
                batch.tables.push_back(batch.tables[begin / PAGE]);
            } else {
                batch.tables.push_back(order[used]);
                used += 1;
            }
        }
        for (u32 token = first; token < tokens; token++) {
            for (u32 kv_head = 0; kv_head < shape.kv_heads; kv_head++) {
                const size_t at = batch.slot(s, token, kv_head);
                for (u32 d = 0; d < shape.head; d++) {
                    if (batch.keys[at + d] == BF16_NAN) {
                        batch.keys[at + d] = to_bf16(random.normal());
                        batch.values[at + d] = to_bf16(random.normal());
                    }
                }
            }
        }
    }
    // Keys and values of the batch's rows are read from the cache only.
    batch.qkv.assign(static_cast<size_t>(batch.rows) * shape.qkv_width(), NAN);
    for (u32 row = 0; row < batch.rows; row++) {
        for (u32 i = 0; i < shape.heads * shape.head; i++) {
            batch.qkv[static_cast<size_t>(row) * shape.qkv_width() + i] = shape.spread * random.normal();
        }
    }
    return batch;
}

// How a batch is launched.
struct Way {
    bool split;
    // Most rows of a chunk; each chunk is its sequence's next rows, launched by itself. 0: all rows at once.
    u32 chunk = 0;
};

// Launches attention for one piece of each sequence, and adds its rows to `out`.
void launch_attention(const Batch& batch, const std::vector<SpanOfRows>& pieces, const std::vector<u32>& first_rows,
                      bool split, Memory<u16>& out) {
    const Shape& shape = batch.shape;
    const u32 group = shape.group();
    Memory<Tile> tiles;
    u32 segments = 1;
    for (size_t s = 0; s < pieces.size(); s++) {
        const u32 query_rows = pieces[s].rows * group;
        for (u32 row = 0; row < query_rows; row += TILE_ROWS) {
            const u32 count = std::min(TILE_ROWS, query_rows - row);
            tiles.push_back({first_rows[s], row, count, pieces[s].context, batch.table_begins[s]});
        }
        if (query_rows > 0) {
            segments = std::max(segments, (pieces[s].rows + pieces[s].context - 1) / SEGMENT + 1);
        }
        // Batches are filled up with tiles that have nothing to do.
        tiles.push_back({0, 0, 0, 0, 0});
    }
    const size_t states = static_cast<size_t>(batch.rows) * shape.heads * segments;
    Memory<float> partial(split ? states * (shape.head + 2) : 0, NAN);
    AttentionArgs args = {};
    args.qkv = batch.qkv.data();
    args.keys = batch.keys.data();
    args.values = batch.values.data();
    args.tables = batch.tables.data();
    args.tiles = tiles.data();
    args.out = out.data();
    args.partial = partial.data();
    args.heads = shape.heads;
    args.kv_heads = shape.kv_heads;
    args.qkv_width = shape.qkv_width();
    args.window = shape.window;
    args.segments = segments;
    args.scale = 1 / std::sqrt(static_cast<float>(shape.head));
    args.soft_cap = shape.soft_cap;
    const u32 bytes = emulated_attention_shared_bytes(shape.head);
    const std::string head = std::to_string(shape.head);
    const u32 count = static_cast<u32>(tiles.size());
    if (split) {
        launch("attention_split_" + head, {count, shape.kv_heads, segments}, 128, bytes, args);
        launch("attention_fold_" + head, {count, shape.kv_heads, TILE_ROWS}, 32, 0, args);
    } else {
        launch("attention_whole_" + head, {count, shape.kv_heads, 1}, 128, bytes, args);
    }
}

Memory<u16> attend(const Batch& batch, Way way) {
    Memory<u16> out(static_cast<size_t>(batch.rows) * batch.shape.heads * batch.shape.head, BF16_NAN);
    if (way.chunk == 0) {
        launch_attention(batch, batch.spans, batch.first_rows, way.split, out);
        return out;
    }
    u32 longest = 0;
    for (const SpanOfRows& span : batch.spans) {
        longest = std::max(longest, span.rows);
    }
    for (u32 begin = 0; begin < longest; begin += way.chunk) {
        std::vector<SpanOfRows> pieces;
        std::vector<u32> first_rows;
        for (size_t s = 0; s < batch.spans.size(); s++) {
            const SpanOfRows& span = batch.spans[s];
            const u32 from = std::min(begin, span.rows);
            pieces.push_back({std::min(way.chunk, span.rows - from), span.context + from});
            first_rows.push_back(batch.first_rows[s] + from);
        }
        launch_attention(batch, pieces, first_rows, way.split, out);
    }
    return out;
}

// One head of one row, in f64.
std::vector<double> textbook(const Batch& batch, size_t span, u32 row, u32 head) {
    const Shape& shape = batch.shape;
    const u32 token = batch.spans[span].context + row;
    const u32 low = first_visible(token, shape.window);
    const u32 kv_head = head / shape.group();
    const size_t query = static_cast<size_t>(batch.first_rows[span] + row) * shape.qkv_width() + head * shape.head;
    std::vector<double> q;
    for (u32 d = 0; d < shape.head; d++) {
        q.push_back(from_bf16(to_bf16(batch.qkv[query + d])));
    }
    std::vector<double> scores;
    for (u32 t = low; t <= token; t++) {
        const size_t at = batch.slot(span, t, kv_head);
        double score = 0;
        for (u32 d = 0; d < shape.head; d++) {
            score += q[d] * from_bf16(batch.keys[at + d]);
        }
        score /= std::sqrt(static_cast<double>(shape.head));
        if (shape.soft_cap != 0) {
            score = shape.soft_cap * std::tanh(score / shape.soft_cap);
        }
        scores.push_back(score);
    }
    const double maximum = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& score : scores) {
        score = std::exp(score - maximum);
        sum += score;
    }
    std::vector<double> out(shape.head, 0.0);
    for (u32 t = low; t <= token; t++) {
        const size_t at = batch.slot(span, t, kv_head);
        for (u32 d = 0; d < shape.head; d++) {
            out[d] += scores[t - low] / sum * from_bf16(batch.values[at + d]);
        }
    }
    return out;
}

void expect_textbook(const Batch& batch, const Memory<u16>& out) {
    const Shape& shape = batch.shape;
    for (size_t s = 0; s < batch.spans.size(); s++) {
        for (u32 row = 0; row < batch.spans[s].rows; row++) {
            for (u32 head = 0; head < shape.heads; head++) {
                const std::vector<double> expected = textbook(batch, s, row, head);
                const size_t begin =
                    (static_cast<size_t>(batch.first_rows[s] + row) * shape.heads + head) * shape.head;
                double error = 0;
                double norm = 0;
                for (u32 d = 0; d < shape.head; d++) {
                    const double found = from_bf16(out[begin + d]);
                    error += (found - expected[d]) * (found - expected[d]);
                    norm += expected[d] * expected[d];
                }
                const double relative = std::sqrt(error / norm);
                expect(relative < 0.006, "head size " + std::to_string(shape.head) + ", span " + std::to_string(s) +
                                             ", row " + std::to_string(row) + ", head " + std::to_string(head) +
                                             ": relative error " + std::to_string(relative));
            }
        }
    }
}

bool has_whole(const Shape& shape) {
    return shape.head <= 128;
}

// All ways to compute a batch give the same bits, which are near the textbook's.
void check_batch(const Batch& batch) {
    const u64 conflicts = emulated_bank_conflicts();
    const Memory<u16> split = in_all_orders([&] { return attend(batch, {true}); });
    expect_textbook(batch, split);
    const auto expect_bits = [&](const Memory<u16>& other, const char* what) {
        expect(memcmp(split.data(), other.data(), split.size() * 2) == 0, what);
    };
    if (has_whole(batch.shape)) {
        const Memory<u16> whole = in_all_orders([&] { return attend(batch, {false}); });
        expect_bits(whole, "whole and split attention differ");
        expect_bits(attend(batch, {false, 7}), "whole attention differs when a prompt is cut into chunks");
    }
    expect_bits(attend(batch, {true, 5}), "split attention differs when a prompt is cut into chunks");
    expect(emulated_bank_conflicts() == conflicts, "reading tiles has conflicts of memory banks");
}

void check_shape(const Shape& shape, u64 seed) {
    Random random(seed);
    check_batch(make_batch(shape, {{1, 0}}, 0, random));
    check_batch(make_batch(shape, {{37, 0}, {1, 300}, {5, 513}, {1, 15}}, 0, random));
    // Some rows see nothing of a segment that other rows of their tile see.
    check_batch(make_batch(shape, {{20, 250}, {1, 255}, {1, 256}, {30, 345}}, 112, random));
}

template <u32 HEAD_SIZE>
void head_size() {
    check_shape({HEAD_SIZE, 4, 2}, HEAD_SIZE);
    // A window that ends inside of blocks, tiles and segments.
    check_shape({HEAD_SIZE, 2, 2, 100}, HEAD_SIZE + 1);
}

void groups() {
    check_shape({16, 8, 8}, 1);
    check_shape({16, 8, 1}, 2);
    check_shape({48, 6, 2}, 3);
    check_shape({16, 14, 2}, 4);
}

void windows() {
    const u32 all[] = {1, 2, 7, 16, 17, 63, 64, 65, 255, 256, 257, 600};
    for (u32 window : all) {
        check_shape({16, 4, 2, window}, window);
    }
}

// A row that sees itself only gets its own values.
void a_row_alone_gets_its_values() {
    Random random(5);
    for (u32 window : {0u, 1u}) {
        const Shape shape = {48, 2, 2, window};
        std::vector<SpanOfRows> spans = {{1, 0}};
        if (window == 1) {
            spans = {{9, 300}};
        }
        const Batch batch = make_batch(shape, spans, 0, random);
        for (bool split : {false, true}) {
            const Memory<u16> out = attend(batch, {split});
            for (u32 row = 0; row < spans[0].rows; row++) {
                for (u32 i = 0; i < shape.heads * shape.head; i++) {
                    const size_t slot = batch.slot(0, spans[0].context + row, i / shape.head);
                    const u16 expected = batch.values[slot + i % shape.head];
                    expect(out[row * shape.heads * shape.head + i] == expected, "a row does not get its own values");
                }
            }
        }
    }
}

void soft_caps() {
    check_shape({48, 2, 2, 0, 5.0f, 3}, 6);
    check_shape({16, 4, 2, 40, 50.0f, 8}, 7);
}

void soft_caps_of_large_heads() {
    check_shape({256, 2, 1, 0, 30.0f, 3}, 8);
}

// All tokens weigh the same, and the values of the first two segments cancel each other. In ascending order nothing is
// left of them; in any other order they leave the rounding of sums that are much larger than the third segment's.
void segments_are_folded_in_ascending_order() {
    Random random(13);
    const Shape shape = {48, 2, 1, 0, 0, 0};
    Batch batch = make_batch(shape, {{1, 700}}, 0, random);
    for (u32 token = 0; token <= 700; token++) {
        const size_t at = batch.slot(0, token, 0);
        for (u32 d = 0; d < shape.head; d++) {
            const float large = static_cast<float>(1000 + 8 * d);
            const float sizes[] = {large, -large, 0.01f * random.normal()};
            batch.values[at + d] = to_bf16(sizes[token / SEGMENT]);
        }
    }
    check_batch(batch);
}

// Scores of hundreds, and scores that hardly differ.
void extreme_scores() {
    check_shape({64, 2, 2, 0, 0, 100}, 9);
    check_shape({64, 2, 2, 0, 0, 1e-6f}, 10);
}

// A sequence's bits do not depend on which others are in the batch.
void company() {
    Random random(11);
    const Shape shape = {32, 4, 2, 70};
    const Batch batch = make_batch(shape, {{37, 0}, {3, 300}, {70, 513}, {1, 40}}, 32, random);
    const Memory<u16> together = attend(batch, {false});
    const size_t row_elements = shape.heads * shape.head;
    for (size_t s = 0; s < batch.spans.size(); s++) {
        for (bool split : {false, true}) {
            std::vector<SpanOfRows> alone(batch.spans.size(), SpanOfRows{0, 0});
            alone[s] = batch.spans[s];
            Memory<u16> out(together.size(), BF16_NAN);
            launch_attention(batch, alone, batch.first_rows, split, out);
            const size_t begin = batch.first_rows[s] * row_elements;
            const size_t bytes = batch.spans[s].rows * row_elements * 2;
            expect(memcmp(&out[begin], &together[begin], bytes) == 0, "a sequence's bits depend on its company");
        }
    }
}

// Shapes and batches at random.
void random_batches() {
    for (u64 seed = 0; seed < 12; seed++) {
        Random random(100 + seed);
        const u32 sizes[] = {16, 32, 48, 64, 80};
        const u32 kv_heads = 1 + random.below(3);
        Shape shape = {sizes[random.below(5)], kv_heads * (1 + random.below(5)), kv_heads};
        shape.window = random.below(2) == 0 ? 0 : 1 + random.below(400);
        shape.soft_cap = random.below(3) == 0 ? 20.0f : 0.0f;
        std::vector<SpanOfRows> spans;
        for (u32 i = 0; i < 1 + random.below(4); i++) {
            spans.push_back({1 + random.below(40), random.below(3) == 0 ? 0 : random.below(600)});
        }
        check_batch(make_batch(shape, spans, 16 * random.below(3), random));
    }
}

}  // namespace

std::vector<Check> attention_checks() {
    return {
        {"attention: head size 16", head_size<16>},
        {"attention: head size 32", head_size<32>},
        {"attention: head size 48", head_size<48>},
        {"attention: head size 64", head_size<64>},
        {"attention: head size 80", head_size<80>},
        {"attention: head size 96", head_size<96>},
        {"attention: head size 112", head_size<112>},
        {"attention: head size 128", head_size<128>},
        {"attention: head size 256", head_size<256>},
        {"attention: groups of heads", groups},
        {"attention: windows", windows},
        {"attention: a row alone gets its values", a_row_alone_gets_its_values},
        {"attention: soft caps", soft_caps},
        {"attention: large heads with soft caps", soft_caps_of_large_heads},
        {"attention: order of segments", segments_are_folded_in_ascending_order},
        {"attention: extreme scores", extreme_scores},
        {"attention: company", company},
        {"attention: random batches", random_batches},
    };
}

}  // namespace check
