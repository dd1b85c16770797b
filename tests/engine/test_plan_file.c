/* A plan saved and loaded is the same program; damaged or wrong ones are refused with the place and the mend. */
#include "tests/support/test.h"

#include "engine/choose.h"
#include "engine/plan.h"
#include "engine/plan_file.h"
#include "schedule/text.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNEVEN DML_SOURCE_DIR "/tests/specs/uneven-delays.yaml"
#define VGG8   DML_SOURCE_DIR "/tests/specs/vgg8-synthetic.yaml"

enum { MOST = 8 };

static char folder[] = "/tmp/dml-plans-XXXXXX";

static const char *plan_path(void)
{
    static char path[64];
    snprintf(path, sizeof path, "%s/plan.json", folder);
    return path;
}

static void program_of(const dml_spec *spec, dml_str *out)
{
    dml_plan plan;
    DML_CHECK_OK(dml_plan_make(spec, &plan));
    dml_text_print(&plan.train, out);
    dml_plan_free(&plan);
}

static void check_same_program(const dml_spec *a, const dml_spec *b)
{
    dml_str x = {0}, y = {0};
    program_of(a, &x);
    program_of(b, &y);
    assert_string_equal(dml_str_text(&x), dml_str_text(&y));
    dml_str_free(&x);
    dml_str_free(&y);
}

/* Chooses under the overrides, the first of which is plan=auto, and saves. */
static void save(const char *path, const char *const *override, int32_t n)
{
    dml_spec spec;
    dml_choice choice;
    DML_CHECK_OK(dml_spec_load(path, override, n, &spec));
    DML_CHECK_OK(dml_choose(&spec, NULL, &choice));
    DML_CHECK_OK(dml_plan_file_save(&choice, &spec, plan_path()));
    dml_choice_free(&choice);
    dml_spec_free(&spec);
}

static void a_saved_plan_loads_as_the_same_program(void **state)
{
    (void)state;
    static const struct {
        const char *spec, *override[MOST];
        int32_t n;
    } of[] = {
        {UNEVEN, {"plan=auto", "parallelism.world_size=4"}, 2},
        {UNEVEN,
         {"plan=auto", "parallelism.world_size=2", "parallelism.schedule=zb_h1",
          "parallelism.dp=1"},
         4},
        {VGG8, {"plan=auto", "parallelism.world_size=4", "parallelism.recompute=full"}, 3},
        {UNEVEN,
         {"plan=auto", "cluster.speed=[1, 0.5]", "parallelism.pp=2", "parallelism.vpp=2"},
         4},
    };
    for (size_t k = 0; k < sizeof of / sizeof *of; k++) {
        const char *override[MOST];
        dml_spec direct, loaded;
        char plan[96];
        save(of[k].spec, of[k].override, of[k].n);
        DML_CHECK_OK(dml_spec_load(of[k].spec, of[k].override, of[k].n, &direct));
        DML_CHECK_OK(dml_choose_resolve(&direct));
        memcpy(override, of[k].override, sizeof override);
        snprintf(plan, sizeof plan, "plan=%s", plan_path());
        override[0] = plan;
        DML_CHECK_OK(dml_spec_load(of[k].spec, override, of[k].n, &loaded));
        check_same_program(&direct, &loaded);
        dml_spec_free(&direct);
        dml_spec_free(&loaded);
    }
}

/* A written cut is the plan's, too: where the spec's file writes it, plan=FILE on the command line drops it there. */
static void a_plan_has_the_cut_that_was_written(void **state)
{
    (void)state;
    static const char *const split[] = {"parallelism.split=uniform",
                                        "parallelism.split=[2, 1, 4, 3]"};
    for (size_t k = 0; k < sizeof split / sizeof *split; k++) {
        const char *const made[] = {"plan=auto", "parallelism.world_size=4", "parallelism.pp=4",
                                    split[k]};
        char plan[96];
        dml_spec direct, loaded;
        save(UNEVEN, made, 4);
        DML_CHECK_OK(dml_spec_load(UNEVEN, made, 4, &direct));
        DML_CHECK_OK(dml_choose_resolve(&direct));
        snprintf(plan, sizeof plan, "plan=%s", plan_path());
        const char *const bare[] = {plan};
        DML_CHECK_OK(dml_spec_load(UNEVEN, bare, 1, &loaded));
        check_same_program(&direct, &loaded);
        dml_spec_free(&direct);
        dml_spec_free(&loaded);
    }
}

/* ---- damage ---- */

