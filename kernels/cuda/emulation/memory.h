/* kernels/cuda/emulation/memory.h - device memory: host memory with borders.
 *
 * A block lies between red zones of a known pattern; its addresses are never used again, and its pages
 * are taken away when it is freed.  So a stray write is found when the block is freed or the launch
 * ends, a use after free crashes, and AddressSanitizer and the race finder see every stray access.
 */
#ifndef DML_EMULATION_MEMORY_H
#define DML_EMULATION_MEMORY_H

#include <stddef.h>

namespace emu
{
/* `bytes` bytes of 0xff, 256-byte aligned; nullptr when the address range is used up. */
void *memory_new(size_t bytes, bool shared);
/* Checks the red zones; a fault when `memory` is not a live block. */
void memory_free(void *memory);
bool memory_live(const void *memory);
/* AddressSanitizer is in the program. */
bool sanitized();
} // namespace emu

#endif
