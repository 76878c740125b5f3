#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

namespace check {

static size_t page_bytes() {
    return static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

static size_t whole_pages(size_t bytes) {
    const size_t page = page_bytes();
    return (bytes + page - 1) / page * page;
}

void* guarded_memory(size_t bytes) {
    const size_t rounded = (bytes + 15) / 16 * 16;
    const size_t pages = whole_pages(rounded);
    void* mapped = mmap(nullptr, pages + page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        throw std::bad_alloc();
    }
    uint8_t* begin = static_cast<uint8_t*>(mapped);
    if (mprotect(begin + pages, page_bytes(), PROT_NONE) != 0) {
        throw std::bad_alloc();
    }
    return begin + pages - rounded;
}

void free_guarded_memory(void* memory, size_t bytes) {
    const size_t rounded = (bytes + 15) / 16 * 16;
    const size_t pages = whole_pages(rounded);
    munmap(static_cast<uint8_t*>(memory) + rounded - pages, pages + page_bytes());
}

}  // namespace check
