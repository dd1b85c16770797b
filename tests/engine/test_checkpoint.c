/* tests/engine/test_checkpoint.c - what is saved is loaded; what is broken is refused, with the reason; what fails
 * leaves what was there. */
#include "tests/support/test.h"

#include "tests/support/depot_by_text.h"

#include "engine/base/failpoint.h"
#include "engine/saver.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char folder[] = "/tmp/dml-checkpoint-XXXXXX";

static dml_err save(banked *b, int64_t step)
{
    dml_checkpoint_folder f;
    int64_t bytes;
    banked_fill(b, step);
    const dml_checkpoint_job job = banked_job(b);
    DML_CHECK_OK(dml_checkpoint_open(folder, &f));
    const dml_err err = dml_checkpoint_write(&f, &job, b->spec.checkpoint.keep, &bytes);
    dml_checkpoint_close(&f);
    return err;
}

/* The step that the newest one is of; -1: none.  The bank must hold it. */
static int64_t newest(banked *b, char told[512])
{
    dml_arena arena = {0};
    const char *path, *said;
    int64_t step = -1;
    DML_CHECK_OK(dml_checkpoint_newest(folder, &b->spec, &b->identity, &b->bank, 0, &arena, &step,
                                       &path, &said));
    if (path) DML_CHECK(banked_is(b, step));
    if (told) snprintf(told, 512, "%s", said);
    const int64_t found = path ? step : -1;
    dml_arena_free(&arena);
    return found;
}

static dml_err load(banked *b, const char *name, char told[512])
{
    char path[512];
    dml_arena arena = {0};
    const char *said;
    int64_t step;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    const dml_err err =
        dml_checkpoint_load(path, &b->spec, &b->identity, &b->bank, 0, &arena, &step, &said);
    if (told) snprintf(told, 512, "%s", said);
    dml_arena_free(&arena);
    return err;
}

/* "latest step-00000010 ...", in order. */
static void expect_names(const char *want)
{
    struct dirent **e;
    char have[1024] = "";
    const int n = scandir(folder, &e, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (strcmp(e[i]->d_name, ".") != 0 && strcmp(e[i]->d_name, "..") != 0) {
            if (have[0]) strcat(have, " ");
            strcat(have, e[i]->d_name);
        }
        free(e[i]);
    }
    free(e);
    assert_string_equal(want, have);
}

static int empty_folder(void **state)
{
    (void)state;
    dml_failpoints_disarm();
    remove_tree(folder);
    return 0;
}

static void what_is_saved_is_loaded(void **state)
{
    (void)state;
    static const char *const ways[][2] = {{"optimizer.name=adamw", "training.numerics=exact"},
                                          {"optimizer.name=sgd", "training.numerics=fast"},
                                          {"optimizer.name=sgd", "optimizer.momentum=0.9"}};
    for (size_t i = 0; i < 3; i++) {
        banked b;
        banked_open(&b, ways[i], 2);
        DML_CHECK_OK(save(&b, 40));
        memset(b.bank.memory, 0xee, (size_t)b.bank.bytes);
        DML_CHECK_EQ(40, newest(&b, NULL));
        banked_close(&b);
        remove_tree(folder);
    }
}

static void the_oldest_go_and_latest_names_the_newest(void **state)
{
    (void)state;
    banked b;
    char text[64] = "", path[512];
    banked_open(&b, NULL, 0);
    for (int64_t step = 10; step <= 50; step += 10)
        DML_CHECK_OK(save(&b, step));
    expect_names("latest step-00000040 step-00000050");
    snprintf(path, sizeof path, "%s/latest", folder);
    FILE *f = fopen(path, "r");
    DML_CHECK(f && fgets(text, sizeof text, f));
    fclose(f);
    assert_string_equal("step-00000050\n", text);
    DML_CHECK_OK(save(&b, 50)); /* again: it takes the place of the other */
    expect_names("latest step-00000040 step-00000050");
    DML_CHECK_EQ(50, newest(&b, NULL));
    banked_close(&b);
}

#define LAYERS(name, out, middle)                                          \
    "model.layers=[{linear: {out: " out ", name: " name "}}, " middle ", " \
    "{linear: {out: 3, name: fc2}}]"

