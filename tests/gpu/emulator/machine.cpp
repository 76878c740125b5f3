// The emulator's scheduler, shared memory and warp instructions.
#include "machine.hpp"

#include <algorithm>
#include <memory>

#include "fiber.hpp"

namespace emulator {

thread_local Machine* machine = nullptr;

namespace {

// The reader of a cell that several threads have read since the last barrier, and the writer of one that several have
// added to.
constexpr u16 SEVERAL = 0xffff;
constexpr u32 STATIC_BYTES = 16 << 10;

// Numbers for orders of threads; they need not be good.
struct Random {
    u64 state;

    u32 below(u32 bound) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<u32>((state >> 33) % bound);
    }
};

// What one thread of the host needs to run launches; it is kept from launch to launch.
struct Runner {
    Machine machine;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<u32> open_warps;
    FiberPool fibers;
    std::vector<u8> memory;
    // The warp that runs: its lanes come in the order of their numbers, exclusive-or `lane_order`.
    Thread* lanes = nullptr;
    u32 lane_order = 0;
    u32 lane_position = 0;
    u32 at_barrier = 0;
    u32 ended = 0;
    u32 barrier_line = 0;
    std::string error;
    Launch launch = {};
    Random random = {0};
};

thread_local std::unique_ptr<Runner> owner;
thread_local Runner* runner __attribute__((tls_model("initial-exec"))) = nullptr;

Runner& runner_of_this_thread() {
    if (!owner) {
        owner = std::make_unique<Runner>();
        runner = owner.get();
        machine = &owner->machine;
    }
    return *runner;
}

// What each fiber does, again and again: a thread of a block, and the next lanes as long as these have not begun. So a
// thread that never waits costs a call.
void run_threads() {
    Fiber* fiber = machine->current->fiber;
    for (;;) {
        runner->launch.run(runner->launch.args);
        Thread& thread = *machine->current;
        if (!thread.copies.empty()) {
            fail("a thread ends before its asynchronous copies");
        }
        thread.state = State::Ended;
        thread.groups.clear();
        runner->ended += 1;
        if (runner->lane_position + 1 == LANES) {
            return;
        }
        Thread& next = runner->lanes[(runner->lane_position + 1) ^ runner->lane_order];
        if (next.state != State::NotStarted) {
            return;
        }
        runner->lane_position += 1;
        next.fiber = fiber;
        next.state = State::Ready;
        machine->current = &next;
    }
}

// Goes on with a thread until it waits, or until it has ended and the next lane has begun.
void step(Thread& thread) {
    if (thread.state == State::NotStarted) {
        thread.fiber = runner->fibers.take(run_threads);
        thread.state = State::Ready;
    }
    machine->current = &thread;
    resume(*thread.fiber);
    Thread& last = *machine->current;
    machine->current = nullptr;
    if (last.state == State::Ended && !runner->fibers.give_back(last.fiber)) {
        runner->error = "a thread needs a larger stack than the emulator gives it";
    }
}

bool can_run(const Thread& thread) {
    return thread.state == State::Ready || thread.state == State::NotStarted;
}

// Runs a warp until none of its lanes can go on, or, with some seeds, a few instructions far.
void run_warp(u32 warp) {
    u32 rounds = runner->random.below(4) == 0 ? 1 + runner->random.below(8) : ~0u;
    runner->lanes = &runner->threads[warp * LANES];
    bool progress = true;
    while (progress && rounds > 0) {
        progress = false;
        rounds -= 1;
        runner->lane_order = runner->random.below(LANES);
        const u32 ended_before = runner->ended;
        for (runner->lane_position = 0; runner->lane_position < LANES; runner->lane_position++) {
            Thread& thread = runner->lanes[runner->lane_position ^ runner->lane_order];
            if (can_run(thread)) {
                step(thread);
                progress = true;
                if (!runner->error.empty()) {
                    return;
                }
            }
        }
        if (runner->ended - ended_before == LANES) {
            runner->warps[warp].open = false;
            return;
        }
    }
    if (!progress) {
        runner->warps[warp].open = false;
        if (runner->warps[warp].arrived > 0) {
            runner->error = "some lanes of a warp are at an instruction that the others do not reach";
        }
    }
}

void start_block(Block block) {
    Machine& m = runner->machine;
    m.block = block;
    m.epoch += 1;
    m.first_epoch = m.epoch;
    m.static_bytes = 0;
    m.static_arrays.clear();
    memset(m.dynamic_memory, 0xff, m.dynamic_bytes);
    for (u32 i = 0; i < runner->launch.threads; i++) {
        runner->threads[i].state = State::NotStarted;
    }
    std::fill(runner->warps.begin(), runner->warps.end(), Warp());
    runner->at_barrier = 0;
    runner->ended = 0;
}

void run_block(Block block) {
    start_block(block);
    const u32 threads = runner->launch.threads;
    while (runner->ended < threads && runner->error.empty()) {
        runner->open_warps.clear();
        for (u32 warp = 0; warp < threads / LANES; warp++) {
            if (runner->warps[warp].open) {
                runner->open_warps.push_back(warp);
            }
        }
        if (runner->open_warps.empty()) {
            runner->error = "some threads wait at a barrier that the others do not reach";
            return;
        }
        run_warp(runner->open_warps[runner->random.below(runner->open_warps.size())]);
    }
}

std::string with_place(const std::string& what) {
    const Machine& m = runner->machine;
    const std::string block =
        std::to_string(m.block.x) + ", " + std::to_string(m.block.y) + ", " + std::to_string(m.block.z);
    return std::string(runner->launch.kernel) + ": " + what + " (block " + block + ")";
}

}  // namespace

