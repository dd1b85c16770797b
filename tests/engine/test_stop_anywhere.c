/* A run that is stopped at any instant, opening included, ends by itself and touches nothing that is gone. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include "engine/base/clock.h"
#include "engine/base/rng.h"

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

static const layout layouts[] = {{"1", "1", "sequential", "1"},
                                 {"3", "1", "gpipe", "1"},
                                 {"2", "2", "1f1b", "2"},
                                 {"3", "1", "zb_h1", "1"},
                                 {"2", "2", "chimera", "1"}};
enum { LAYOUTS = sizeof layouts / sizeof *layouts, INSTANTS = 12, WITHIN_US = 24000 };

static void stop(void *context, dml_control *control)
{
    const int64_t *after_us = context;
    dml_sleep_until_ns(dml_clock_ns() + *after_us * 1000);
    dml_wait_set(&control->fence, DML_FENCE_END);
}

static void it_ends_by_itself(void **state)
{
    (void)state;
    static const char *const extra[] = {"training.max_steps=100", "failures.policy=abort", NULL};
    int32_t stopped = 0;
    for (int32_t l = 0; l < LAYOUTS; l++)
        for (uint32_t i = 0; i < INSTANTS; i++) {
            uint32_t word[4];
            dml_rng_block(dml_rng_key(1, DML_RNG_TEST, (uint64_t)l), 0, i, word);
            int64_t after_us = word[0] % WITHIN_US;
            const run_result r = run_layout_hooked(
                TINY, &layouts[l], extra, (run_hooks){.begin = stop, .context = &after_us});
            if (r.err == DML_ERR_OK) continue; /* it was through already */
            DML_CHECK_EQ(DML_ERR_PEER, r.err);
            DML_CHECK(strstr(r.trail, "being stopped"));
            stopped++;
        }
    DML_CHECK(stopped > LAYOUTS * INSTANTS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_ends_by_itself)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
