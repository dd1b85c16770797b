/* What each policy keeps, throws away and runs again, over models and cuts. */
#include "tests/support/test.h"

#include "engine/chunk_impl.h"
#include "schedule/recompute.h"

enum { MOST_STAGES = 4 };

static const char *const specs[] = {"tiny-cnn", "vgg8-synthetic", "resnet20-synthetic"};
enum { SPECS = sizeof specs / sizeof *specs };

typedef struct planned {
    dml_spec spec;
    dml_model model;
    dml_arena arena;
    dml_chunk chunk[MOST_STAGES];
} planned;

static void plan(planned *p, const char *name, dml_recompute policy, int32_t stages, bool split)
{
    *p = (planned){0};
    char path[256], recompute[64];
    snprintf(path, sizeof path, "%s/tests/specs/%s.yaml", DML_SOURCE_DIR, name);
    snprintf(recompute, sizeof recompute, "parallelism.recompute=%s", dml_recompute_text(policy));
    const char *const overrides[] = {recompute};
    int32_t begin[MOST_STAGES + 1];
    DML_CHECK_OK(dml_spec_load(path, overrides, 1, &p->spec));
    DML_CHECK_OK(dml_model_make(&p->spec, &p->arena, &p->model));
    DML_CHECK_OK(dml_model_split(&p->spec, &p->model, stages, false, begin));
    DML_CHECK_OK(dml_model_cut(&p->model, stages, begin, &p->arena));
    for (int32_t s = 0; s < stages; s++)
        DML_CHECK_OK(dml_chunk_plan(&p->spec, &p->model, begin[s], begin[s + 1], split, &p->arena,
                                    &p->chunk[s]));
}

static void close_plan(planned *p)
{
    dml_arena_free(&p->arena);
    dml_spec_free(&p->spec);
}

static const dml_chunk_impl *impl_of(const dml_chunk *c)
{
    return c->impl;
}

/* Products among the steps. */
static int32_t products(const dml_chunk *c, const dml_steps *list)
{
    int32_t n = 0;
    for (int32_t i = 0; i < list->n; i++) {
        const dml_layer *l = &c->model->layer[c->layer_begin + list->step[i].layer];
        n += list->step[i].kind == DML_STEP_FORWARD && l->cls->traits & DML_W_LIKE_X;
    }
    return n;
}

typedef void check(const dml_chunk *none, const dml_chunk *with, bool last);

static void over_all(dml_recompute policy, check *holds)
{
    for (int32_t k = 0; k < SPECS; k++)
        for (int32_t stages = 1; stages <= MOST_STAGES; stages++)
            for (int32_t split = 0; split < 2; split++) {
                planned a, b;
                plan(&a, specs[k], DML_RECOMPUTE_NONE, stages, split);
                plan(&b, specs[k], policy, stages, split);
                for (int32_t s = 0; s < stages; s++)
                    holds(&a.chunk[s], &b.chunk[s], s == stages - 1);
                close_plan(&a);
                close_plan(&b);
            }
}

static void check_none(const dml_chunk *none, const dml_chunk *with, bool last)
{
    (void)last;
    DML_CHECK_EQ(0, with->size.kept);
    DML_CHECK_EQ(none->size.stash, with->size.stash);
    DML_CHECK(!impl_of(with)->lean);
    DML_CHECK_EQ(0, impl_of(with)->again.n);
}

static int64_t saved;

static void check_selective(const dml_chunk *none, const dml_chunk *with, bool last)
{
    (void)last;
    DML_CHECK_EQ(0, products(with, &impl_of(with)->again));
    DML_CHECK(with->size.stash + with->size.kept <= none->size.stash);
    saved += none->size.stash - with->size.kept;
}

/* What others read: the output, and each value that a skip takes elsewhere once. */
static int64_t output_bytes(const dml_chunk *c)
{
    int64_t bytes = dml_align_bytes(c->size.dy);
    for (int32_t i = 0; i < c->n_skip_out; i++) {
        bool seen = c->skip_out[i].kept_at == c->size.kept_out_offset;
        for (int32_t j = 0; j < i; j++)
            seen = seen || c->skip_out[j].kept_at == c->skip_out[i].kept_at;
        if (!seen) bytes += dml_align_bytes(c->skip_out[i].bytes);
    }
    return bytes;
}

/* Of products only the last of a stage can be spared: its output is for others. */
static void check_full(const dml_chunk *none, const dml_chunk *with, bool last)
{
    DML_CHECK_EQ(output_bytes(with), with->size.kept);
    DML_CHECK(with->size.stash <= none->size.stash);
    const int32_t all = products(with, &impl_of(with)->forward),
                  again = products(with, &impl_of(with)->again);
    DML_CHECK(again == all || (!last && again == all - 1));
}

static void check_except_last(const dml_chunk *none, const dml_chunk *with, bool last)
{
    DML_CHECK_EQ(none->size.stash, with->size.stash);
    if (!last) DML_CHECK_EQ(none->size.out_offset, with->size.out_offset);
    DML_CHECK_EQ(output_bytes(with), with->size.kept);
}

static void without_a_policy_nothing_is_kept_apart(void **state)
{
    (void)state;
    over_all(DML_RECOMPUTE_NONE, check_none);
}

static void selective_runs_no_product_again_and_keeps_no_more_than_before(void **state)
{
    (void)state;
    saved = 0;
    over_all(DML_RECOMPUTE_SELECTIVE, check_selective);
    DML_CHECK(saved > 0);
}

static void full_keeps_the_output_alone(void **state)
{
    (void)state;
    over_all(DML_RECOMPUTE_FULL, check_full);
}

static void except_last_has_room_for_a_plain_forward(void **state)
{
    (void)state;
    over_all(DML_RECOMPUTE_EXCEPT_LAST, check_except_last);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_policy_nothing_is_kept_apart),
        cmocka_unit_test(selective_runs_no_product_again_and_keeps_no_more_than_before),
        cmocka_unit_test(full_keeps_the_output_alone),
        cmocka_unit_test(except_last_has_room_for_a_plain_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
