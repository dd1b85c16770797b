/* kernels/cuda/emulation/fault.h - reports, and the seam between the emulator and the race finder. */
#ifndef DML_EMULATION_FAULT_H
#define DML_EMULATION_FAULT_H

#include "kernels/cuda/emulation/memory.h"

#include <stddef.h>
#include <stdint.h>

namespace emu
{
void fault(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Who accesses: kept in every cell of the race finder's shadow. */
struct place {
    uint32_t launch; /* from 1; 0: the host or nobody */
    uint32_t block;
    uint32_t interval;      /* barriers the block has passed */
    uint32_t warp_interval; /* __syncwarp calls the warp has passed */
    uint16_t thread, warp;
};
extern thread_local place here; /* of the running fiber; launch 0 outside */

/* Where memory came from. */
struct block_of_memory {
    char *base;
    size_t bytes;
    place_of_memory where;
    bool freed;
};
/* The block whose pages hold `at`; nullptr: other memory. */
const block_of_memory *find_memory(const void *at);
/* Is `at` in the span of addresses that these blocks come from? */
bool is_emulated_address(const void *at);

struct stamp;

/* The race finder's entries; empty in a program without it (hooks.cc, no_hooks.cc: CMake takes one).
 * A fiber of the running block accesses memory. */
void hook_access(const void *at, size_t bytes, bool write, bool atomic, void *pc);
/* A step does, or (step nullptr) the host. */
void hook_step_access(const void *at, size_t bytes, bool write, const stamp *step, void *pc);
void hook_free(const void *base, size_t bytes);
void hook_forget_all();
} // namespace emu

#endif