std::string run(const Launch& launch, Settings settings) {
    Runner& r = runner_of_this_thread();
    if (launch.threads == 0 || launch.threads % LANES != 0 || launch.threads > 1024) {
        return "a block has whole warps and at most 1024 threads";
    }
    if (launch.shared_bytes > 227 * 1024) {
        return "no card gives a block of threads that much shared memory";
    }
    r.launch = launch;
    r.error.clear();
    r.random.state = settings.seed * 0x9e3779b97f4a7c15ull + 1;
    while (r.threads.size() < launch.threads) {
        r.threads.emplace_back();
        r.threads.back().index = static_cast<u32>(r.threads.size()) - 1;
    }
    r.warps.resize(launch.threads / LANES);
    Machine& m = r.machine;
    m.grid = launch.grid;
    m.threads_in_block = launch.threads;
    m.eager_copies = settings.eager_copies;
    // Fixed arrays lie first, then what the launch asks for, on a boundary of 128 bytes.
    r.memory.resize(STATIC_BYTES + launch.shared_bytes + 128);
    const size_t misaligned = reinterpret_cast<uintptr_t>(r.memory.data()) % 128;
    m.static_memory = r.memory.data() + (128 - misaligned);
    m.dynamic_memory = m.static_memory + STATIC_BYTES;
    m.dynamic_bytes = launch.shared_bytes;
    m.static_cells.resize(STATIC_BYTES / 4);
    if (m.dynamic_cells.size() < launch.shared_bytes / 16) {
        m.dynamic_cells.resize(launch.shared_bytes / 16);
    }
    const u64 blocks = static_cast<u64>(launch.grid.x) * launch.grid.y * launch.grid.z;
    // Blocks of threads may run in any order: forwards or backwards, from any of them.
    const u64 first = blocks > 0 ? settings.seed % blocks : 0;
    for (u64 i = 0; i < blocks; i++) {
        u64 index = (i + first) % blocks;
        if (settings.seed % 2 == 1) {
            index = blocks - 1 - index;
        }
        Block block;
        block.x = static_cast<u32>(index % launch.grid.x);
        block.y = static_cast<u32>(index / launch.grid.x % launch.grid.y);
        block.z = static_cast<u32>(index / launch.grid.x / launch.grid.y);
        run_block(block);
        if (!r.error.empty()) {
            r.fibers.abandon_all();
            r.threads.clear();
            return with_place(r.error);
        }
    }
    return "";
}