static void another_run_is_refused_with_what_differs(void **state)
{
    (void)state;
    static const struct {
        const char *override, *text;
    } other[] = {
        {LAYERS("fc1", "8", "{batch_norm: {name: bn}}, {relu: {}}"),
         "'bn.bias' is F32 [7], the spec's is F32 [8]"},
        {LAYERS("fcx", "7", "{batch_norm: {name: bn}}, {relu: {}}"), "has no 'fcx.bias'"},
        {LAYERS("fc1", "7", "{relu: {}}"), "the spec's has no 'bn.bias'"},
        {LAYERS("fc1", "7", "{batch_norm: {name: bn}}, {gelu: {}}"),
         "tensors are the same, layers differ"},
        {"optimizer.name=sgd", "optimizer is \"sgd m\", there \"adamw m v\""},
        {"training.numerics=fast", "numerics is \"fast\", there \"exact\""},
        {"training.precision=bf16", "precision is \"bf16\", there \"fp32\""},
        {"run.seed=4", "seed is \"4\", there \"3\""},
        {"data.samples=128", "data is"},
        {"training.global_batch_size=16", "global_batch_size is \"16\", there \"8\""},
        {"training.micro_batch_size=2", "micro_batch_size is \"2\", there \"4\""},
    };
    banked b;
    banked_open(&b, NULL, 0);
    DML_CHECK_OK(save(&b, 10));
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        banked o;
        banked_open(&o, &other[i].override, 1);
        DML_CHECK_FAILS(DML_ERR_SPEC, other[i].text, load(&o, "step-00000010", NULL));
        banked_close(&o);
    }
    banked_close(&b);
}

static void what_may_differ_is_told(void **state)
{
    (void)state;
    static const char *const fast[] = {"training.numerics=fast"};
    static const char *const other[] = {"training.numerics=fast", "training.micro_batch_size=2",
                                        "optimizer.lr=0.5", "training.max_steps=200",
                                        "parallelism.pp=2"};
    char told[512];
    banked b, o;
    banked_open(&b, fast, 1);
    DML_CHECK_OK(save(&b, 10));
    DML_CHECK_OK(load(&b, "step-00000010", told));
    assert_string_equal("", told);
    banked_open(&o, other, 5);
    DML_CHECK_OK(load(&o, "step-00000010", told));
    DML_CHECK(banked_is(&o, 10));
    DML_CHECK(strstr(told, "micro_batch_size: \"2\", was \"4\"; optimizer settings: \"lr 0.5 "));
    DML_CHECK(strstr(told, "; steps: \"200 epochs"));
    banked_close(&o);
    banked_close(&b);
}

/* ---- damage ---- */

static void flip(const char *name, int64_t at)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "r+b");
    DML_CHECK(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    const int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 4, f);
    fclose(f);
}

static void command(const char *text)
{
    char all[1024];
    snprintf(all, sizeof all, "cd %s && %s", folder, text);
    DML_CHECK(system(all) == 0);
}

static void damage_is_found_and_the_one_before_is_taken(void **state)
{
    (void)state;
    static const struct {
        const char *does, *text;
    } damage[] = {
        {"rm step-00000020/MANIFEST.json", "MANIFEST.json': No such file"},
        {"rm step-00000020/optimizer.safetensors", "optimizer.safetensors': No such file"},
        {"truncate -s -1 step-00000020/model.safetensors", "the manifest says"},
        {"truncate -s -1 step-00000020/MANIFEST.json", "its hash is another"},
        {"cp step-00000010/model.safetensors step-00000020/", "hash differs"},
        {"cp step-00000010/train_state.json step-00000020/", "the manifest says"},
        {"cp step-00000010/MANIFEST.json step-00000020/", "holds step 10: it was saved as"},
        {"cp step-00000010/* step-00000020/", "holds step 10: it was saved as 'step-00000010'"},
        {"cp step-00000020/model.safetensors step-00000020/optimizer.safetensors",
         "optimizer.safetensors' has "},
        {"cp step-00000020/model.safetensors step-00000020/model-2.safetensors",
         "model-2.safetensors' is not in the manifest"},
        {"mv step-00000020/model.safetensors m && ln -s ../m step-00000020/model.safetensors",
         "model.safetensors': it is a link"},
        {"rm step-00000020/model.safetensors && mkdir step-00000020/model.safetensors",
         "model.safetensors' is no regular file"},
        {"sed -i s/step/stop/ step-00000020/MANIFEST.json", "its hash is another"},
        {"rm -r step-00000020/*", "MANIFEST.json': No such file"},
        {"rm -r step-00000020 && touch step-00000020", "no checkpoint at"},
    };
    banked b;
    banked_open(&b, NULL, 0);
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        char told[512];
        remove_tree(folder);
        DML_CHECK_OK(save(&b, 10));
        DML_CHECK_OK(save(&b, 20));
        command(damage[i].does);
        DML_CHECK_EQ(10, newest(&b, told));
        if (!strstr(told, "step-00000020 is passed over: ") || !strstr(told, damage[i].text))
            fail_msg("%s: not '%s': %s", damage[i].does, damage[i].text, told);
    }
    banked_close(&b);
}

