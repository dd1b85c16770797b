/* tests/kernels/cuda/test_module.c - libdml_cuda.so as it was built, on a machine with or without a GPU. */
#include "tests/support/test.h"

#include "comm/transport.h"
#include "kernels/backend.h"

static const dml_backend *load(void)
{
    char why[512];
    void *symbol = dml_module_symbol("dml_cuda_backend", why, sizeof why);
    if (!symbol) fail_msg("%s", why);
    const dml_backend *(*backend)(void);
    memcpy(&backend, &symbol, sizeof backend);
    return backend();
}

static void the_module_loads_and_names_itself(void **state)
{
    (void)state;
    const dml_backend *b = load();
    assert_string_equal(b->name, "cuda");
    assert_string_equal(b->transport, "nccl");
    char why[256];
    const dml_transport_api *nccl = dml_module_symbol("dml_nccl_transport", why, sizeof why);
    assert_non_null(nccl);
    assert_string_equal(nccl->name, "nccl");
}

static void its_table_has_every_kernel(void **state)
{
    (void)state;
    const dml_kernel_table *k = load()->kernels;
    DML_CHECK(k->begin_step && k->choices && k->choose);
    for (int32_t i = 0; i < DML_KERNELS; i++)
        if (!dml_kernel_here(k, i)) fail_msg("%s is missing", dml_kernel_name(i));
}

/* The words are the driver's, and they reach this program's error trail from inside the module. */
static void a_device_that_is_missing_is_explained(void **state)
{
    (void)state;
    const dml_backend *b = load();
    char why[256] = "";
    const int32_t n = b->device->count(why, sizeof why);
    DML_CHECK((n > 0) == (why[0] == '\0'));
    const dml_device_config config = {.index = n, .threads = 1, .queue_capacity = 1};
    dml_device *device = NULL;
    char text[128];
    snprintf(text, sizeof text, "CUDA device %d of %d", n, n);
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, text, b->device->open(&config, &device));
    DML_CHECK(strstr(dml_err_trail(), why));
    print_message("CUDA devices: %d %s\n", n, why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_module_loads_and_names_itself),
        cmocka_unit_test(its_table_has_every_kernel),
        cmocka_unit_test(a_device_that_is_missing_is_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
