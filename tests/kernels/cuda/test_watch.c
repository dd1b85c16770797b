/* tests/kernels/cuda/test_watch.c - a device's watch, on a stand-in of NVML (nvml/stand_in.c). */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"

#include <stdlib.h>
#include <unistd.h>

static const dml_device_api *const api = &dml_cuda_device;
static char file[64];

typedef struct heard {
    _Atomic int n;
    dml_news news[8];
} heard;

static void hear(void *context, const dml_news *news)
{
    heard *h = context;
    h->news[atomic_load(&h->n) % 8] = *news;
    atomic_fetch_add(&h->n, 1);
}

static void happen(const char *line)
{
    FILE *f = fopen(file, "a");
    DML_CHECK(f != NULL);
    fputs(line, f);
    fclose(f);
}

static void wait_for(heard *h, int n)
{
    const int64_t deadline_ns = dml_clock_ns() + 20 * DML_NS_PER_S;
    while (atomic_load(&h->n) < n && dml_clock_ns() < deadline_ns)
        dml_sleep_until_ns(dml_clock_ns() + DML_NS_PER_MS);
    DML_CHECK_EQ(n, atomic_load(&h->n));
}

static int make_file(void **state)
{
    (void)state;
    snprintf(file, sizeof file, "/tmp/dml-xid-XXXXXX");
    const int fd = mkstemp(file);
    close(fd);
    setenv("NVML_STAND_IN", file, 1);
    return fd < 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(file);
}

static void events_that_lose_a_device_are_told_and_others_are_not(void **state)
{
    (void)state;
    static heard one, three;
    dml_watch *watch[2];
    DML_CHECK_OK(api->watch(1, hear, &one, &watch[0]));
    DML_CHECK_OK(api->watch(3, hear, &three, &watch[1]));
    happen("ffff:01:00.0 31\nffff:01:00.0 79\nffff:03:00.0 74\nffff:01:00.0 13\nffff:01:00.0 95\n");
    wait_for(&one, 2);
    wait_for(&three, 1);
    DML_CHECK(one.news[0].kind == DML_NEWS_LOST && one.news[0].code == 79);
    assert_string_equal("Xid 79 of device 1 (ffff:01:00.0): the GPU has fallen off the bus",
                        one.news[0].text);
    DML_CHECK(one.news[1].kind == DML_NEWS_LOST && one.news[1].code == 95);
    DML_CHECK(three.news[0].kind == DML_NEWS_LINK && three.news[0].code == 74);
    api->unwatch(watch[0]);
    happen("ffff:01:00.0 48\nffff:03:00.0 48\n");
    wait_for(&three, 2);
    api->unwatch(watch[1]);
    DML_CHECK_EQ(2, one.n); /* nobody listened any more */
    api->unwatch(NULL);
}

static void a_gpu_that_the_library_has_lost_is_lost(void **state)
{
    (void)state;
    static heard two;
    dml_watch *watch;
    DML_CHECK_OK(api->watch(2, hear, &two, &watch));
    happen("ffff:02:00.0 0\n");
    wait_for(&two, 1);
    DML_CHECK(two.news[0].kind == DML_NEWS_LOST);
    DML_CHECK(strstr(two.news[0].text, "NVML has lost it"));
    api->unwatch(watch);
}

static void a_driver_that_is_not_there_is_named(void **state)
{
    (void)state;
    static heard none;
    dml_watch *watch = NULL;
    unsetenv("NVML_STAND_IN");
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "nvmlInit_v2 (device 0, ffff:00:00.0): Driver Not Loaded",
                    api->watch(0, hear, &none, &watch));
    DML_CHECK(watch == NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(events_that_lose_a_device_are_told_and_others_are_not,
                                        make_file, remove_file),
        cmocka_unit_test_setup_teardown(a_gpu_that_the_library_has_lost_is_lost, make_file,
                                        remove_file),
        cmocka_unit_test(a_driver_that_is_not_there_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
