/* kernels/cuda/emulation/shadow.h - who last used which 4 bytes: the memory of the clocks (clocks.h). */
#ifndef DML_EMULATION_SHADOW_H
#define DML_EMULATION_SHADOW_H

#include <stddef.h>

namespace emu
{
void shadow_forget(const void *base, size_t bytes);
} // namespace emu

#endif
