/* tests/engine/test_checkpoint_power.c - the power goes while checkpoints are saved: after any call of the saver, in any of the
 * states that tests/support/disk_model.h allows, what is to be seen is whole, and no older than the last one published.
 *
 *   test_engine_checkpoint_power [cuts after each call]      4 by default
 */
#include "tests/support/test.h"

#include "tests/support/depot_by_text.h"
#include "tests/support/disk_model.h"

#include "engine/checkpoint_files.h"

#include <sys/stat.h>

enum { KEEP = 2 };
/* Steps as they are saved; one is saved again, as after a resume. */
static const int64_t steps[] = {1, 2, 3, 3, 4, 7};

static char folder[] = "/tmp/dml-checkpoint-power-XXXXXX";
static int cuts = 4;

typedef struct rig {
    banked saved, loaded;
    char root[64], after[64];
    int64_t published, under_way;
    int64_t calls, states, with_new, wrong;
    char first_wrong[512];
} rig;

static void wrong(rig *g, int64_t found, const char *told)
{
    if (g->wrong++ == 0)
        snprintf(g->first_wrong, sizeof g->first_wrong,
                 "call %lld, step %lld under way, %lld published: found %lld; %s",
                 (long long)g->calls, (long long)g->under_way, (long long)g->published,
                 (long long)found, told);
}

static void look(rig *g)
{
    dml_arena arena = {0};
    const char *path, *told = "";
    int64_t found = 0;
    banked *b = &g->loaded;
    const dml_err err = dml_checkpoint_newest(g->after, &b->spec, &b->identity, &b->bank, 0, &arena,
                                              &found, &path, &told);
    const bool known = found == g->published || found == g->under_way;
    if (err != DML_ERR_OK)
        wrong(g, found, dml_err_trail());
    else if (*told || !known || found < g->published || (found > 0 && !banked_is(b, found)))
        wrong(g, found, told);
    g->with_new += found > g->published;
    dml_arena_free(&arena);
}

/* Nothing in sight is half of one, older ones too. */
static void look_at_all(rig *g)
{
    dml_arena arena = {0};
    int64_t *step, loaded;
    int32_t n;
    const char *told;
    banked *b = &g->loaded;
    DML_CHECK_OK(dml_ckpt_list(g->after, &arena, &step, &n));
    for (int32_t i = 0; i < n; i++) {
        char path[128], name[DML_CHECKPOINT_NAME];
        dml_ckpt_step_name(step[i], name);
        snprintf(path, sizeof path, "%s/%s", g->after, name);
        if (dml_checkpoint_load(path, &b->spec, &b->identity, &b->bank, 0, &arena, &loaded,
                                &told) != DML_ERR_OK)
            wrong(g, step[i], dml_err_trail());
    }
    dml_arena_free(&arena);
}

/* Who comes back after the power goes on saving there. */
static void go_on(rig *g)
{
    dml_checkpoint_folder f;
    int64_t bytes;
    DML_CHECK_OK(dml_checkpoint_open(g->after, &f));
    const dml_checkpoint_job job = banked_job(&g->saved);
    DML_CHECK_OK(dml_checkpoint_write(&f, &job, KEEP, &bytes));
    dml_checkpoint_close(&f);
}

static void cut(void *context)
{
    rig *g = context;
    g->calls++;
    for (int i = 0; i < cuts; i++) {
        DML_CHECK(mkdir(g->after, 0777) == 0);
        disk_power_cut(g->after);
        look(g);
        look_at_all(g);
        if (i == 0) go_on(g);
        remove_tree(g->after);
        g->states++;
    }
}

static void save_all(rig *g, bool file_sync_lies, bool folder_sync_lies)
{
    dml_checkpoint_folder f;
    int64_t bytes;
    *g = (rig){0};
    snprintf(g->root, sizeof g->root, "%s/root", folder);
    snprintf(g->after, sizeof g->after, "%s/after", folder);
    banked_open(&g->saved, NULL, 0);
    banked_open(&g->loaded, NULL, 0);
    DML_CHECK(mkdir(g->root, 0777) == 0);
    disk_begin(&(disk_watch){g->root, cut, g, file_sync_lies, folder_sync_lies});
    DML_CHECK_OK(dml_checkpoint_open(g->root, &f));
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        g->under_way = steps[i];
        banked_fill(&g->saved, steps[i]);
        const dml_checkpoint_job job = banked_job(&g->saved);
        DML_CHECK_OK(dml_checkpoint_write(&f, &job, KEEP, &bytes));
        g->published = steps[i];
    }
    dml_checkpoint_close(&f);
    disk_end();
    banked_close(&g->loaded);
    banked_close(&g->saved);
    remove_tree(g->root);
}

static void no_power_cut_leaves_less_than_what_was_published(void **state)
{
    (void)state;
    rig g;
    save_all(&g, false, false);
    if (g.wrong > 0)
        fail_msg("%lld of %lld states: %s", (long long)g.wrong, (long long)g.states, g.first_wrong);
    printf("power cuts after each of %lld calls: %lld states, 0 torn, 0 behind what was published; "
           "%lld had the one under way\n",
           (long long)g.calls, (long long)g.states, (long long)g.with_new);
    DML_CHECK(g.calls > 100 && g.with_new > 0);
}

/* What makes it hold is each fsync: the model sees when one is not there. */
static void without_fsync_some_would(void **state)
{
    (void)state;
    rig g;
    save_all(&g, true, false);
    DML_CHECK(g.wrong > 0);
    save_all(&g, false, true);
    DML_CHECK(g.wrong > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_power_cut_leaves_less_than_what_was_published),
        cmocka_unit_test(without_fsync_some_would),
    };
    if (argc > 1) cuts = atoi(argv[1]);
    if (!mkdtemp(folder)) return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_tree(folder);
    return failed;
}
