// The kernels of attention.cu for all head sizes.
#include <cstring>
#include <vector>

#include "registry.hpp"

namespace registry {

// All kernels of attention.cu. Each head size adds its own at start.
static std::vector<const Kernel*>& attention_kernels() {
    static std::vector<const Kernel*> kernels;
    return kernels;
}

struct KernelList {
    template <size_t COUNT>
    explicit KernelList(const Kernel (&kernels)[COUNT]) {
        for (const Kernel& kernel : kernels) {
            attention_kernels().push_back(&kernel);
        }
    }
};

const Kernel* find_attention(const char* name) {
    for (const Kernel* kernel : attention_kernels()) {
        if (strcmp(kernel->name, name) == 0) {
            return kernel;
        }
    }
    return nullptr;
}

}  // namespace registry

#define HEAD 16
#include "head.hpp"
#define HEAD 32
#include "head.hpp"
#define HEAD 48
#include "head.hpp"
#define HEAD 64
#include "head.hpp"
#define HEAD 80
#include "head.hpp"
#define HEAD 96
#include "head.hpp"
#define HEAD 112
#include "head.hpp"
#define HEAD 128
#include "head.hpp"
#define HEAD 256
#include "head.hpp"