static const char fine[] =
    "{\n"
    "  \"dml_plan\": 1,\n"
    "  \"for\": {\"model\": \"%s\", \"global_batch_size\": 24},\n"
    "  \"set\": {\n"
    "    \"training\": {\"global_batch_size\": 24, \"micro_batch_size\": 2},\n"
    "    \"parallelism\": {\"pipeline_parallel_size\": 2, \"schedule\": \"1f1b\",\n"
    "                    \"split\": [5, 5]}\n"
    "  },\n"
    "  \"predicted\": {\"step_ms\": 1.5}\n"
    "}\n";

/* The plan with `old` replaced by `new_`, in a file. */
static void write_plan(const char *old, const char *new_)
{
    dml_spec spec;
    char hash[32], text[2048];
    DML_CHECK_OK(dml_spec_load(UNEVEN, NULL, 0, &spec));
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)dml_spec_model_hash(&spec));
    dml_spec_free(&spec);
    snprintf(text, sizeof text, fine, hash);
    const char *at = strstr(text, old);
    DML_CHECK(at);
    FILE *to = fopen(plan_path(), "w");
    DML_CHECK(to);
    fprintf(to, "%.*s%s%s", (int)(at - text), text, new_, at + strlen(old));
    fclose(to);
}

static dml_err load_plan(const char *more, dml_spec *out)
{
    char plan[96];
    snprintf(plan, sizeof plan, "plan=%s", plan_path());
    const char *const override[] = {plan, more};
    return dml_spec_load(UNEVEN, override, more ? 2 : 1, out);
}

static void each_damage_is_named_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *old, *new_, *says, *more;
    } damage[] = {
        {"\"dml_plan\": 1,", "", "it has no 'dml_plan'", NULL},
        {"\"dml_plan\": 1", "\"dml_plan\": 2", "plan.json:2:15: error: a plan of version 2", NULL},
        {"\"dml_plan\": 1", "\"dml_plan\": \"x\"", "a plan of version x", NULL},
        {"\"predicted\"", "\"predictd\"", "did you mean 'predicted'?", NULL},
        {"\"set\"", "\"sets\"", "did you mean 'set'?", NULL},
        {"\"for\"", "\"four\"", "unknown key 'four' in a plan", NULL},
        {"\"model\"", "\"modle\"", "did you mean 'model'?", NULL},
        {", \"global_batch_size\": 24}", "}", "'for' needs 'global_batch_size'", NULL},
        {"\"model\": \"", "\"model\": \"0", "made for another model", NULL},
        {"24},\n  \"set\"", "48},\n  \"set\"",
         "made for a global_batch_size of 48, the spec's is 24", NULL},
        {"\"global_batch_size\": 24, \"micro", "\"global_batch_size\": 48, \"micro",
         "plan.json:5:39: error: the plan sets 'training.global_batch_size' to 48, line 21", NULL},
        {"\"micro_batch_size\": 2", "\"micro_batch_size\": 4", "'training.micro_batch_size' to 4",
         NULL},
        {"\"pipeline_parallel_size\": 2", "\"pipeline_parallel_size\": 0",
         "must be in [1, 1024], not 0", NULL},
        {"\"pipeline_parallel_size\": 2", "\"pipeline_parallel_size\": \"two\"",
         "expected a whole number", NULL},
        {"\"pipeline_parallel_size\": 2", "\"pipeline_paralel_size\": 2",
         "did you mean 'pipeline_parallel_size'?", NULL},
        {"\"1f1b\"", "\"1fb1\"", "unknown schedule '1fb1'; nearest is '1f1b'", NULL},
        {"[5, 5]", "[5, 4, 1]", "split lists 3 stages, pipeline_parallel_size is 2", NULL},
        {"\"schedule\": \"1f1b\"", "\"timeout\": \"5s\"",
         "a plan does not set 'parallelism.timeout'", NULL},
        {"\"set\": {", "\"set\": [{", "check indentation, brackets", NULL},
        {"{\n  \"dml_plan\"", "[{\n  \"dml_plan\"", "plan.json:", NULL},
        {"\"predicted\"", "\"dml_plan\": 1, \"predicted\"", "duplicate key 'dml_plan'", NULL},
        {"{\"pipeline_parallel_size\": 2, \"schedule\": \"1f1b\",\n                    \"split\": "
         "[5, 5]}",
         "4", "'parallelism' is a section", NULL},
        {"\"1f1b\"", "\"1f1b\"",
         "the plan sets 'parallelism.schedule' to 1f1b, the command line says gpipe",
         "parallelism.schedule=gpipe"},
        {"\"1f1b\"", "\"1f1b\"", "the plan has 2 workers, world_size is 1",
         "parallelism.world_size=1"},
    };
    for (size_t k = 0; k < sizeof damage / sizeof *damage; k++) {
        dml_spec spec;
        write_plan(damage[k].old, damage[k].new_);
        if (load_plan(damage[k].more, &spec) != DML_ERR_SPEC)
            fail_msg("damage %zu loads: %s", k, damage[k].new_);
        if (!strstr(dml_err_trail(), damage[k].says))
            fail_msg("damage %zu: '%s' is not in:\n%s", k, damage[k].says, dml_err_trail());
    }
}

