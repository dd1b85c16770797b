/* kernels/cuda/emulation/memory.cc - one range of addresses, handed out page by page, never again. */
#include "kernels/cuda/emulation/memory.h"

#include "kernels/cuda/emulation/fault.h"

#include <map>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* There when AddressSanitizer is. */
extern "C" void __asan_poison_memory_region(const volatile void *, size_t) __attribute__((weak));
extern "C" void __asan_unpoison_memory_region(const volatile void *, size_t) __attribute__((weak));

namespace emu
{
static const size_t SPAN = size_t{256} << 30, PAGE = 4096, ZONE = 256, LARGE = size_t{2} << 20;
static const unsigned char PATTERN = 0xfd;

static char *span, *unused;
static size_t live_bytes;
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

/* Large blocks are pages of one file of 0xff: nobody pays for what is never touched. */
static bool fill_large(char *first, size_t whole)
{
    enum { FILE_BYTES = 1 << 20 };
    static int fd = -1;
    if (fd < 0) {
        static char ones[FILE_BYTES];
        memset(ones, 0xff, sizeof ones);
        fd = memfd_create("emulated-memory", MFD_CLOEXEC);
        if (fd < 0 || write(fd, ones, sizeof ones) != sizeof ones) return false;
    }
    for (size_t at = 0; at < whole; at += FILE_BYTES) {
        const size_t n = whole - at < FILE_BYTES ? whole - at : size_t{FILE_BYTES};
        if (mmap(first + at, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) ==
            MAP_FAILED)
            return false;
    }
    return true;
}

void *memory_new(size_t bytes, place_of_memory where)
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
    const bool large = whole > LARGE;
    if (large ? !fill_large(first, whole) : mprotect(first, whole, PROT_READ | PROT_WRITE) != 0)
        return nullptr;
    unused += whole + PAGE;
    live_bytes += bytes;
    if (!large) memset(base, 0xff, bytes);
    memset(first, PATTERN, ZONE);
    memset(base + bytes, PATTERN, whole - ZONE - bytes);
    poison(first, ZONE);
    poison(base + bytes, whole - ZONE - bytes);
    blocks[reinterpret_cast<uintptr_t>(first)] = {base, bytes, where, false};
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
    return is_emulated_address(at) ? find(at) : nullptr;
}

bool is_emulated_address(const void *at)
{
    return span && at >= span && at < span + SPAN;
}

static bool intact(const char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (static_cast<unsigned char>(at[i]) != PATTERN) return false;
    return true;
}

bool memory_live(const void *memory, place_of_memory where)
{
    const block_of_memory *b = find_memory(memory);
    return b && b->base == memory && !b->freed && b->where == where;
}

size_t memory_live_bytes()
{
    return live_bytes;
}

/* Its addresses stay taken, its pages do not. */
static void take_back(block_of_memory *b)
{
    char *first = b->base - ZONE;
    const size_t whole = pages_bytes(b->bytes);
    unpoison(first, whole);
    hook_free(b->base, b->bytes);
    b->freed = true;
    live_bytes -= b->bytes;
    mmap(first, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void memory_free(void *memory)
{
    block_of_memory *b = find(memory);
    char *first = b->base - ZONE;
    const size_t whole = pages_bytes(b->bytes);
    unpoison(first, whole);
    if (!intact(first, ZONE)) fault("a write before a block of %zu bytes", b->bytes);
    if (!intact(b->base + b->bytes, whole - ZONE - b->bytes))
        fault("a write past a block of %zu bytes", b->bytes);
    take_back(b);
}

void memory_free_all()
{
    for (auto &each : blocks)
        if (!each.second.freed) take_back(&each.second);
}
} // namespace emu
