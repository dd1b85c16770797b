/* tests/comm/test_transport.c - transports by name. */
#include "tests/support/test.h"

#include "comm/transport.h"

static void transports_are_found_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"shm", "local"};
    for (int i = 0; i < 2; i++) {
        const dml_transport_api *api = NULL;
        DML_CHECK_OK(dml_transport_find(names[i], &api));
        assert_string_equal(names[i], api->name);
        DML_CHECK(api->doc[0] != '\0');
    }
}

static void a_name_that_is_none_lists_those_there_are(void **state)
{
    (void)state;
    const dml_transport_api *api;
    DML_CHECK_FAILS(DML_ERR_SPEC, "no transport 'smh'; there are shm, local and nccl",
                    dml_transport_find("smh", &api));
}

/* With the module the table comes from it, without it the text says what is missing. */
static void nccl_comes_from_its_module_or_says_why_not(void **state)
{
    (void)state;
    const dml_transport_api *api;
    const dml_err err = dml_transport_find("nccl", &api);
    if (err == DML_ERR_OK) {
        assert_string_equal("nccl", api->name);
        return;
    }
    DML_CHECK_EQ(DML_ERR_UNAVAILABLE, err);
    DML_CHECK(strstr(dml_err_trail(), "transport 'nccl': "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transports_are_found_by_name),
        cmocka_unit_test(a_name_that_is_none_lists_those_there_are),
        cmocka_unit_test(nccl_comes_from_its_module_or_says_why_not),
    };
    return cmocka_run_group_tests_name("transport", tests, NULL, NULL);
}
