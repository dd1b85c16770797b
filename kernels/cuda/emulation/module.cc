/* kernels/cuda/emulation/module.cc - libdml_cuda_emulated.so: a fault nobody was told of must not go unseen. */
#include "kernels/cuda/emulation/emulation.h"

#include <stdio.h>
#include <unistd.h>

/* Calls after a fault fail with its text; but the last things found, such as a write past a block that is freed
 * at the end, come when nobody asks any more. */
__attribute__((destructor)) static void report_faults()
{
    const int32_t n = dml_emu_faults();
    if (n == 0) return;
    fprintf(stderr, "emulated-cuda: %d fault%s\n", n, n == 1 ? "" : "s");
    for (int32_t i = 0; i < n && dml_emu_fault(i)[0]; i++)
        fprintf(stderr, "  %s\n", dml_emu_fault(i));
    fflush(nullptr);
    _exit(1);
}
