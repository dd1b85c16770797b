/* tests/kernels/cuda/test_gpu.c - the conformance suite on a real GPU; skipped (77) where there is none.
 *
 *   test_gpu [rounds [seed [filter]]]
 */
#include "tests/support/test.h"

#include "tests/kernels/conform.h"

#include <stdlib.h>

enum { SKIPPED = 77 };

int main(int argc, char **argv)
{
    const dml_backend *cuda = NULL;
    if (dml_backend_find("cuda", &cuda) != DML_ERR_OK) {
        printf("%s\n", dml_err_trail());
        return SKIPPED;
    }
    dml_conform_config config = {.threads = 1, .rounds = 20, .seed = 1};
    if (argc > 1) config.rounds = (int32_t)strtol(argv[1], NULL, 10);
    if (argc > 2) config.seed = strtoull(argv[2], NULL, 10);
    if (argc > 3) config.filter = argv[3];
    int failures = dml_conform_run_with(cuda, &config);
    config.deterministic = true;
    failures += dml_conform_run_with(cuda, &config);
    return failures == 0 ? 0 : 1;
}
