/* tests/comm/nccl/test_real.c - the real module and the real NCCL, as far as they go without a GPU. */
#include "tests/support/test.h"

#include "comm/transport.h"
#include "kernels/backend.h"

#include <dlfcn.h>

static void the_module_says_which_nccl_it_has(void **state)
{
    (void)state;
    const dml_transport_api *api;
    DML_CHECK_OK(dml_transport_find("nccl", &api));
    assert_string_equal("nccl", api->name);
    int minor = 0;
    if (sscanf(api->library(), "NCCL 2.%d.", &minor) != 1) fail_msg("it says '%s'", api->library());
    DML_CHECK(minor >= 18);
}

/* Where it was linked is where it is found: one library in the process, the module's. */
static void ids_are_made_without_a_gpu_and_differ(void **state)
{
    (void)state;
    char why[256], id[2][128] = {{0}};
    DML_CHECK(dml_module_symbol("dml_nccl_transport", why, sizeof why) != NULL);
    void *nccl = dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD);
    DML_CHECK(nccl != NULL);
    void *symbol = dlsym(nccl, "ncclGetUniqueId");
    int (*make)(void *id);
    memcpy(&make, &symbol, sizeof make);
    for (int i = 0; i < 2; i++)
        DML_CHECK_EQ(0, make(id[i]));
    DML_CHECK(memcmp(id[0], id[1], sizeof id[0]) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_module_says_which_nccl_it_has),
        cmocka_unit_test(ids_are_made_without_a_gpu_and_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