static void a_file_that_is_none_is_refused(void **state)
{
    (void)state;
    dml_spec spec;
    remove(plan_path());
    DML_CHECK_EQ(DML_ERR_SPEC, load_plan(NULL, &spec));
    DML_CHECK(strstr(dml_err_trail(), "cannot open"));
    DML_CHECK(strstr(dml_err_trail(), "dml-plan SPEC plan=auto --save FILE"));
    FILE *to = fopen(plan_path(), "w");
    DML_CHECK(to);
    fclose(to);
    DML_CHECK_EQ(DML_ERR_SPEC, load_plan(NULL, &spec));
    DML_CHECK(strstr(dml_err_trail(), "nothing is written there"));
}

/* ---- by hand ---- */

/* Another legal cut, another schedule, unequal shares: the plan is made anew from what is written. */
static void hand_edits_are_planned_anew(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    write_plan("[5, 5]", "[2, 8]");
    DML_CHECK_OK(load_plan(NULL, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    DML_CHECK_EQ(2, plan.stage_begin[1]);
    dml_plan_free(&plan);
    dml_spec_free(&spec);
    write_plan("\"pipeline_parallel_size\": 2, \"schedule\": \"1f1b\"",
               "\"stages\": [{\"workers\": [0, 1], \"shares\": [3, 1]}, {\"workers\": [2]}], "
               "\"schedule\": \"auto\"");
    DML_CHECK_OK(load_plan(NULL, &spec));
    DML_CHECK_OK(dml_plan_make(&spec, &plan));
    DML_CHECK_EQ(9, dml_plan_share(&plan, 0, 0));
    DML_CHECK_EQ(3, dml_plan_share(&plan, 1, 0));
    dml_plan_free(&plan);
    dml_spec_free(&spec);
}

static void a_hand_edit_that_is_not_legal_is_refused_when_planned(void **state)
{
    (void)state;
    dml_spec spec;
    dml_plan plan;
    write_plan("[5, 5]", "[5, 9]");
    DML_CHECK_OK(load_plan(NULL, &spec));
    DML_CHECK_EQ(DML_ERR_SPEC, dml_plan_make(&spec, &plan));
    DML_CHECK(strstr(dml_err_trail(),
                     "plan.json:7:30: error: the split lists 14 layers, but the model has 10"));
    dml_spec_free(&spec);
    write_plan("\"1f1b\"", "\"zb_h2\", \"data_parallel_size\": 6");
    DML_CHECK_OK(load_plan(NULL, &spec));
    DML_CHECK_EQ(DML_ERR_SPEC, dml_plan_make(&spec, &plan));
    DML_CHECK(strstr(dml_err_trail(), "zb_h2 over 2 stages needs at least 3 micro-batches, not 2"));
    dml_spec_free(&spec);
}

/* In the spec's own file a plan and what contradicts it stand side by side; `auto` leaves a key to the plan. */
static void auto_leaves_a_key_to_the_plan(void **state)
{
    (void)state;
    dml_spec spec;
    write_plan("\"micro_batch_size\": 2", "\"micro_batch_size\": 4");
    DML_CHECK_OK(load_plan("training.micro_batch_size=auto", &spec));
    DML_CHECK_EQ(4, spec.training.micro_batch_size);
    DML_CHECK_EQ(6, spec.training.num_microbatches);
    dml_spec_free(&spec);
    static const char *const bare[] = {"parallelism.pp=auto"};
    DML_CHECK_EQ(DML_ERR_SPEC, dml_spec_load(UNEVEN, bare, 1, &spec));
    DML_CHECK(strstr(dml_err_trail(), "leaves the choice to a plan, and there is none"));
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : 1;
}

static int remove_folder(void **state)
{
    (void)state;
    remove(plan_path());
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_saved_plan_loads_as_the_same_program),
        cmocka_unit_test(a_plan_has_the_cut_that_was_written),
        cmocka_unit_test(each_damage_is_named_with_its_place),
        cmocka_unit_test(a_file_that_is_none_is_refused),
        cmocka_unit_test(hand_edits_are_planned_anew),
        cmocka_unit_test(a_hand_edit_that_is_not_legal_is_refused_when_planned),
        cmocka_unit_test(auto_leaves_a_key_to_the_plan),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
