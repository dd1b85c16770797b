/* tests/kernels/test_conform.c - the suite over the backends of this program.
 *
 *   test_kernels_conform [rounds [seed [TRUE|FALSE [filter]]]]    TRUE: with several threads too
 */
#include "tests/support/test.h"

#include "tests/kernels/conform.h"

#include <stdlib.h>

static int32_t rounds = 4;
static uint64_t seed = 1;
static const char *filter;
static bool several_threads = true;

static void run(const char *name, int32_t threads, bool deterministic)
{
    const dml_backend *b;
    const dml_conform_config config = {.filter = filter,
                                       .threads = threads,
                                       .deterministic = deterministic,
                                       .rounds = rounds,
                                       .seed = seed};
    if (dml_backend_find(name, &b) != DML_ERR_OK) {
        printf("%s: skipped: %s\n", name, dml_err_trail());
        skip();
    }
    DML_CHECK_EQ(0, dml_conform_run_with(b, &config));
}

static void ref_agrees_with_differences_of_itself(void **state)
{
    (void)state;
    run("ref", 1, true);
}

static void cpu_conforms_with_one_thread(void **state)
{
    (void)state;
    run("cpu", 1, false);
}

static void cpu_conforms_deterministically(void **state)
{
    (void)state;
    run("cpu", 1, true);
}

static void cpu_conforms_with_threads(void **state)
{
    (void)state;
    if (!several_threads) skip();
    run("cpu", 2, false);
    run("cpu", 3, true);
}

static void cuda_conforms(void **state)
{
    (void)state;
    run("cuda", 1, true);
}

int main(int argc, char **argv)
{
    if (argc > 1) rounds = (int32_t)strtol(argv[1], NULL, 10);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    if (argc > 3) several_threads = strcmp(argv[3], "TRUE") == 0;
    if (argc > 4) filter = argv[4];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_agrees_with_differences_of_itself),
        cmocka_unit_test(cpu_conforms_with_one_thread),
        cmocka_unit_test(cpu_conforms_deterministically),
        cmocka_unit_test(cpu_conforms_with_threads),
        cmocka_unit_test(cuda_conforms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