static void a_flipped_bit_is_found_wherever_it_is(void **state)
{
    (void)state;
    static const char *const file[] = {"MANIFEST.json", "model.safetensors",
                                       "optimizer.safetensors", "train_state.json"};
    banked b;
    banked_open(&b, NULL, 0);
    DML_CHECK_OK(save(&b, 10));
    for (size_t f = 0; f < 4; f++) {
        char path[512], name[64];
        struct stat st;
        snprintf(name, sizeof name, "step-00000010/%s", file[f]);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        DML_CHECK(stat(path, &st) == 0);
        for (int64_t at = 0; at < st.st_size; at += 7) {
            flip(name, at);
            DML_CHECK_EQ(DML_ERR_DATA, load(&b, "step-00000010", NULL));
            flip(name, at);
        }
    }
    DML_CHECK_OK(load(&b, "step-00000010", NULL));
    banked_close(&b);
}

/* ---- failing ---- */

static void a_failing_save_leaves_what_was_there(void **state)
{
    (void)state;
    static const char *const point[] = {"ckpt.write", "ckpt.fsync", "ckpt.manifest", "ckpt.rename"};
    banked b;
    banked_open(&b, NULL, 0);
    DML_CHECK_OK(save(&b, 10));
    for (size_t p = 0; p < 4; p++)
        for (int hit = 1; hit <= 5; hit++) {
            char rule[64];
            snprintf(rule, sizeof rule, "%s@hit=%d:error=data", point[p], hit);
            dml_failpoints_disarm();
            DML_CHECK_OK(dml_failpoints_arm(rule));
            const dml_err err = save(&b, 20);
            const bool reached = dml_failpoint_count(DML_FAILPOINT_CKPT_RENAME) < 2;
            dml_failpoints_disarm();
            const int64_t found = newest(&b, NULL);
            if (err != DML_ERR_OK && reached && found == 10) expect_names("latest step-00000010");
            if (err != DML_ERR_OK) DML_CHECK(found == 10 || found == 20);
            if (err == DML_ERR_OK) DML_CHECK_EQ(20, found);
            remove_tree(folder);
            DML_CHECK_OK(save(&b, 10));
        }
    banked_close(&b);
}

static void a_full_disk_is_told_and_the_next_save_is_whole(void **state)
{
    (void)state;
    banked b;
    struct rlimit before, small;
    banked_open(&b, NULL, 0);
    DML_CHECK_OK(save(&b, 10));
    DML_CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t most = 0; most < 1400; most += 350) {
        small = (struct rlimit){most, before.rlim_max};
        DML_CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
        const dml_err err = save(&b, 20);
        DML_CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
        DML_CHECK_EQ(DML_ERR_DATA, err);
        DML_CHECK(strstr(dml_err_trail(), "File too large"));
        expect_names("latest step-00000010");
        DML_CHECK_EQ(10, newest(&b, NULL));
    }
    signal(SIGXFSZ, SIG_DFL);
    DML_CHECK_OK(save(&b, 20));
    DML_CHECK_EQ(20, newest(&b, NULL));
    banked_close(&b);
}

static void a_folder_that_cannot_be_is_refused(void **state)
{
    (void)state;
    dml_checkpoint_folder f, g;
    DML_CHECK_FAILS(DML_ERR_DATA, "cannot make the folder '/proc/none': ",
                    dml_checkpoint_open("/proc/none/at/all", &f));
    DML_CHECK_FAILS(DML_ERR_DATA, "", dml_checkpoint_open("/dev/null/sub", &f));
    DML_CHECK_OK(dml_checkpoint_open(folder, &f));
    DML_CHECK_FAILS(DML_ERR_DATA, "another run saves in", dml_checkpoint_open(folder, &g));
    dml_checkpoint_close(&f);
    DML_CHECK_OK(dml_checkpoint_open(folder, &g));
    dml_checkpoint_close(&g);
}

static void leftovers_of_a_killed_save_are_removed(void **state)
{
    (void)state;
    banked b;
    banked_open(&b, NULL, 0);
    DML_CHECK_OK(save(&b, 10));
    command(
        "mkdir .step-00000020.tmp && touch .step-00000020.tmp/model.safetensors .latest.tmp .mine");
    DML_CHECK_EQ(10, newest(&b, NULL));
    DML_CHECK_OK(save(&b, 20));
    expect_names(".mine latest step-00000010 step-00000020");
    banked_close(&b);
}

static void a_bank_that_is_not_whole_is_not_saved(void **state)
{
    (void)state;
    banked b;
    dml_checkpoint_folder f;
    int64_t bytes;
    banked_open(&b, NULL, 0);
    banked_fill(&b, 10);
    dml_checkpoint_job job = banked_job(&b);
    job.stamp = dml_depot_stamp(0, 9);
    DML_CHECK_OK(dml_checkpoint_open(folder, &f));
    DML_CHECK_EQ(DML_ERR_BUG, dml_checkpoint_write(&f, &job, 2, &bytes));
    dml_checkpoint_close(&f);
    expect_names("");
    banked_close(&b);
}

