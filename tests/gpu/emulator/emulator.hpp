// One multiprocessor of a card, on a host: what device.cuh gives to kernels when they are not compiled for a card.
//
// Threads are fibers. A warp runs as far as barriers let it before another one does, in an order that a seed decides.
// Warp instructions (shuffles, ldmatrix, mma) are rendezvous of 32 lanes. Shared memory begins as NaN, and each access
// to it is checked: bounds, alignment, reading before writing, two threads at the same place without a barrier between
// them, and places that an asynchronous copy is about to write. A mistake ends the launch and is told by its caller.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace emulator {

constexpr u32 LANES = 32;

// What a thread waits for.
enum class State : u8 { NotStarted, Ready, AtWarp, AtBarrier, Ended };

// An asynchronous copy of 16 bytes.
struct Copy {
    u8* to;
    const u8* from;
    bool real;
};

struct Fiber;

struct Thread {
    Fiber* fiber = nullptr;
    State state = State::NotStarted;
    u32 index = 0;
    // Where the thread waits.
    u32 line = 0;
    const char* instruction = nullptr;
    // What it brings to its warp's instruction, and where the result goes.
    const void* given = nullptr;
    void* taken = nullptr;
    std::vector<Copy> copies;
    // The number of copies in each group that is not waited for; the last group is open.
    std::vector<u32> groups;
};

struct Warp {
    // Lanes that are at an instruction of the whole warp.
    u32 arrived = 0;
    // Whether a lane may be able to go on.
    bool open = true;
};

// Who last wrote and read a place in shared memory, and between which barriers.
struct Cell {
    u32 write_epoch = 0;
    u32 read_epoch = 0;
    u32 copy_epoch = 0;
    u16 writer = 0;
    u16 reader = 0;
};

struct Block {
    u32 x = 0;
    u32 y = 0;
    u32 z = 0;
};

// Memory of `SHARED_ARRAY`s begins behind this many arrays at most.
struct StaticArray {
    const void* tag = nullptr;
    u32 begin = 0;
    u32 bytes = 0;
};

struct Machine {
    Thread* current = nullptr;
    Block block;
    Block grid;
    u32 threads_in_block = 0;
    // Shared memory of the launch's size, with a cell for each 16 bytes.
    u8* dynamic_memory = nullptr;
    u32 dynamic_bytes = 0;
    std::vector<Cell> dynamic_cells;
    // Shared memory of fixed arrays, with a cell for each 4 bytes.
    u8* static_memory = nullptr;
    u32 static_bytes = 0;
    std::vector<Cell> static_cells;
    std::vector<StaticArray> static_arrays;
    // Counts barriers over all blocks; the block began at `first_epoch`.
    u32 epoch = 1;
    u32 first_epoch = 1;
    bool eager_copies = false;
    // Extra bank cycles of ldmatrix.
    u64 bank_conflicts = 0;
    u64 warp_instructions = 0;
};

extern thread_local Machine* machine __attribute__((tls_model("initial-exec")));

// Ends the launch. It does not return to the kernel.
[[noreturn]] void fail(const char* what);
// Waits until all lanes of the warp are at this instruction; the last one calls `compute` for all.
void rendezvous(const char* instruction, u32 line, void (*compute)(const void* const* given, void* const* taken));
void barrier(u32 line);
// The memory of a fixed array.
u8* static_array(const void* tag, u32 bytes);
// Checks and notes an access to a cell.
void note_read(Cell& cell);
void note_write(Cell& cell);
void note_atomic(Cell& cell);
// The cell of 16 bytes of dynamic shared memory; fails where these are not 16 aligned bytes of it.
Cell& dynamic_cell(const void* address);
void copy_async(void* to, const void* from, bool real);
void commit_copies();
void wait_for_copies(u32 left);

struct Matrices {
    u32 at[4];
};
struct MmaOperands {
    u32 a[4];
    u32 b[2];
    float c[4];
};
struct MmaResult {
    float at[4];
};
void compute_mma(const void* const* given, void* const* taken);
void compute_matrices(const void* const* given, void* const* taken);
void compute_matrices_transposed(const void* const* given, void* const* taken);

inline void check_aligned(const void* address, u32 bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
        fail("an address is not aligned");
    }
}