u64 bank_conflicts() {
    return runner_of_this_thread().machine.bank_conflicts;
}

u64 warp_instructions() {
    return runner_of_this_thread().machine.warp_instructions;
}

void fail(const char* what) {
    runner->error = std::string(what) + ", thread " + std::to_string(machine->current->index);
    suspend(*machine->current->fiber);
    __builtin_unreachable();
}

void rendezvous(const char* instruction, u32 line, void (*compute)(const void* const* given, void* const* taken)) {
    Thread& self = *machine->current;
    Warp& warp = runner->warps[self.index / LANES];
    Thread* lanes = &runner->threads[self.index / LANES * LANES];
    self.instruction = instruction;
    self.line = line;
    warp.arrived += 1;
    if (warp.arrived < LANES) {
        self.state = State::AtWarp;
        suspend(*self.fiber);
        return;
    }
    const void* given[LANES];
    void* taken[LANES];
    for (u32 lane = 0; lane < LANES; lane++) {
        if (lanes[lane].instruction != instruction || lanes[lane].line != line) {
            fail("lanes of a warp are at different instructions");
        }
        given[lane] = lanes[lane].given;
        taken[lane] = lanes[lane].taken;
    }
    compute(given, taken);
    machine->warp_instructions += 1;
    warp.arrived = 0;
    for (u32 lane = 0; lane < LANES; lane++) {
        lanes[lane].state = State::Ready;
    }
}

void barrier(u32 line) {
    Thread& self = *machine->current;
    if (runner->at_barrier == 0) {
        runner->barrier_line = line;
    } else if (runner->barrier_line != line) {
        fail("threads of a block are at different barriers");
    }
    runner->at_barrier += 1;
    if (runner->at_barrier < machine->threads_in_block) {
        self.state = State::AtBarrier;
        suspend(*self.fiber);
        return;
    }
    runner->at_barrier = 0;
    machine->epoch += 1;
    for (u32 i = 0; i < machine->threads_in_block; i++) {
        runner->threads[i].state = State::Ready;
    }
    for (Warp& warp : runner->warps) {
        warp.open = true;
    }
    // The last one to come must not be the first one to go on each time.
    if (runner->random.below(2) == 0) {
        suspend(*self.fiber);
    }
}

u8* static_array(const void* tag, u32 bytes) {
    for (const StaticArray& array : machine->static_arrays) {
        if (array.tag == tag) {
            return machine->static_memory + array.begin;
        }
    }
    const u32 begin = (machine->static_bytes + 15) / 16 * 16;
    if (begin + bytes > STATIC_BYTES) {
        fail("the fixed arrays in shared memory are larger than the emulator has room for");
    }
    machine->static_bytes = begin + bytes;
    machine->static_arrays.push_back({tag, begin, bytes});
    memset(machine->static_memory + begin, 0xff, bytes);
    return machine->static_memory + begin;
}

void note_read(Cell& cell) {
    const u16 self = static_cast<u16>(machine->current->index);
    if (cell.copy_epoch >= machine->first_epoch) {
        fail("shared memory is read while an asynchronous copy to it is under way");
    }
    if (cell.write_epoch < machine->first_epoch) {
        fail("shared memory is read before it is written");
    }
    if (cell.write_epoch == machine->epoch && cell.writer != self) {
        fail("shared memory is read that another thread has written since the last barrier");
    }
    if (cell.read_epoch == machine->epoch && cell.reader != self) {
        cell.reader = SEVERAL;
    } else {
        cell.reader = self;
    }
    cell.read_epoch = machine->epoch;
}

