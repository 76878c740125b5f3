// Fibers switch by a few instructions on x86-64, and by ucontext elsewhere.
#include "fiber.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)
#include <ucontext.h>
#define SWITCHES_BY_UCONTEXT
#endif

#if defined(__SANITIZE_ADDRESS__)
#define WATCHES_ADDRESSES
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHES_ADDRESSES
#endif
#endif
#ifdef WATCHES_ADDRESSES
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

// The address sanitizer's frames are large.
#ifdef WATCHES_ADDRESSES
constexpr size_t STACK_BYTES = 512 << 10;
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif

// Stacks of some fibers, one after the other. A system has a limited number of mappings, so each is for many stacks.
struct Stacks {
    static constexpr size_t COUNT = 32;
    uint8_t* mapping = nullptr;

    Stacks() {
        void* mapped = mmap(nullptr, COUNT * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) {
            abort();
        }
        mapping = static_cast<uint8_t*>(mapped);
    }
    ~Stacks() {
#ifdef WATCHES_ADDRESSES
        __asan_unpoison_memory_region(mapping, COUNT * STACK_BYTES);
#endif
        munmap(mapping, COUNT * STACK_BYTES);
    }
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
};

// Lies at the far end of each stack. Who needs more than the stack overwrites it.
constexpr uint64_t LAST_WORD = 0x6c61737420776f72;

struct Fiber {
    uint8_t* stack = nullptr;
    void (*function)() = nullptr;
    // Where the fiber goes on, and where whoever resumed it does.
#ifdef SWITCHES_BY_UCONTEXT
    ucontext_t inside;
    ucontext_t outside;
#else
    void* inside = nullptr;
    void* outside = nullptr;
#endif
#ifdef WATCHES_ADDRESSES
    void* inside_frames = nullptr;
    void* outside_frames = nullptr;
    const void* outside_stack = nullptr;
    size_t outside_bytes = 0;
#endif

    explicit Fiber(uint8_t* stack) : stack(stack) {
        begin();
    }
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    uint64_t& last_word() {
        return *reinterpret_cast<uint64_t*>(stack);
    }
    // Empties the stack, so that the fiber begins anew.
    void begin();
};

// The fiber that is resumed for the first time.
static thread_local Fiber* starting = nullptr;

#ifdef SWITCHES_BY_UCONTEXT

static void go_in(Fiber& fiber) {
    swapcontext(&fiber.outside, &fiber.inside);
}

static void go_out(Fiber& fiber) {
    swapcontext(&fiber.inside, &fiber.outside);
}

#else

// Keeps what a function must keep on the stack, notes the stack's end in *from, and goes on at `to`.
extern "C" void emulator_switch_stacks(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl emulator_switch_stacks
.hidden emulator_switch_stacks
.type emulator_switch_stacks, @function
emulator_switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch_stacks, .-emulator_switch_stacks
)");

static void go_in(Fiber& fiber) {
    emulator_switch_stacks(&fiber.outside, fiber.inside);
}

static void go_out(Fiber& fiber) {
    emulator_switch_stacks(&fiber.inside, fiber.outside);
}

#endif

// The first function on a fiber's stack. It never returns.
static void loop() {
    Fiber& self = *starting;
#ifdef WATCHES_ADDRESSES
    __sanitizer_finish_switch_fiber(nullptr, &self.outside_stack, &self.outside_bytes);
#endif
    for (;;) {
        self.function();
        suspend(self);
    }
}

void Fiber::begin() {
#ifdef WATCHES_ADDRESSES
    __asan_unpoison_memory_region(stack, STACK_BYTES);
    inside_frames = nullptr;
#endif
    last_word() = LAST_WORD;
#ifdef SWITCHES_BY_UCONTEXT
    getcontext(&inside);
    inside.uc_stack.ss_sp = stack;
    inside.uc_stack.ss_size = STACK_BYTES;
    inside.uc_link = nullptr;
    makecontext(&inside, loop, 0);
#else
    // Six registers, the address to go on at, and one word, so that the stack is aligned as a function expects it.
    void** top = reinterpret_cast<void**>(stack + STACK_BYTES) - 8;
    for (int i = 0; i < 8; i++) {
        top[i] = nullptr;
    }
    top[6] = reinterpret_cast<void*>(&loop);
    inside = top;
#endif
}

void resume(Fiber& fiber) {
    starting = &fiber;
#ifdef WATCHES_ADDRESSES
    __sanitizer_start_switch_fiber(&fiber.outside_frames, fiber.stack, STACK_BYTES);
#endif
    go_in(fiber);
#ifdef WATCHES_ADDRESSES
    __sanitizer_finish_switch_fiber(fiber.outside_frames, nullptr, nullptr);
#endif
}

void suspend(Fiber& fiber) {
#ifdef WATCHES_ADDRESSES
    __sanitizer_start_switch_fiber(&fiber.inside_frames, fiber.outside_stack, fiber.outside_bytes);
#endif
    go_out(fiber);
#ifdef WATCHES_ADDRESSES
    __sanitizer_finish_switch_fiber(fiber.inside_frames, &fiber.outside_stack, &fiber.outside_bytes);
#endif
}

FiberPool::FiberPool() = default;
FiberPool::~FiberPool() = default;

void FiberPool::grow() {
    stacks_.push_back(std::make_unique<Stacks>());
    for (size_t i = 0; i < Stacks::COUNT; i++) {
        all_.push_back(std::make_unique<Fiber>(stacks_.back()->mapping + i * STACK_BYTES));
        free_.push_back(all_.back().get());
    }
}

Fiber* FiberPool::take(void (*function)()) {
    if (free_.empty()) {
        grow();
    }
    Fiber* fiber = free_.back();
    free_.pop_back();
    fiber->function = function;
    return fiber;
}

bool FiberPool::give_back(Fiber* fiber) {
    free_.push_back(fiber);
    return fiber->last_word() == LAST_WORD;
}

void FiberPool::abandon_all() {
    free_.clear();
    for (const std::unique_ptr<Fiber>& fiber : all_) {
        fiber->begin();
        free_.push_back(fiber.get());
    }
}

}  // namespace emulator
