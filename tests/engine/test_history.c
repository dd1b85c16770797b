/* tests/engine/test_history.c - the history checker passes what is right and finds what was doctored. */
#include "tests/support/test.h"

#include "tests/support/history.h"

#include <stdlib.h>
#include <unistd.h>

#define START(numerics)                                                                       \
    "{\"v\":1,\"type\":\"run_start\",\"total_steps\":4,\"global_batch_size\":8,\"numerics\":" \
    "\"" numerics "\"}\n"
#define STEP(k, g, loss, samples)                                                      \
    "{\"v\":1,\"type\":\"step\",\"step\":" #k ",\"generation\":" #g ",\"loss\":" #loss \
    ",\"grad_norm\":0." #k ",\"samples\":" #samples ",\"verdict\":\"commit\"}\n"
#define LOSS "{\"v\":1,\"type\":\"failure\",\"rank\":1}\n"
#define RECOVERY(g, step, lost)                                                             \
    "{\"v\":1,\"type\":\"recovery\",\"reason\":\"loss\",\"ranks\":\"1\",\"generation\":" #g \
    ",\"step\":" #step ",\"steps_lost\":" #lost "}\n"
#define END(code, hash)                                                          \
    "{\"v\":1,\"type\":\"run_end\",\"status\":\"finished\",\"exit_code\":" #code \
    ",\"steps\":4,\"weights_hash\":\"" hash "\"}\n"
#define S1        STEP(1, 0, 0.5, 8)
#define S2        STEP(2, 0, 0.25, 8)
#define S3        STEP(3, 0, 0.125, 8)
#define S4        STEP(4, 0, 0.0625, 8)
#define RECOVERED S1 S2 LOSS STEP(3, 1, 0.125, 8) RECOVERY(1, 2, 0) STEP(4, 1, 0.0625, 8)

static const char undisturbed[] = START("exact") S1 S2 S3 S4 END(0, "00ab");

static history read_text(const char *text)
{
    char path[] = DML_BINARY_DIR "/history-XXXXXX", why[512];
    const int fd = mkstemp(path);
    DML_CHECK(fd >= 0);
    DML_CHECK_EQ((ssize_t)strlen(text), write(fd, text, strlen(text)));
    close(fd);
    history h;
    const bool ok = history_read(path, &h, why, sizeof why);
    remove(path);
    if (!ok) fail_msg("%s", why);
    return h;
}

/* NULL: it passes; else the complaint has these words. */
static void expect(const char *text, const char *complaint)
{
    char why[512] = "";
    history h = read_text(text), oracle = read_text(undisturbed);
    const bool ok = history_check(&h, &oracle, 1e-5, why, sizeof why);
    if (ok != !complaint || (complaint && !strstr(why, complaint)))
        fail_msg("'%s' instead of '%s'", why, complaint ? complaint : "");
    history_free(&h);
    history_free(&oracle);
}

static void a_history_that_is_right_passes(void **state)
{
    (void)state;
    expect(undisturbed, NULL);
    expect(START("exact") RECOVERED END(0, "00ab"), NULL);
    expect(START("exact") S1 S2 S3 LOSS STEP(2, 2, 0.25, 8) RECOVERY(2, 1, 2) STEP(3, 2, 0.125, 8)
               STEP(4, 2, 0.0625, 8) END(0, "00ab"),
           NULL);
    expect(START("fast") S1 S2 S3 STEP(4, 0, 0.0625001, 8) END(0, "0abc"), NULL);
}

static void steps_that_are_missing_or_come_twice_are_found(void **state)
{
    (void)state;
    expect(START("exact") S1 S3 S4 END(0, "00ab"), "step 3 follows step 1");
    expect(START("exact") S1 S2 S2 S3 S4 END(0, "00ab"), "step 2 comes again after step 2");
    expect(START("exact") S1 S2 S3 END(0, "00ab"), "the last step is 3 of 4");
    expect(START("exact") S1 S2 S3 LOSS STEP(2, 2, 0.25, 8) RECOVERY(2, 1, 1) STEP(3, 2, 0.125, 8)
               STEP(4, 2, 0.0625, 8) END(0, "00ab"),
           "step 2 comes again after step 3");
    expect(START("exact") S1 S2 LOSS STEP(3, 1, 0.125, 8) RECOVERY(1, 2, 1) STEP(4, 1, 0.0625, 8)
               END(0, "00ab"),
           "says 1 steps are lost: none is");
    expect(START("exact") S1 STEP(2, 1, 0.25, 8) S3 S4 END(0, "00ab"), "of plan 0, after one of");
}

static void a_micro_batch_too_many_or_too_few_is_found(void **state)
{
    (void)state;
    expect(START("exact") S1 STEP(2, 0, 0.25, 6) S3 S4 END(0, "00ab"), "step 2 counts 6 samples");
    expect(START("exact") S1 S2 STEP(3, 0, 0.12500000000000003, 8) S4 END(0, "00ab"),
           "step 3 has loss");
    expect(START("fast") S1 S2 STEP(3, 0, 0.12501, 8) S4 END(0, "00ab"), "step 3 has loss");
}

static void two_outcomes_of_one_step_are_found(void **state)
{
    (void)state;
    char why[512];
    history h = read_text(START("exact") S1 S2 S3 LOSS STEP(3, 1, 0.126, 8) RECOVERY(1, 2, 1)
                              STEP(4, 1, 0.0625, 8) END(0, "00ab"));
    DML_CHECK(!history_check(&h, NULL, 0.0, why, sizeof why));
    DML_CHECK(strstr(why, "the first time"));
    history_free(&h);
}

static void an_end_that_is_wrong_is_found(void **state)
{
    (void)state;
    expect(START("exact") S1 S2 S3 S4, "no end");
    expect(START("exact") S1 S2 S3 S4 END(6, "00ab"), "with code 6");
    expect(START("exact") S1 S2 S3 S4 END(0, "00ac"), "are not the undisturbed run's");
    expect(START("exact") S1 S2 S3 S4 END(0, ""), "different weights");
    expect(START("exact") S1 S2 LOSS S3 S4 END(0, "00ab"),
           "1 workers were lost, recoveries tell of 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_history_that_is_right_passes),
        cmocka_unit_test(steps_that_are_missing_or_come_twice_are_found),
        cmocka_unit_test(a_micro_batch_too_many_or_too_few_is_found),
        cmocka_unit_test(two_outcomes_of_one_step_are_found),
        cmocka_unit_test(an_end_that_is_wrong_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
