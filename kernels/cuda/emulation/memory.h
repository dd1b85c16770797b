/* kernels/cuda/emulation/memory.h - device and pinned memory: host memory with borders.
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
/* Of a device, of the running block (dynamic shared memory), of the host for copies. */
enum class place_of_memory { device, shared, pinned };
/* `bytes` bytes of 0xff, 256-byte aligned; nullptr when the address range is used up. */
void *memory_new(size_t bytes, place_of_memory where);
/* Of a live block; checks the red zones. */
void memory_free(void *memory);
bool memory_live(const void *memory, place_of_memory where);
size_t memory_live_bytes();
void memory_free_all(); /* without a look at its borders */
/* AddressSanitizer is in the program. */
bool sanitized();
} // namespace emu

#endif
