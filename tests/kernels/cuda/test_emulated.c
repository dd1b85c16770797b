/* tests/kernels/cuda/test_emulated.c - the conformance suite over the emulated CUDA backend.
 *
 *   test_emulated [forward|reverse|random [rounds [seed [filter]]]]
 *
 * Streams progress by lottery: no step of a job may count on an earlier one having run.
 */
#include "tests/support/test.h"

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/kernels_cuda.h"
#include "tests/kernels/conform.h"

#include <stdlib.h>

static dml_emu_order order = DML_EMU_FORWARD;
static dml_conform_config config = {.threads = 1, .deterministic = true, .rounds = 8, .seed = 1};

static void conform(const dml_conform_config *c)
{
    dml_emu_setup(order, DML_EMU_LOTTERY, c->seed);
    const int failures = dml_conform_run_with(dml_cuda_backend(), c);
    for (int32_t i = 0; i < dml_emu_faults(); i++)
        if (dml_emu_fault(i)[0]) print_message("%s\n", dml_emu_fault(i));
    DML_CHECK_EQ(0, dml_emu_faults());
    DML_CHECK_EQ(0, failures);
}

static void the_emulated_kernels_conform(void **state)
{
    (void)state;
    conform(&config);
}

/* Algorithms that split k, and what only then is in a product's epilogue. */
static void products_conform_in_fast_mode_too(void **state)
{
    (void)state;
    dml_conform_config fast = config;
    fast.deterministic = false;
    fast.filter = "linear";
    conform(&fast);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "reverse") == 0) order = DML_EMU_REVERSE;
    if (argc > 1 && strcmp(argv[1], "random") == 0) order = DML_EMU_RANDOM;
    if (argc > 2) config.rounds = (int32_t)strtol(argv[2], NULL, 10);
    if (argc > 3) config.seed = strtoull(argv[3], NULL, 10);
    if (argc > 4) config.filter = argv[4];
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_emulated_kernels_conform),
                                       cmocka_unit_test(products_conform_in_fast_mode_too)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