template <class T>
struct Shuffled {
    T value;
    u32 mask;
};

template <class T>
T shuffle(T value, u32 mask, u32 line) {
    const Shuffled<T> given = {value, mask};
    T taken = value;
    machine->current->given = &given;
    machine->current->taken = &taken;
    rendezvous("shuffle", line, [](const void* const* given, void* const* taken) {
        for (u32 lane = 0; lane < LANES; lane++) {
            const u32 other = lane ^ static_cast<const Shuffled<T>*>(given[lane])->mask;
            *static_cast<T*>(taken[lane]) = static_cast<const Shuffled<T>*>(given[other % LANES])->value;
        }
    });
    return taken;
}

// What `threadIdx` and `blockIdx` are to kernels.
struct ThreadIndex {
    struct {
        operator u32() const { return machine->current->index; }
    } x;
};
struct BlockIndex {
    struct {
        operator u32() const { return machine->block.x; }
    } x;
    struct {
        operator u32() const { return machine->block.y; }
    } y;
    struct {
        operator u32() const { return machine->block.z; }
    } z;
};

}  // namespace emulator

[[maybe_unused]] static constexpr emulator::ThreadIndex threadIdx;
[[maybe_unused]] static constexpr emulator::BlockIndex blockIdx;

#define KERNEL [[maybe_unused]] static void
#define DEVICE [[maybe_unused]] static inline
#define DEVICE_MEMBER inline
#define BOUNDS(threads, blocks)
#define UNROLL
#define UNROLL_BY(rounds)
#define SHARED_BYTES(name) u8* name = emulator::machine->dynamic_memory
#define SHARED_ARRAY(type, count, name)   \
    static const char name##_tag = 0;     \
    const SharedArray<type> name = {emulator::static_array(&name##_tag, (count) * sizeof(type)), count}

template <class T>
struct SharedArray {
    u8* memory;
    u32 count;

    T get(u32 index) const {
        visit(index, emulator::note_read);
        T value;
        memcpy(&value, memory + index * sizeof(T), sizeof(T));
        return value;
    }
    void set(u32 index, T value) const {
        visit(index, emulator::note_write);
        memcpy(memory + index * sizeof(T), &value, sizeof(T));
    }
    T add_atomic(u32 index, T value) const {
        visit(index, emulator::note_atomic);
        T before;
        memcpy(&before, memory + index * sizeof(T), sizeof(T));
        const T after = before + value;
        memcpy(memory + index * sizeof(T), &after, sizeof(T));
        return before;
    }

  private:
    void visit(u32 index, void (*note)(emulator::Cell&)) const {
        if (index >= count) {
            emulator::fail("an index outside of an array in shared memory");
        }
        const size_t first = (memory - emulator::machine->static_memory + index * sizeof(T)) / 4;
        for (size_t cell = first; cell < first + sizeof(T) / 4; cell++) {
            note(emulator::machine->static_cells[cell]);
        }
    }
};

DEVICE TwoWords load_8(const void* from) {
    emulator::check_aligned(from, 8);
    TwoWords words;
    memcpy(&words, from, 8);
    return words;
}
DEVICE FourWords load_16(const void* from) {
    emulator::check_aligned(from, 16);
    FourWords words;
    memcpy(&words, from, 16);
    return words;
}
DEVICE void store_4(void* to, u32 word) {
    emulator::check_aligned(to, 4);
    memcpy(to, &word, 4);
}
DEVICE void store_8(void* to, TwoWords words) {
    emulator::check_aligned(to, 8);
    memcpy(to, &words, 8);
}
DEVICE void store_16(void* to, FourWords words) {
    emulator::check_aligned(to, 16);
    memcpy(to, &words, 16);
}
DEVICE void store_16_shared(void* to, FourWords words) {
    emulator::note_write(emulator::dynamic_cell(to));
    memcpy(to, &words, 16);
}

DEVICE float add(float a, float b) {
    return a + b;
}
DEVICE float mul(float a, float b) {
    return a * b;
}
DEVICE float fused(float a, float b, float c) {
    return std::fma(a, b, c);
}
DEVICE float divide(float a, float b) {
    return a / b;
}
DEVICE float square_root(float x) {
    return std::sqrt(x);
}
DEVICE float larger(float a, float b) {
    return std::fmax(a, b);
}
DEVICE double add(double a, double b) {
    return a + b;
}
DEVICE double mul(double a, double b) {
    return a * b;
}
DEVICE double fused(double a, double b, double c) {
    return std::fma(a, b, c);
}
DEVICE double natural_logarithm(double x) {
    return std::log(x);
}
DEVICE float exp2_fast(float x) {
    const float power = static_cast<float>(std::exp2(static_cast<double>(x)));
    return power < 1.17549435e-38f ? 0.0f : power;
}
DEVICE float float_from_bits(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
DEVICE u32 bits_of_float(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}
DEVICE double double_from_bits(u64 bits) {
    double x;
    memcpy(&x, &bits, 8);
    return x;
}
DEVICE u64 bits_of_double(double x) {
    u64 bits;
    memcpy(&bits, &x, 8);
    return bits;
}
DEVICE u32 pack_bf16(float low, float high) {
    const float values[2] = {low, high};
    u32 packed = 0;
    for (u32 i = 0; i < 2; i++) {
        const u32 bits = bits_of_float(values[i]);
        const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        const u32 rounded = nan ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
        packed |= rounded << (16 * i);
    }
    return packed;
}

DEVICE u32 add_bf16(u32 a, u32 b) {
    const float low = float_from_bits(a << 16) + float_from_bits(b << 16);
    const float high = float_from_bits(a & 0xffff0000u) + float_from_bits(b & 0xffff0000u);
    return pack_bf16(low, high);
}
DEVICE float float_from_f16(u32 bits) {
    const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
    const u32 exponent = bits >> 10 & 31;
    const u32 fraction = bits & 0x3ff;
    if (exponent == 31) {
        return fraction == 0 ? sign * HUGE_VALF : NAN;
    }
    if (exponent == 0) {
        return sign * std::ldexp(static_cast<float>(fraction), -24);
    }
    return sign * std::ldexp(static_cast<float>(fraction | 0x400), static_cast<int>(exponent) - 25);
}

// The line tells lanes apart that are at different shuffles.
DEVICE float shuffle_xor(float value, u32 mask, u32 line = __builtin_LINE()) {
    return emulator::shuffle(value, mask, line);
}
DEVICE u32 shuffle_xor(u32 value, u32 mask, u32 line = __builtin_LINE()) {
    return emulator::shuffle(value, mask, line);
}
DEVICE double shuffle_xor(double value, u32 mask, u32 line = __builtin_LINE()) {
    return emulator::shuffle(value, mask, line);
}
DEVICE void sync_block(u32 line = __builtin_LINE()) {
    emulator::barrier(line);
}

DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, u32 line = __builtin_LINE()) {
    emulator::MmaOperands operands;
    memcpy(operands.a, a, 16);
    operands.b[0] = b0;
    operands.b[1] = b1;
    memcpy(operands.c, d, 16);
    emulator::MmaResult result = {};
    emulator::machine->current->given = &operands;
    emulator::machine->current->taken = &result;
    emulator::rendezvous("mma", line, emulator::compute_mma);
    memcpy(d, result.at, 16);
}
DEVICE void load_matrices(u32 (&matrices)[4], const void* row, u32 line = __builtin_LINE()) {
    emulator::note_read(emulator::dynamic_cell(row));
    emulator::Matrices loaded = {};
    emulator::machine->current->given = row;
    emulator::machine->current->taken = &loaded;
    emulator::rendezvous("ldmatrix", line, emulator::compute_matrices);
    memcpy(matrices, loaded.at, 16);
}
DEVICE void load_matrices_transposed(u32 (&matrices)[4], const void* row, u32 line = __builtin_LINE()) {
    emulator::note_read(emulator::dynamic_cell(row));
    emulator::Matrices loaded = {};
    emulator::machine->current->given = row;
    emulator::machine->current->taken = &loaded;
    emulator::rendezvous("ldmatrix.trans", line, emulator::compute_matrices_transposed);
    memcpy(matrices, loaded.at, 16);
}
DEVICE void copy_16_async(void* to, const void* from, bool real) {
    emulator::copy_async(to, from, real);
}
DEVICE void commit_copies() {
    emulator::commit_copies();
}
template <int LEFT>
DEVICE void wait_for_copies() {
    emulator::wait_for_copies(LEFT);
}
