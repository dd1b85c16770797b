/* tests/kernels/test_backend.c - backends by name, and what is said when one is missing. */
#include "tests/support/test.h"

#include "kernels/backend.h"

static const dml_backend *found;
static char why[256];

static void ref_and_cpu_are_always_here_with_every_kernel(void **state)
{
    (void)state;
    static const char *const names[] = {"ref", "cpu"};
    for (int i = 0; i < 2; i++) {
        DML_CHECK_OK(dml_backend_find(names[i], &found, why, sizeof why));
        assert_string_equal(names[i], found->name);
        assert_string_equal("shm", found->transport);
        assert_string_equal("", why);
        for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
            DML_CHECK(dml_kernel_here(found->kernels, kernel));
    }
}

static void an_unknown_name_lists_the_known_ones(void **state)
{
    (void)state;
    DML_CHECK_FAILS(DML_ERR_SPEC, "no backend is called 'tpu': choose auto, cuda, cpu or ref",
                    dml_backend_find("tpu", &found, why, sizeof why));
}

static void auto_is_cuda_when_it_has_a_device_and_else_cpu_with_the_reason(void **state)
{
    (void)state;
    DML_CHECK_OK(dml_backend_find("auto", &found, why, sizeof why));
    char reason[256];
    const dml_backend *cuda;
    const dml_err err = dml_backend_find("cuda", &cuda, reason, sizeof reason);
    assert_string_equal(err == DML_ERR_OK ? "cuda" : "cpu", found->name);
    if (err == DML_ERR_OK) return;
    DML_CHECK_EQ(DML_ERR_UNAVAILABLE, err);
    DML_CHECK(strlen(why) > 0);
    assert_string_equal(why, reason);
    DML_CHECK(strstr(dml_err_trail(), why) != NULL);
}

static void a_symbol_that_is_nowhere_has_a_reason(void **state)
{
    (void)state;
    DML_CHECK(dml_module_symbol("dml_no_such_symbol", why, sizeof why) == NULL);
    DML_CHECK(strlen(why) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_and_cpu_are_always_here_with_every_kernel),
        cmocka_unit_test(an_unknown_name_lists_the_known_ones),
        cmocka_unit_test(auto_is_cuda_when_it_has_a_device_and_else_cpu_with_the_reason),
        cmocka_unit_test(a_symbol_that_is_nowhere_has_a_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
