// The kernels that the library can launch.
#pragma once

#include "device.cuh"

namespace registry {

struct Kernel {
    const char* name;
    void (*run)(const void* args);
};

template <class Args, void (*KERNEL_FUNCTION)(const Args)>
void run_kernel(const void* args) {
    KERNEL_FUNCTION(*static_cast<const Args*>(args));
}

// Finds a kernel of attention.cu, of any head size; null where there is none of this name.
const Kernel* find_attention(const char* name);

}  // namespace registry
