/* kernels/cuda/emulation/fiber_x86_64.cc - the System V switch: six registers and the stack pointer. */
#include "kernels/cuda/emulation/fiber.h"

#include <stdint.h>

extern "C" void dml_emu_switch(void **save, void *load);
asm(R"(
    .text
    .type dml_emu_switch, @function
dml_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size dml_emu_switch, . - dml_emu_switch
)");

namespace emu
{
enum { SAVED_REGISTERS = 6 };

void fiber_start(fiber *f, char *stack, size_t bytes, void (*entry)())
{
    /* At entry the stack is 16-byte aligned plus the return address, which entry never uses. */
    const uintptr_t top = reinterpret_cast<uintptr_t>(stack + bytes) & ~static_cast<uintptr_t>(15);
    uintptr_t *sp = reinterpret_cast<uintptr_t *>(top);
    *--sp = 0;
    *--sp = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < SAVED_REGISTERS; i++)
        *--sp = 0;
    f->state = sp;
}

void fiber_switch(fiber *from, fiber *to)
{
    dml_emu_switch(&from->state, to->state);
}
} // namespace emu
