// What runs kernels in the emulator.
#pragma once

#include <string>

#include "device.cuh"

namespace emulator {

// A kernel with its arguments.
struct Launch {
    const char* kernel;
    void (*run)(const void* args);
    const void* args;
    Block grid;
    u32 threads;
    u32 shared_bytes;
};

// How a launch's threads are ordered, and when asynchronous copies arrive.
struct Settings {
    u64 seed;
    bool eager_copies;
};

// Runs all blocks on the calling thread. Returns an empty text, or what went wrong.
std::string run(const Launch& launch, Settings settings);

// Of all launches of the calling thread.
u64 bank_conflicts();
u64 warp_instructions();

}  // namespace emulator
