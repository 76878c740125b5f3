// Arrays that end where memory ends, so that reading behind their end is a fault in any build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace check {

// Memory whose end is followed by a page that faults. It is aligned to 16 bytes, so up to 15 bytes behind the end are
// not guarded.
void* guarded_memory(size_t bytes);
void free_guarded_memory(void* memory, size_t bytes);

template <class T>
struct GuardedAllocator {
    using value_type = T;

    GuardedAllocator() = default;
    template <class U>
    GuardedAllocator(const GuardedAllocator<U>&) {}

    T* allocate(size_t count) {
        return static_cast<T*>(guarded_memory(count * sizeof(T)));
    }
    void deallocate(T* memory, size_t count) {
        free_guarded_memory(memory, count * sizeof(T));
    }
    template <class U>
    bool operator==(const GuardedAllocator<U>&) const {
        return true;
    }
    template <class U>
    bool operator!=(const GuardedAllocator<U>&) const {
        return false;
    }
};

#if defined(__SANITIZE_ADDRESS__)
// The sanitizer guards each byte.
template <class T>
using Memory = std::vector<T>;
#else
template <class T>
using Memory = std::vector<T, GuardedAllocator<T>>;
#endif

}  // namespace check
