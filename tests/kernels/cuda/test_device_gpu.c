/* tests/kernels/cuda/test_device_gpu.c - the contract of a device on a real GPU; skipped (77) where there is none. */
#include "tests/support/test.h"

#include "kernels/backend.h"
#include "tests/kernels/device_contract.h"

enum { SKIPPED = 77 };

static const dml_backend *cuda;

static void it_keeps_the_contract_of_a_device(void **state)
{
    (void)state;
    device_contract(cuda->device);
}

int main(void)
{
    if (dml_backend_find("cuda", &cuda) != DML_ERR_OK) {
        printf("%s\n", dml_err_trail());
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_keeps_the_contract_of_a_device)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
