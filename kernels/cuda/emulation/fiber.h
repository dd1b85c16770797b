/* kernels/cuda/emulation/fiber.h - stacks to switch between.
 *
 * fiber_x86_64.cc switches in a dozen instructions; fiber_ucontext.cc does it on any processor, about ten
 * times slower, since it also saves the signal mask.  CMake takes one.
 */
#ifndef DML_EMULATION_FIBER_H
#define DML_EMULATION_FIBER_H

#include <stddef.h>

namespace emu
{
struct fiber {
    void *state; /* owned by the implementation while the program runs; starts as nullptr */
};

/* Makes `f` run entry() on `stack` when it is next switched to.  entry never returns.  A fiber that had
 * not ended is simply forgotten. */
void fiber_start(fiber *f, char *stack, size_t bytes, void (*entry)());
/* Saves the caller in `from` and goes on in `to`. */
void fiber_switch(fiber *from, fiber *to);
} // namespace emu

#endif
