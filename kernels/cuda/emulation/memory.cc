/* kernels/cuda/emulation/memory.cc - one range of addresses, handed out page by page, never again. */
#include "kernels/cuda/emulation/memory.h"

#include "kernels/cuda/emulation/fault.h"

#include <map>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

/* There when AddressSanitizer is. */
extern "C" void __asan_poison_memory_region(const volatile void *, size_t) __attribute__((weak));
extern "C" void __asan_unpoison_memory_region(const volatile void *, size_t) __attribute__((weak));

namespace emu
{
static const size_t SPAN = size_t{16} << 30, PAGE = 4096, ZONE = 256;
static const unsigned char PATTERN = 0xfd;

static char *span, *unused;
static std::map<uintptr_t, block_of_memory> blocks; /* by first page */

bool sanitized()
{
    return __asan_poison_memory_region != nullptr;
}

static void poison(const void *at, size_t bytes)
{
    if (__asan_poison_memory_region) __asan_poison_memory_region(at, bytes);
}

static void unpoison(const void *at, size_t bytes)
{
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(at, bytes);
}

/* Pages of a block: zone, bytes, zone to the end of the last page; then one page nobody may touch. */
static size_t pages_bytes(size_t bytes)
{
    return (2 * ZONE + bytes + PAGE - 1) / PAGE * PAGE;
}

void *memory_new(size_t bytes, bool shared)
{
    if (!span) {
        void *at =
            mmap(nullptr, SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return nullptr;
        span = unused = static_cast<char *>(at);
    }
    const size_t whole = pages_bytes(bytes);
    if (bytes > SPAN || whole + PAGE > static_cast<size_t>(span + SPAN - unused)) return nullptr;
    char *first = unused, *base = first + ZONE;
    if (mprotect(first, whole, PROT_READ | PROT_WRITE) != 0) return nullptr;
    unused += whole + PAGE;
    memset(first, PATTERN, whole);
    memset(base, 0xff, bytes);
    poison(first, ZONE);
    poison(base + bytes, whole - ZONE - bytes);
    blocks[reinterpret_cast<uintptr_t>(first)] = {base, bytes, shared, false};
    return base;
}

/* The block whose pages, or the page after, hold `at`. */
static block_of_memory *find(const void *at)
{
    auto after = blocks.upper_bound(reinterpret_cast<uintptr_t>(at));
    if (after == blocks.begin()) return nullptr;
    block_of_memory *b = &std::prev(after)->second;
    const char *end = b->base - ZONE + pages_bytes(b->bytes) + PAGE;
    return static_cast<const char *>(at) < end ? b : nullptr;
}

const block_of_memory *find_memory(const void *at)
{
    return is_device_address(at) ? find(at) : nullptr;
}

bool is_device_address(const void *at)
{
    return span && at >= span && at < span + SPAN;
}

static bool intact(const char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (static_cast<unsigned char>(at[i]) != PATTERN) return false;
    return true;
}

bool memory_live(const void *memory)
{
    const block_of_memory *b = find_memory(memory);
    return b && b->base == memory && !b->freed;
}

void memory_free(void *memory)
{
    if (!memory_live(memory)) {
        fault("free of %p, which is not a block of device memory", memory);
        return;
    }
    block_of_memory *b = find(memory);
    char *first = b->base - ZONE;
    const size_t whole = pages_bytes(b->bytes);
    unpoison(first, whole);
    if (!intact(first, ZONE)) fault("a write before a block of %zu bytes", b->bytes);
    if (!intact(b->base + b->bytes, whole - ZONE - b->bytes))
        fault("a write past a block of %zu bytes", b->bytes);
    hook_free(b->base, b->bytes);
    b->freed = true;
    madvise(first, whole, MADV_DONTNEED);
    mprotect(first, whole, PROT_NONE);
}
} // namespace emu
