// The shared library of emulated kernels.
//
// g++ -std=c++17 -O2 -ffp-contract=off -fPIC -shared -I src/backend/cuda/kernels -I tests/gpu/emulator
//     tests/gpu/emulator/{library,attention,product,machine,fiber}.cpp -o libemulated.so
#include "library.hpp"

#include <atomic>
#include <cstring>
#include <string>

#include "arguments.hpp"
#include "machine.hpp"
#include "registry.hpp"

namespace {

#define PLAIN(space, kernel, args) {#kernel, registry::run_kernel<space::args, space::kernel>}

const registry::Kernel KERNELS[] = {
    PLAIN(rows, embed, EmbedArgs),
    PLAIN(rows, norm_rows, NormRowsArgs),
    PLAIN(rows, norm_heads, NormHeadsArgs),
    PLAIN(rows, rope_store, RopeStoreArgs),
    PLAIN(rows, gate, GateArgs),
    PLAIN(rows, activate, ActivateArgs),
    PLAIN(rows, add_bias, AddBiasArgs),
    PLAIN(rows, round_rows, RoundRowsArgs),
    PLAIN(rows, keep_rows, KeepRowsArgs),
    PLAIN(low_rank, low_rank_down, LowRankDownArgs),
    PLAIN(low_rank, low_rank_up, LowRankUpArgs),
    PLAIN(logits, read_logits, ReadLogitsArgs),
    PLAIN(logits, top_logits, TopLogitsArgs),
    PLAIN(packed, packed_product_8, PackedProductArgs),
    PLAIN(packed, packed_product_4, PackedProductArgs),
    PLAIN(packed, packed_expand_8, PackedExpandArgs),
    PLAIN(packed, packed_expand_4, PackedExpandArgs),
    PLAIN(noise, fill_noise, FillNoiseArgs),
};

std::atomic<u64> seed{1};
std::atomic<bool> eager_copies{false};
thread_local std::string error;

// Writes the layout of structs as JSON.
class Layout {
  public:
    void begin(const char* name, size_t size) {
        text_ += text_.empty() ? "{" : "}}, ";
        text_ += quoted(name) + ": {\"size\": " + std::to_string(size) + ", \"fields\": {";
        first_ = true;
    }
    void field(const char* name, size_t offset) {
        text_ += (first_ ? "" : ", ") + quoted(name) + ": " + std::to_string(offset);
        first_ = false;
    }
    std::string finish() { return text_ + "}}}"; }

  private:
    static std::string quoted(const char* name) { return "\"" + std::string(name) + "\""; }