// What holds for anything that changes a cell.
static void check_change(const Cell& cell, u16 writer) {
    const u16 self = static_cast<u16>(machine->current->index);
    if (cell.copy_epoch >= machine->first_epoch) {
        fail("shared memory is written while an asynchronous copy to it is under way");
    }
    if (cell.read_epoch == machine->epoch && cell.reader != self) {
        fail("shared memory is written that another thread has read since the last barrier");
    }
    if (cell.write_epoch == machine->epoch && cell.writer != writer) {
        fail("shared memory is written that another thread has written since the last barrier");
    }
}

void note_write(Cell& cell) {
    const u16 self = static_cast<u16>(machine->current->index);
    check_change(cell, self);
    cell.write_epoch = machine->epoch;
    cell.writer = self;
}

void note_atomic(Cell& cell) {
    if (cell.write_epoch < machine->first_epoch) {
        fail("something is added to shared memory before it is written");
    }
    check_change(cell, SEVERAL);
    cell.write_epoch = machine->epoch;
    cell.writer = SEVERAL;
}

Cell& dynamic_cell(const void* address) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(machine->dynamic_memory);
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    if (at < begin || at + 16 > begin + machine->dynamic_bytes) {
        fail("an address outside of shared memory");
    }
    if ((at - begin) % 16 != 0) {
        fail("an address in shared memory is not aligned");
    }
    return machine->dynamic_cells[(at - begin) / 16];
}

static void carry_out(const Copy& copy) {
    if (copy.real) {
        memcpy(copy.to, copy.from, 16);
    } else {
        memset(copy.to, 0, 16);
    }
}

void copy_async(void* to, const void* from, bool real) {
    Thread& self = *machine->current;
    Cell& cell = dynamic_cell(to);
    check_change(cell, static_cast<u16>(self.index));
    cell.copy_epoch = machine->epoch;
    if (real) {
        check_aligned(from, 16);
    }
    const Copy copy = {static_cast<u8*>(to), static_cast<const u8*>(from), real};
    if (machine->eager_copies) {
        carry_out(copy);
    }
    if (self.groups.empty()) {
        self.groups.push_back(0);
    }
    self.copies.push_back(copy);
    self.groups.back() += 1;
}

void commit_copies() {
    Thread& self = *machine->current;
    if (self.groups.empty()) {
        self.groups.push_back(0);
    }
    self.groups.push_back(0);
}

void wait_for_copies(u32 left) {
    Thread& self = *machine->current;
    u32 done_groups = 0;
    u32 done_copies = 0;
    while (self.groups.size() - done_groups > left + 1) {
        done_copies += self.groups[done_groups];
        done_groups += 1;
    }
    for (u32 i = 0; i < done_copies; i++) {
        const Copy& copy = self.copies[i];
        if (!machine->eager_copies) {
            carry_out(copy);
        }
        Cell& cell = dynamic_cell(copy.to);
        cell.copy_epoch = 0;
        cell.write_epoch = machine->epoch;
        cell.writer = static_cast<u16>(self.index);
    }
    self.copies.erase(self.copies.begin(), self.copies.begin() + done_copies);
    self.groups.erase(self.groups.begin(), self.groups.begin() + done_groups);
}

typedef double Eight64 __attribute__((vector_size(64), aligned(64)));

// A 16 by 16 matrix, one of 16 by 8, and their product, which begins as what it is added to.
struct MmaMatrices {
    double a[16][16];
    Eight64 b[16];
    Eight64 c[16];
};

// Four rows at a time, so that sums need not wait for one another. Products of bf16 are exact in f64, so it does not
// matter whether the compiler fuses them with their sum.
__attribute__((always_inline)) static inline void multiply_matrices(MmaMatrices& m) {
    for (u32 row = 0; row < 16; row += 4) {
        Eight64 sums[4] = {m.c[row], m.c[row + 1], m.c[row + 2], m.c[row + 3]};
        for (u32 k = 0; k < 16; k++) {
            for (u32 i = 0; i < 4; i++) {
                sums[i] += m.a[row + i][k] * m.b[k];
            }
        }
        for (u32 i = 0; i < 4; i++) {
            m.c[row + i] = sums[i];
        }
    }
}

static void multiply_matrices_plainly(MmaMatrices& m) {
    multiply_matrices(m);
}

