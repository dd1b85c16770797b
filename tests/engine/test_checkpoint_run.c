/* tests/engine/test_checkpoint_run.c - a run that was stopped goes on as if it had not been: from every step, and under
 * every other layout; losses of all later steps and the final weights are those of the run that never stopped. */
#include "tests/support/test.h"

#include "tests/support/run_threads.h"

#include <stdlib.h>
#include <unistd.h>

#define SPEC DML_SOURCE_DIR "/tests/specs/checkpoint-net.yaml"
enum { STEPS = 20, MOST = 12 };

static char folder[] = "/tmp/dml-checkpoint-run-XXXXXX";

static const char *const layout[][4] = {
    {"parallelism.pp=1", "parallelism.dp=1", "parallelism.schedule=1f1b"},
    {"parallelism.pp=2", "parallelism.dp=1", "parallelism.schedule=1f1b"},
    {"parallelism.pp=1", "parallelism.dp=2", "parallelism.schedule=gpipe"},
    {"parallelism.pp=2", "parallelism.dp=2", "parallelism.schedule=zb_h1"},
    {"parallelism.pp=4", "parallelism.dp=1", "parallelism.schedule=gpipe"},
    {"parallelism.pp=2", "parallelism.dp=1", "parallelism.schedule=chimera"},
    {"parallelism.pp=2", "parallelism.dp=4", "parallelism.schedule=1f1b"},
    {"parallelism.pp=4", "parallelism.dp=2", "parallelism.schedule=1f1b"},
};
enum { LAYOUTS = sizeof layout / sizeof *layout };

/* Stops the run after step `at`: saved by then. */
typedef struct stopper {
    int64_t at;
} stopper;

static void stop_at(void *context, int64_t step, dml_control *control)
{
    const stopper *s = context;
    if (step == s->at) atomic_store(&control->stop, 1);
}

static run_result train(int32_t how, const char *const *more, run_hooks hooks)
{
    char where[256];
    const char *all[MOST] = {layout[how][0], layout[how][1], layout[how][2]};
    int32_t n = 3;
    snprintf(where, sizeof where, "checkpoint.folder=%s", folder);
    all[n++] = where;
    for (; more && *more; more++)
        all[n++] = *more;
    return run_threads_hooked(SPEC, all, hooks);
}

static void remove_folder(void)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    DML_CHECK(system(command) == 0);
}

static void expect_same(const run_result *want, const run_result *got, const char *what)
{
    if (got->err != DML_ERR_OK) fail_msg("%s: %s", what, got->trail);
    DML_CHECK_EQ(STEPS, got->steps);
    for (int64_t s = got->begins_after; s < STEPS; s++)
        if (want->step[s].loss != got->step[s].loss)
            fail_msg("%s: the loss of step %lld is %.17g, not %.17g", what, (long long)s + 1,
                     got->step[s].loss, want->step[s].loss);
    if (want->weights_hash != got->weights_hash) fail_msg("%s: other weights", what);
}

static void copy_newest(const char *to)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s.kept' && cp -r '%s' '%s.kept'", to, folder, to);
    DML_CHECK(system(command) == 0);
}

static void put_back(const char *from)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s.kept' '%s'", folder, from, folder);
    DML_CHECK(system(command) == 0);
}

/* Ten steps under each layout; its checkpoint is gone on from under each. */
static void what_one_layout_saves_any_other_goes_on_from(void **state)
{
    (void)state;
    static const char *const every[] = {"checkpoint.interval=5", NULL};
    static const char *const resume[] = {"checkpoint.resume=latest", NULL};
    remove_folder();
    const run_result want = train(0, NULL, (run_hooks){0});
    DML_CHECK_EQ(DML_ERR_OK, want.err);
    for (int32_t from = 0; from < LAYOUTS; from++) {
        stopper s = {10};
        remove_folder();
        const run_result first = train(from, every, (run_hooks){.step = stop_at, .context = &s});
        DML_CHECK_EQ(DML_ERR_OK, first.err);
        copy_newest(folder);
        for (int32_t to = 0; to < LAYOUTS; to++) {
            char what[64];
            snprintf(what, sizeof what, "from layout %d to %d", from, to);
            put_back(folder);
            const run_result got = train(to, resume, (run_hooks){0});
            DML_CHECK(got.begins_after > 0);
            expect_same(&want, &got, what);
        }
    }
}

/* Saved whenever the last save is through, stopped after each step in turn, and gone on with. */
static void a_run_that_is_stopped_again_and_again_is_the_same(void **state)
{
    (void)state;
    static const char *const on[] = {"checkpoint.interval=1", "checkpoint.resume=auto", NULL};
    remove_folder();
    const run_result want = train(0, NULL, (run_hooks){0});
    int32_t went_on = 0;
    for (int64_t at = 1; at < STEPS; at++) {
        char what[64];
        stopper s = {at};
        remove_folder();
        const run_result first =
            train((int32_t)at % LAYOUTS, on, (run_hooks){.step = stop_at, .context = &s});
        DML_CHECK_EQ(DML_ERR_OK, first.err);
        const run_result got = train((int32_t)(at + 3) % LAYOUTS, on, (run_hooks){0});
        went_on += got.begins_after > 0;
        snprintf(what, sizeof what, "stopped after step %lld, gone on after %lld", (long long)at,
                 (long long)got.begins_after);
        expect_same(&want, &got, what);
    }
    DML_CHECK(went_on > STEPS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_one_layout_saves_any_other_goes_on_from),
        cmocka_unit_test(a_run_that_is_stopped_again_and_again_is_the_same),
    };
    char kept[64];
    if (!mkdtemp(folder)) return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_folder();
    snprintf(kept, sizeof kept, "rm -rf '%s.kept'", folder);
    return system(kept) ? 1 : failed;
}
