/* kernels/cuda/emulation/fiber_ucontext.cc - switching by the C library, two system calls each. */
#include "kernels/cuda/emulation/fiber.h"

#include <ucontext.h>

namespace emu
{
static ucontext_t *context(fiber *f)
{
    if (!f->state) f->state = new ucontext_t();
    return static_cast<ucontext_t *>(f->state);
}

void fiber_start(fiber *f, char *stack, size_t bytes, void (*entry)())
{
    ucontext_t *c = context(f);
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = bytes;
    c->uc_link = nullptr;
    makecontext(c, entry, 0);
}

void fiber_switch(fiber *from, fiber *to)
{
    swapcontext(context(from), context(to));
}
} // namespace emu
