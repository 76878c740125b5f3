// The emulator itself: its interface, and the product.
#include "check.hpp"

#include <atomic>
#include <thread>

namespace check {
namespace {

void unknown_kernels_are_told() {
    expect(emulated_launch("no_such_kernel", 1, 1, 1, 32, 0, nullptr) == 1, "an unknown kernel is launched");
    expect(emulated_launch("attention_whole_256", 1, 1, 1, 128, 0, nullptr) == 1, "a kernel that is not there ran");
}

void too_little_shared_memory_is_told() {
    const attention::Tile tile = {0, 0, 1, 0, 0};
    Memory<float> qkv(3 * 48, 1.0f);
    Memory<u16> cache(16 * 48, 0);
    const u32 table = 0;
    attention::AttentionArgs args = {};
    args.qkv = qkv.data();
    args.keys = cache.data();
    args.values = cache.data();
    args.tables = &table;
    args.tiles = &tile;
    args.heads = 1;
    args.kv_heads = 1;
    args.qkv_width = 3 * 48;
    args.segments = 1;
    const u32 bytes = emulated_attention_shared_bytes(48);
    Memory<u16> out(48, BF16_NAN);
    args.out = out.data();
    expect(emulated_launch("attention_whole_48", 1, 1, 1, 128, bytes / 4, &args) == 2, "a fault is not told");
    expect(strstr(emulated_error(), "outside of shared memory") != nullptr, emulated_error());
    // The next launch is not disturbed.
    launch("attention_whole_48", {1}, 128, bytes, args);
    expect(out[5] == 0, "a launch after a fault is wrong");
}

void the_layout_lists_every_struct() {
    const std::string layout = emulated_layout();
    for (const char* name : {"EmbedArgs", "NormRowsArgs", "Tile", "AttentionArgs", "LowRankPart", "RowReading"}) {
        expect(layout.find("\"" + std::string(name) + "\": {\"size\": ") != std::string::npos, layout);
    }
    expect(layout.find("\"soft_cap\": " + std::to_string(offsetof(attention::AttentionArgs, soft_cap))) !=
               std::string::npos,
           layout);
}

void shared_memory_of_attention_fits_every_card() {
    for (u32 head = 16; head <= 256; head += 16) {
        expect(emulated_attention_shared_bytes(head) <= 99 * 1024, "attention needs too much shared memory");
    }
}

// Each thread of the host has an emulator of its own.
void several_threads_of_the_host_launch() {
    std::atomic<int> right{0};
    const auto run = [&right](float value) {
        for (u32 i = 0; i < 20; i++) {
            Memory<float> x(3 * 500, value);
            const Memory<float> weight(500, 1.0f);
            Memory<float> sum(3 * 500, 0.0f);
            rows::NormRowsArgs args = {};
            args.x = x.data();
            args.weight = weight.data();
            args.sum = sum.data();
            args.width = 500;
            const int result = emulated_launch("norm_rows", 3, 1, 1, 256, 0, &args);
            right += result == 0 && std::fabs(sum[1499] - (value < 0 ? -1.0f : 1.0f)) < 1e-6f ? 1 : 0;
        }
    };
    std::vector<std::thread> threads;
    for (float value : {3.0f, -2.0f, 5.0f, -1.0f}) {
        threads.emplace_back(run, value);
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    expect(right == 80, "launches of several threads of the host disturb one another");
}

void product() {
    Random random(1);
    for (u32 outputs : {1u, 7u, 16u, 37u}) {
        const u32 inputs = 75;
        const u32 rows = 3;
        const Memory<u16> weights = normals_bf16(random, outputs * inputs);
        const Memory<u16> x = normals_bf16(random, rows * inputs);
        const Memory<float> before = normals(random, rows * outputs);
        for (int add : {0, 1}) {
            Memory<float> out = before;
            emulated_product(weights.data(), x.data(), out.data(), outputs, inputs, rows, add);
            for (u32 r = 0; r < rows; r++) {
                for (u32 o = 0; o < outputs; o++) {
                    float sum = 0;
                    for (u32 i = 0; i < inputs; i++) {
                        sum += from_bf16(x[r * inputs + i]) * from_bf16(weights[o * inputs + i]);
                    }
                    const float expected = add != 0 ? before[r * outputs + o] + sum : sum;
                    expect_same_bits("product", r * outputs + o, out[r * outputs + o], expected);
                }
            }
        }
    }
}

}  // namespace

std::vector<Check> emulator_checks() {
    return {
        {"emulator: unknown kernels are told", unknown_kernels_are_told},
        {"emulator: too little shared memory is told", too_little_shared_memory_is_told},
        {"emulator: the layout lists every struct", the_layout_lists_every_struct},
        {"emulator: shared memory of attention fits every card", shared_memory_of_attention_fits_every_card},
        {"emulator: several threads of the host launch", several_threads_of_the_host_launch},
        {"emulator: product", product},
    };
}

}  // namespace check