    std::string text_;
    bool first_ = true;
};

#define BEGIN(space, name)     \
    using Struct = space::name; \
    layout.begin(#name, sizeof(Struct))
#define FIELD(name) layout.field(#name, offsetof(Struct, name))

void add_row_kernels(Layout& layout) {
    {
        BEGIN(rows, EmbedArgs);
        FIELD(table);
        FIELD(position_table);
        FIELD(tokens);
        FIELD(positions);
        FIELD(hidden);
        FIELD(width);
        FIELD(scale);
    }
    {
        BEGIN(rows, NormRowsArgs);
        FIELD(x);
        FIELD(weight);
        FIELD(bias);
        FIELD(rounded);
        FIELD(sum);
        FIELD(width);
        FIELD(kind);
        FIELD(eps);
    }
    {
        BEGIN(rows, NormHeadsArgs);
        FIELD(qkv);
        FIELD(weight);
        FIELD(qkv_width);
        FIELD(head_dim);
        FIELD(kind);
        FIELD(eps);
    }
    {
        BEGIN(rows, RopeStoreArgs);
        FIELD(qkv);
        FIELD(cos);
        FIELD(sin);
        FIELD(positions);
        FIELD(slots);
        FIELD(keys);
        FIELD(values);
        FIELD(heads);
        FIELD(kv_heads);
        FIELD(head_dim);
        FIELD(pairs);
        FIELD(interleaved);
    }
    {
        BEGIN(rows, GateArgs);
        FIELD(gate_up);
        FIELD(gated);
        FIELD(width);
        FIELD(activation);
    }
    {
        BEGIN(rows, ActivateArgs);
        FIELD(rows);
        FIELD(width);
        FIELD(activation);
    }
    {
        BEGIN(rows, AddBiasArgs);
        FIELD(rows);
        FIELD(bias);
        FIELD(width);
    }
    {
        BEGIN(rows, RoundRowsArgs);
        FIELD(x);
        FIELD(rounded);
        FIELD(width);
    }
    {
        BEGIN(rows, KeepRowsArgs);
        FIELD(rows);
        FIELD(indices);
        FIELD(count);
        FIELD(words);
    }
}

void add_attention(Layout& layout) {
    {
        BEGIN(attention, Tile);
        FIELD(first_row);
        FIELD(sequence_row);
        FIELD(rows);
        FIELD(context);
        FIELD(table);
    }
    {
        BEGIN(attention, AttentionArgs);
        FIELD(qkv);
        FIELD(keys);
        FIELD(values);
        FIELD(tables);
        FIELD(tiles);
        FIELD(out);
        FIELD(partial);
        FIELD(heads);
        FIELD(kv_heads);
        FIELD(qkv_width);
        FIELD(window);
        FIELD(segments);
        FIELD(scale);
        FIELD(soft_cap);
    }
}

void add_low_rank(Layout& layout) {
    {
        BEGIN(low_rank, LowRankPart);
        FIELD(a);
        FIELD(b);
        FIELD(rank);
        FIELD(first_output);
        FIELD(outputs);
        FIELD(pad);
    }
    {
        BEGIN(low_rank, LowRankDownArgs);
        FIELD(x);
        FIELD(parts);
        FIELD(adapters);
        FIELD(inner);
        FIELD(inputs);
        FIELD(max_rank);
    }
    {
        BEGIN(low_rank, LowRankUpArgs);
        FIELD(inner);
        FIELD(parts);
        FIELD(adapters);
        FIELD(out);
        FIELD(out_width);
        FIELD(max_rank);
    }
}

void add_logits(Layout& layout) {
    {
        BEGIN(logits, Probe);
        FIELD(first);
        FIELD(count);
    }
    {
        BEGIN(logits, RowReading);
        FIELD(log_sum_exp);
        FIELD(max);
        FIELD(most_likely);
        FIELD(sound);
        FIELD(pad);
    }
    {
        BEGIN(logits, ReadLogitsArgs);
        FIELD(logits);
        FIELD(probes);
        FIELD(probe_tokens);
        FIELD(readings);
        FIELD(probe_logits);
        FIELD(vocab);
        FIELD(scale);
        FIELD(soft_cap);
    }
    {
        BEGIN(logits, TopLogit);
        FIELD(token);
        FIELD(logit);
    }
    {
        BEGIN(logits, TopLogitsArgs);
        FIELD(logits);
        FIELD(inverse_temperatures);
        FIELD(top);
        FIELD(weights);
        FIELD(vocab);
        FIELD(count);
    }
}

void add_packed(Layout& layout) {
    {
        BEGIN(packed, PackedMatrix);
        FIELD(integers);
        FIELD(factors);
        FIELD(bases);
        FIELD(outputs);
        FIELD(inputs);
        FIELD(zero);
        FIELD(groups);
        FIELD(has_minimum);
        FIELD(pad);
    }
    {
        BEGIN(packed, PackedProductArgs);
        FIELD(weights);
        FIELD(x);
        FIELD(out);
        FIELD(rows);
        FIELD(out_width);
        FIELD(add);
        FIELD(pad);
    }
    {
        BEGIN(packed, PackedExpandArgs);
        FIELD(weights);
        FIELD(out);
    }
}

void add_noise(Layout& layout) {
    BEGIN(noise, FillNoiseArgs);
    FIELD(out);
    FIELD(counter);
    FIELD(count);
    FIELD(scale);
}

std::string layout_of_all() {
    Layout layout;
    add_row_kernels(layout);
    add_attention(layout);
    add_low_rank(layout);
    add_logits(layout);
    add_packed(layout);
    add_noise(layout);
    return layout.finish();
}

}  // namespace

int emulated_launch(const char* kernel, u32 grid_x, u32 grid_y, u32 grid_z, u32 threads, u32 shared_bytes,
                    const void* args) {
    const registry::Kernel* found = registry::find_attention(kernel);
    for (const registry::Kernel& known : KERNELS) {
        if (strcmp(kernel, known.name) == 0) {
            found = &known;
        }
    }
    if (found == nullptr) {
        error = "there is no kernel of this name";
        return 1;
    }
    const emulator::Launch launch = {found->name, found->run, args, {grid_x, grid_y, grid_z}, threads, shared_bytes};
    error = emulator::run(launch, {seed.load(), eager_copies.load()});
    return error.empty() ? 0 : 2;
}

const char* emulated_error() {
    return error.c_str();
}

const char* emulated_layout() {
    static const std::string layout = layout_of_all();
    return layout.c_str();
}

void emulated_settings(u64 new_seed, int new_eager_copies) {
    seed = new_seed;
    eager_copies = new_eager_copies != 0;
}

u32 emulated_attention_shared_bytes(u32 head) {
    return attention::attention_shared_bytes(head);
}

u64 emulated_bank_conflicts() {
    return emulator::bank_conflicts();
}

u64 emulated_warp_instructions() {
    return emulator::warp_instructions();
}