/* ---- resume ---- */

static dml_err resume(banked *b, int64_t *step, bool *found)
{
    dml_arena arena = {0};
    const char *path, *told;
    const dml_err err =
        dml_checkpoint_resume(&b->spec, &b->identity, &b->bank, &arena, step, &path, &told);
    *found = err == DML_ERR_OK && path;
    dml_arena_free(&arena);
    return err;
}

static void resume_finds_what_its_word_says(void **state)
{
    (void)state;
    banked b;
    int64_t step;
    bool found;
    char path[512];
    banked_open(&b, NULL, 0);
    b.spec.checkpoint.folder = folder;
    b.spec.checkpoint.resume = "auto";
    DML_CHECK_OK(resume(&b, &step, &found));
    DML_CHECK(!found && step == 0);
    b.spec.checkpoint.resume = "latest";
    DML_CHECK_FAILS(DML_ERR_DATA, "holds none that loads", resume(&b, &step, &found));
    DML_CHECK_OK(save(&b, 10));
    DML_CHECK_OK(save(&b, 20));
    DML_CHECK_OK(resume(&b, &step, &found));
    DML_CHECK(found && step == 20);
    b.spec.checkpoint.resume = "never";
    DML_CHECK_FAILS(DML_ERR_SPEC, "holds one of step 20, the run begins after step 0",
                    resume(&b, &step, &found));
    snprintf(path, sizeof path, "%s/step-00000010", folder);
    b.spec.checkpoint.resume = path;
    DML_CHECK_FAILS(DML_ERR_SPEC, "holds one of step 20, the run begins after step 10",
                    resume(&b, &step, &found));
    command("rm -r step-00000020");
    DML_CHECK_OK(resume(&b, &step, &found));
    DML_CHECK(found && step == 10 && banked_is(&b, 10));
    banked_close(&b);
}

/* ---- the thread ---- */

static void a_saver_saves_while_its_caller_goes_on(void **state)
{
    (void)state;
    banked b;
    dml_saver *s;
    dml_saved r;
    banked_open(&b, NULL, 0);
    DML_CHECK_OK(dml_saver_open(&b.spec, &b.identity, folder, &s));
    for (int64_t step = 1; step <= 6; step++) {
        const bool fails = step == 3;
        if (fails) DML_CHECK_OK(dml_failpoints_arm("ckpt.fsync:error=data"));
        banked_fill(&b, step);
        DML_CHECK(!dml_saver_is_busy(s));
        dml_saver_start(s, (int32_t)(step % 2), &b.bank, dml_depot_stamp(0, step), "plan");
        DML_CHECK(dml_saver_is_busy(s));
        DML_CHECK_EQ(1, poll(&(struct pollfd){dml_saver_fd(s), POLLIN, 0}, 1, 30000));
        DML_CHECK(dml_saver_take(s, &r));
        DML_CHECK(!dml_saver_take(s, &(dml_saved){0}));
        DML_CHECK_EQ(step, r.step);
        DML_CHECK_EQ(step % 2, r.bank);
        DML_CHECK_EQ(fails ? DML_ERR_DATA : DML_ERR_OK, r.err);
        DML_CHECK(strstr(r.text, fails ? "ckpt.fsync" : "/step-0000000"));
    }
    banked_fill(&b, 7);
    dml_saver_start(s, 0, &b.bank, dml_depot_stamp(0, 7), "plan");
    dml_saver_close(s); /* waits */
    DML_CHECK_EQ(7, newest(&b, NULL));
    banked_close(&b);
}

int main(void)
{
#define ROW(f) cmocka_unit_test_setup(f, empty_folder)
    const struct CMUnitTest tests[] = {
        ROW(what_is_saved_is_loaded),
        ROW(the_oldest_go_and_latest_names_the_newest),
        ROW(another_run_is_refused_with_what_differs),
        ROW(what_may_differ_is_told),
        ROW(damage_is_found_and_the_one_before_is_taken),
        ROW(a_flipped_bit_is_found_wherever_it_is),
        ROW(a_failing_save_leaves_what_was_there),
        ROW(a_full_disk_is_told_and_the_next_save_is_whole),
        ROW(a_folder_that_cannot_be_is_refused),
        ROW(leftovers_of_a_killed_save_are_removed),
        ROW(a_bank_that_is_not_whole_is_not_saved),
        ROW(resume_finds_what_its_word_says),
        ROW(a_saver_saves_while_its_caller_goes_on),
    };
#undef ROW
    if (!mkdtemp(folder)) return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_tree(folder);
    return failed;
}