// Zig's clang cannot link the question which instructions the processor has into a shared library.
#if defined(__x86_64__) && !defined(__clang__)
#define CHOOSES_INSTRUCTIONS
__attribute__((target("avx512f"))) static void multiply_matrices_avx512(MmaMatrices& m) {
    multiply_matrices(m);
}
__attribute__((target("avx2"))) static void multiply_matrices_avx2(MmaMatrices& m) {
    multiply_matrices(m);
}
#endif

// The quickest function that this processor can run.
static auto choose_multiplication() {
#ifdef CHOOSES_INSTRUCTIONS
    if (__builtin_cpu_supports("avx512f")) {
        return multiply_matrices_avx512;
    }
    if (__builtin_cpu_supports("avx2")) {
        return multiply_matrices_avx2;
    }
#endif
    return multiply_matrices_plainly;
}

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": a lane's group is lane / 4, its place in the
// group lane % 4. The sum is taken in f64 and rounded once; a card's order and rounding are its own.
void compute_mma(const void* const* given, void* const* taken) {
    static const auto multiply = choose_multiplication();
    MmaMatrices m;
    for (u32 lane = 0; lane < LANES; lane++) {
        const MmaOperands& in = *static_cast<const MmaOperands*>(given[lane]);
        const u32 group = lane / 4;
        const u32 place = lane % 4;
        for (u32 i = 0; i < 4; i++) {
            const u32 row = group + i % 2 * 8;
            const u32 column = 2 * place + i / 2 * 8;
            m.a[row][column] = float_from_bits(in.a[i] << 16);
            m.a[row][column + 1] = float_from_bits(in.a[i] & 0xffff0000u);
            m.c[group + i / 2 * 8][2 * place + i % 2] = in.c[i];
        }
        for (u32 i = 0; i < 2; i++) {
            const u32 row = 2 * place + i * 8;
            m.b[row][group] = float_from_bits(in.b[i] << 16);
            m.b[row + 1][group] = float_from_bits(in.b[i] & 0xffff0000u);
        }
    }
    multiply(m);
    for (u32 lane = 0; lane < LANES; lane++) {
        MmaResult& out = *static_cast<MmaResult*>(taken[lane]);
        for (u32 i = 0; i < 4; i++) {
            out.at[i] = static_cast<float>(m.c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2]);
        }
    }
}

// The cycles beyond the first that eight rows of 16 bytes need: as many as share a group of four banks.
static void count_conflicts(const void* const* rows) {
    u32 counts[8] = {};
    for (u32 i = 0; i < 8; i++) {
        counts[reinterpret_cast<uintptr_t>(rows[i]) / 16 % 8] += 1;
    }
    machine->bank_conflicts += *std::max_element(counts, counts + 8) - 1;
}

void compute_matrices(const void* const* given, void* const* taken) {
    for (u32 matrix = 0; matrix < 4; matrix++) {
        count_conflicts(given + matrix * 8);
        for (u32 lane = 0; lane < LANES; lane++) {
            const u8* row = static_cast<const u8*>(given[matrix * 8 + lane / 4]);
            memcpy(&static_cast<Matrices*>(taken[lane])->at[matrix], row + lane % 4 * 4, 4);
        }
    }
}

void compute_matrices_transposed(const void* const* given, void* const* taken) {
    for (u32 matrix = 0; matrix < 4; matrix++) {
        count_conflicts(given + matrix * 8);
        for (u32 lane = 0; lane < LANES; lane++) {
            const u32 first_row = matrix * 8 + 2 * (lane % 4);
            u16 low;
            u16 high;
            memcpy(&low, static_cast<const u8*>(given[first_row]) + lane / 4 * 2, 2);
            memcpy(&high, static_cast<const u8*>(given[first_row + 1]) + lane / 4 * 2, 2);
            static_cast<Matrices*>(taken[lane])->at[matrix] = low | static_cast<u32>(high) << 16;
        }
    }
}

}  // namespace emulator
