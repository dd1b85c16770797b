/* tests/kernels/test_backend.c - backends by name, and what is said when one is missing. */
#include "tests/support/test.h"

#include "kernels/backend.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

static const dml_backend *found;
static char why[256];

/* Entries that stand for two others, so that a backend may do without. */
static bool is_joint(int32_t kernel)
{
    return strncmp(dml_kernel_name(kernel), "linear_act_", 11) == 0;
}

static void ref_and_cpu_are_always_here_with_every_kernel(void **state)
{
    (void)state;
    static const char *const names[] = {"ref", "cpu"};
    for (int i = 0; i < 2; i++) {
        DML_CHECK_OK(dml_backend_find(names[i], &found));
        assert_string_equal(names[i], found->name);
        assert_string_equal("shm", found->transport);
        DML_CHECK(found->on_host);
        for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++)
            DML_CHECK(dml_kernel_here(found->kernels, kernel) || (i == 1 && is_joint(kernel)));
    }
}

static void an_unknown_name_lists_the_known_ones(void **state)
{
    (void)state;
    DML_CHECK_FAILS(DML_ERR_SPEC, "no backend is called 'tpu': choose auto, cuda, cpu or ref",
                    dml_backend_find("tpu", &found));
}

static void auto_tries_cuda_first_and_ends_where_a_device_always_is(void **state)
{
    (void)state;
    int32_t n;
    const char *const *names = dml_backend_auto(&n);
    assert_string_equal("cuda", names[0]);
    DML_CHECK_OK(dml_backend_find(names[n - 1], &found));
    DML_CHECK(found->device->count(why, sizeof why) > 0);
}

static void cuda_is_here_with_a_device_or_says_what_is_missing(void **state)
{
    (void)state;
    const dml_err err = dml_backend_find("cuda", &found);
    if (err == DML_ERR_OK) {
        DML_CHECK(found->device->count(why, sizeof why) > 0);
        return;
    }
    DML_CHECK_EQ(DML_ERR_UNAVAILABLE, err);
    DML_CHECK(strstr(dml_err_trail(), "no GPU: ") != NULL);
}

static void a_symbol_that_is_nowhere_has_a_reason(void **state)
{
    (void)state;
    DML_CHECK(dml_module_symbol("dml_no_such_symbol", why, sizeof why) == NULL);
    DML_CHECK(strlen(why) > 0);
}

/* Puts a copy of `from` (NULL: junk) at `dir`/`name`. */
static void put_file(const char *dir, const char *name, const char *from)
{
    char path[PATH_MAX], command[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (from)
        snprintf(command, sizeof command, "cp '%s' '%s'", from, path);
    else
        snprintf(command, sizeof command, "echo junk > '%s'", path);
    DML_CHECK_EQ(0, system(command));
}

static void a_module_beside_the_program_that_does_not_load_says_so(void **state)
{
    (void)state;
    char dir[] = "backend-XXXXXX", self[PATH_MAX] = {0}, command[PATH_MAX], line[512] = {0};
    DML_CHECK(mkdtemp(dir) != NULL);
    DML_CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    put_file(dir, "program", self);
    put_file(dir, "libdml_cuda.so", NULL);
    snprintf(command, sizeof command, "'%s/program' why", dir);
    FILE *out = popen(command, "r");
    DML_CHECK(out && fgets(line, sizeof line, out));
    DML_CHECK_EQ(0, pclose(out));
    DML_CHECK(strstr(line, "libdml_cuda.so: file too short") != NULL);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    DML_CHECK_EQ(0, system(command));
}

/* With an argument: prints why there is no module, for the test above. */
int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        dml_module_symbol("dml_cuda_backend", why, sizeof why);
        printf("%s\n", why);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_and_cpu_are_always_here_with_every_kernel),
        cmocka_unit_test(an_unknown_name_lists_the_known_ones),
        cmocka_unit_test(auto_tries_cuda_first_and_ends_where_a_device_always_is),
        cmocka_unit_test(cuda_is_here_with_a_device_or_says_what_is_missing),
        cmocka_unit_test(a_symbol_that_is_nowhere_has_a_reason),
        cmocka_unit_test(a_module_beside_the_program_that_does_not_load_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
