/* tests/engine/test_model_split.c - cuts into stages against all possible cuts. */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "engine/layers/layer.h"
#include "engine/model.h"
#include "tests/support/spec_by_hand.h"

#include <stdlib.h>

enum { STAGES = 16 };

static dml_model model_of(const dml_spec *spec, dml_arena *arena)
{
    dml_model m;
    DML_CHECK_OK(dml_model_make(spec, arena, &m));
    return m;
}

typedef struct price {
    int64_t flops[STAGES], bytes; /* of the stages, largest first; into all stages */
} price;

static bool reads(const dml_layer *l, int32_t layer)
{
    return l->spec->input == layer || ((l->cls->traits & DML_JOIN) && l->spec->with == layer);
}

/* Every value from below that the stage reads, once. */
static int64_t bytes_into(const dml_model *m, int32_t begin, int32_t end)
{
    int64_t elems = 0;
    for (int32_t v = 0; v < begin; v++) {
        bool wanted = false;
        for (int32_t b = v; b < begin; b++)
            for (int32_t i = begin; i < end && m->layer[b].value == v; i++)
                wanted = wanted || reads(&m->layer[i], b);
        if (wanted) elems += dml_shape_elems(m->layer[v].out);
    }
    return 4 * elems;
}

static int falling(const void *left, const void *right)
{
    const int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a < b) - (a > b);
}

static price price_of(const dml_model *m, int32_t stages, const int32_t *begin)
{
    price p = {.bytes = 0};
    for (int32_t s = 0; s < stages; s++) {
        for (int32_t i = begin[s]; i < begin[s + 1]; i++)
            p.flops[s] += m->layer[i].flops[0] + m->layer[i].flops[1] + m->layer[i].flops[2];
        p.bytes += bytes_into(m, begin[s], begin[s + 1]);
    }
    qsort(p.flops, (size_t)stages, sizeof *p.flops, falling);
    return p;
}

/* In 64ths of the slowest stage, but for that itself; then by bytes. */
static int compare(const price *a, const price *b, int32_t stages)
{
    if (a->flops[0] != b->flops[0]) return a->flops[0] < b->flops[0] ? -1 : 1;
    const int64_t unit = a->flops[0] / 64;
    for (int32_t s = 1; s < stages; s++) {
        const int64_t x = (a->flops[s] + unit / 2) / unit, y = (b->flops[s] + unit / 2) / unit;
        if (x != y) return x < y ? -1 : 1;
    }
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* Tries every legal begin[s..], with `alone` where one value crosses; flops[0] of *best is 0 before the first. */
static void try_all(const dml_model *m, bool alone, int32_t stages, int32_t s, int32_t *begin,
                    price *best)
{
    if (s == stages) {
        const price p = price_of(m, stages, begin);
        if (best->flops[0] == 0 || compare(&p, best, stages) < 0) *best = p;
        return;
    }
    for (int32_t i = begin[s - 1] + 1; i < m->n_layers; i++) {
        const dml_layer *l = &m->layer[i - 1];
        if (alone ? !l->ends_alone : !l->may_end_stage) continue;
        begin[s] = i;
        try_all(m, alone, stages, s + 1, begin, best);
    }
}

/* A random chain with residual blocks.  Where one segment is slower than all others together, most cuts tie
 * in time; pools make borders differ in bytes. */
static const dml_spec *random_model(by_hand *h, uint32_t number)
{
    uint32_t word[4];
    by_hand_begin(h, 4, 6, 6, 3);
    const int32_t blocks = 3 + (int32_t)(number % 5);
    int32_t pools = 0;
    for (int32_t b = 0; b < blocks; b++) {
        dml_rng_block(dml_rng_key(7, DML_RNG_TEST, number), 0, (uint64_t)b, word);
        const int32_t out = 4 + 4 * (int32_t)(word[1] % 2);
        if (word[0] % 3 == 0)
            by_hand_residual(h, word[2] % 2 ? 0 : b + 1, h->n == 0 ? 4 : h->layer[0].out, 1);
        else
            by_hand_block(h, b + 1, h->n == 0 ? out : h->layer[0].out, 1);
        if (word[3] % 3 == 0 && pools++ < 2) by_hand_pool(h, DML_LAYER_MAX_POOL2D, "pool", 2);
    }
    by_hand_layer(h, DML_LAYER_FLATTEN, "flatten");
    if (number % 2) by_hand_linear(h, "slow", 30000);
    by_hand_linear(h, "fc", 3);
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

static void auto_is_the_best_of_all_cuts(void **state)
{
    (void)state;
    by_hand h;
    int32_t skips = 0;
    for (uint32_t number = 0; number < 40; number++) {
        dml_arena arena = {0};
        const dml_spec *spec = random_model(&h, number);
        const dml_model m = model_of(spec, &arena);
        for (int32_t stages = 1; stages <= 4; stages++) {
            int32_t begin[STAGES + 1], all[STAGES + 1] = {0};
            DML_CHECK_OK(dml_model_split(spec, &m, stages, false, begin));
            all[stages] = m.n_layers;
            price best = {.bytes = 0}, alone = best;
            try_all(&m, true, stages, 1, all, &alone);
            try_all(&m, false, stages, 1, all, &best);
            skips += 11 * best.flops[0] < 10 * alone.flops[0];
            if (11 * best.flops[0] >= 10 * alone.flops[0]) best = alone;
            const price got = price_of(&m, stages, begin);
            DML_CHECK_EQ(0, compare(&best, &got, stages));
        }
        dml_arena_free(&arena);
    }
    DML_CHECK(skips > 10); /* cuts within blocks are among them, */
    DML_CHECK(skips < 80); /* and others */
}

static void no_kind_of_split_cuts_a_residual_block_without_need(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_spec *spec = by_hand_resnet(&h, 3, 3);
    const dml_model m = model_of(spec, &arena);
    for (int32_t stages = 1; stages <= STAGES; stages++) {
        for (int i = 0; i < 2; i++) {
            int32_t begin[STAGES + 1];
            h.spec.parallelism.split = i ? DML_SPLIT_UNIFORM : DML_SPLIT_AUTO;
            DML_CHECK_OK(dml_model_split(spec, &m, stages, false, begin));
            DML_CHECK_EQ(0, begin[0]);
            DML_CHECK_EQ(m.n_layers, begin[stages]);
            for (int32_t s = 1; s < stages; s++) {
                DML_CHECK(begin[s] > begin[s - 1]);
                const dml_layer *last = &m.layer[begin[s] - 1];
                DML_CHECK(i ? last->ends_alone : last->may_end_stage);
            }
        }
    }
    dml_arena_free(&arena);
}

/* conv1 ... pool3 are 21 segments, then flatten, fc1, relu7, dropout, and fc2 with the loss. */
static void uniform_counts_segments_and_puts_the_longer_ones_last(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_spec *spec = by_hand_vgg8(&h);
    const dml_model m = model_of(spec, &arena);
    h.spec.parallelism.split = DML_SPLIT_UNIFORM;
    int32_t begin[5];
    DML_CHECK_OK(dml_model_split(spec, &m, 4, false, begin));
    const int32_t want[] = {0, 6, 13, 19, 27};
    for (int i = 0; i < 5; i++)
        DML_CHECK_EQ(want[i], begin[i]);
    dml_arena_free(&arena);
}

static void delays_of_one_length_get_a_stage_each(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    by_hand_begin(&h, 16, 0, 0, 16);
    for (int i = 0; i < 4; i++) {
        char name[BY_HAND_NAME];
        snprintf(name, sizeof name, "delay%d", i);
        dml_layer_spec *l = by_hand_layer(&h, DML_LAYER_DELAY, name);
        l->ns[0] = l->ns[1] = l->ns[2] = 10000000;
    }
    by_hand_linear(&h, "fc", 16);
    const dml_spec *spec = by_hand_end(&h, DML_LAYER_CROSS_ENTROPY);
    const dml_model m = model_of(spec, &arena);
    int32_t begin[5];
    DML_CHECK_OK(dml_model_split(spec, &m, 4, false, begin));
    for (int i = 0; i < 4; i++)
        DML_CHECK_EQ(i, begin[i]);
    dml_arena_free(&arena);
}

/* The first layer is half of the work: where the others go does not change the slowest stage. */
static void four_linear_layers_make_four_stages_with_one_each(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    by_hand_begin(&h, 784, 0, 0, 10);
    for (int i = 0; i < 3; i++) {
        char name[BY_HAND_NAME];
        snprintf(name, sizeof name, "fc%d", i);
        by_hand_linear(&h, name, 256);
        by_hand_layer(&h, DML_LAYER_RELU, "relu");
    }
    by_hand_linear(&h, "fc", 10);
    const dml_spec *spec = by_hand_end(&h, DML_LAYER_CROSS_ENTROPY);
    const dml_model m = model_of(spec, &arena);
    int32_t begin[5];
    DML_CHECK_OK(dml_model_split(spec, &m, 4, false, begin));
    for (int32_t s = 0; s < 4; s++)
        DML_CHECK_EQ(2, m.layer[begin[s + 1] - 1].param_end - m.layer[begin[s]].param_begin);
    dml_arena_free(&arena);
}

/* Twelve equal delays for the workers of parallelism.stages: as many layers as make the busiest the least busy. */
static void check_placed(const dml_stage_spec *stage, int32_t stages, const int32_t *want)
{
    dml_arena arena = {0};
    by_hand h;
    by_hand_begin(&h, 16, 0, 0, 16);
    for (int i = 0; i < 12; i++) {
        char *name = dml_arena_printf(&arena, "delay%d", i);
        dml_layer_spec *l = by_hand_layer(&h, DML_LAYER_DELAY, name);
        l->ns[0] = l->ns[1] = l->ns[2] = 1000000;
    }
    const dml_spec *spec = by_hand_end(&h, DML_LAYER_CROSS_ENTROPY);
    h.spec.parallelism.stage = stage;
    h.spec.parallelism.n_stages = stages;
    h.spec.training.num_microbatches = 6;
    const dml_model m = model_of(spec, &arena);
    int32_t begin[STAGES + 1];
    DML_CHECK_OK(dml_model_split(spec, &m, stages, false, begin));
    for (int32_t s = 0; s < stages; s++)
        DML_CHECK_EQ(want[s], begin[s]);
    dml_arena_free(&arena);
}

static void stages_with_more_hands_get_more_layers(void **state)
{
    (void)state;
    static const int32_t w0[] = {0}, w1[] = {1}, w2[] = {2}, w01[] = {0, 1}, w03[] = {0, 3},
                         even[] = {1, 1}, third[] = {1, 2};
    const dml_int_list a = {w0, 1}, b = {w1, 1}, c = {w2, 1}, ab = {w01, 2}, ad = {w03, 2},
                       one = {even, 1}, two = {even, 2}, one_of_three = {third, 2};
    const dml_stage_spec twice_as_many[] = {{ab, two}, {c, one}},
                         in_turn[] = {{a, one}, {b, one}, {a, one}},
                         helped[] = {{ab, one_of_three}, {c, one}, {ad, one_of_three}};
    check_placed(twice_as_many, 2, (const int32_t[]){0, 8});
    check_placed(in_turn, 3, (const int32_t[]){0, 3, 9}); /* 3, 6 and 3: six on each worker */
    check_placed(helped, 3,
                 (const int32_t[]){0, 5, 8}); /* 5, 3, 4 and the loss: best 4.5, 3, 4.5 */
}

/* Ten equal delays and the loss on two or four ranks. */
static void check_speeds(const double *speed, int32_t n, int32_t ranks, int32_t replicas,
                         const int32_t *want)
{
    dml_arena arena = {0};
    by_hand h;
    by_hand_begin(&h, 16, 0, 0, 16);
    for (int i = 0; i < 10; i++) {
        dml_layer_spec *l =
            by_hand_layer(&h, DML_LAYER_DELAY, dml_arena_printf(&arena, "delay%d", i));
        l->ns[0] = l->ns[1] = l->ns[2] = 1000000;
    }
    const dml_spec *spec = by_hand_end(&h, DML_LAYER_CROSS_ENTROPY);
    h.spec.parallelism.pipeline_parallel_size = ranks;
    h.spec.parallelism.data_parallel_size = replicas;
    h.spec.parallelism.virtual_stages = 1;
    h.spec.parallelism.schedule = "1f1b";
    h.spec.training.num_microbatches = 4 * replicas;
    h.spec.cluster.speed = (dml_number_list){speed, n};
    const dml_model m = model_of(spec, &arena);
    int32_t begin[STAGES + 1];
    DML_CHECK_OK(dml_model_split(spec, &m, ranks, false, begin));
    for (int32_t s = 0; s < ranks; s++)
        DML_CHECK_EQ(want[s], begin[s]);
    dml_arena_free(&arena);
}

static void a_rank_gets_layers_by_the_speed_of_its_slowest_worker(void **state)
{
    (void)state;
    check_speeds((const double[]){1.0, 0.25}, 2, 2, 1, (const int32_t[]){0, 8});
    check_speeds((const double[]){0.25, 1.0}, 2, 2, 1, (const int32_t[]){0, 2});
    check_speeds((const double[]){1, 1, 1, 0.25}, 4, 2, 2, (const int32_t[]){0, 8});
    check_speeds((const double[]){1, 0.25, 1, 0.25}, 4, 2, 2, (const int32_t[]){0, 5});
    check_speeds(NULL, 0, 4, 1, (const int32_t[]){0, 2, 5, 8}); /* at most 3, torchgpipe: 4 */
}

/* Flops say that the first layer is half of the work, the clock that all four take the same but for 1 %. */
static void measured_times_decide_to_the_nanosecond(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    by_hand_begin(&h, 784, 0, 0, 10);
    for (int i = 0; i < 4; i++)
        by_hand_linear(&h, dml_arena_printf(&arena, "fc%d", i), i == 3 ? 10 : 256);
    const dml_spec *spec = by_hand_end(&h, DML_LAYER_CROSS_ENTROPY);
    static const int64_t ns[][DML_PASSES] = {
        {990, 1000, 1000}, {1000, 1000, 1000}, {1000, 1000, 1000}, {1000, 1000, 1000}, {0, 0, 0}};
    static const int64_t step_ns[5];
    static const int32_t rows[] = {3};
    const dml_costs costs = {
        .source = "", .n_layers = 5, .n_rows = 1, .rows = rows, .ns = ns, .step_ns = step_ns};
    h.spec.costs = &costs;
    const dml_model m = model_of(spec, &arena);
    int32_t begin[4];
    DML_CHECK_OK(dml_model_split(spec, &m, 3, false, begin));
    DML_CHECK_EQ(2, begin[1]); /* fc0 and fc1 are the fastest pair */
    DML_CHECK_EQ(3, begin[2]);
    h.spec.costs = NULL;
    DML_CHECK_OK(dml_model_split(spec, &m, 3, false, begin));
    DML_CHECK_EQ(1, begin[1]);
    dml_arena_free(&arena);
}

static void too_many_stages_are_refused_with_the_number_that_would_do(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_spec *spec = by_hand_mlp(&h);
    const dml_model m = model_of(spec, &arena);
    int32_t begin[8];
    DML_CHECK_OK(dml_model_split(spec, &m, 5, false, begin));
    DML_CHECK_FAILS(DML_ERR_SPEC, "6 stages, but the model can be cut into 5 at most",
                    dml_model_split(spec, &m, 6, false, begin));
    dml_arena_free(&arena);
}

static void a_listed_split_is_taken_as_it_is_or_refused(void **state)
{
    (void)state;
    dml_arena arena = {0};
    by_hand h;
    const dml_spec *spec = by_hand_resnet(&h, 3, 3);
    const dml_model m = model_of(spec, &arena);
    int32_t list[2] = {10, 0}, begin[3];
    h.spec.parallelism.split = DML_SPLIT_LIST;
    h.spec.parallelism.split_list = list;
    for (int counted = 0; counted < 2; counted++) { /* the loss may be counted or not */
        list[1] = m.n_layers - 1 + counted - list[0];
        DML_CHECK_OK(dml_model_split(spec, &m, 2, false, begin));
        DML_CHECK_EQ(10, begin[1]);
        DML_CHECK_EQ(m.n_layers, begin[2]);
    }
    list[0] = 0;
    while (strcmp(m.layer[list[0]].spec->name, "block4.short") != 0)
        list[0]++;
    list[1] = m.n_layers - list[0];
    DML_CHECK_FAILS(
        DML_ERR_SPEC,
        "stage 1 would begin at layer 'block4.short', which does not read 'block4.bn2' before it; "
        "a stage begins with a layer that does",
        dml_model_split(spec, &m, 2, false, begin));
    list[0] = 6; /* within block 1 */
    list[1] = m.n_layers - 6;
    DML_CHECK_OK(dml_model_split(spec, &m, 2, false, begin));
    list[0] = m.n_layers - 1;
    list[1] = 1;
    DML_CHECK_FAILS(DML_ERR_SPEC, "nothing but the loss",
                    dml_model_split(spec, &m, 2, false, begin));
    list[1] = 3;
    DML_CHECK_FAILS(DML_ERR_SPEC, "but the model has", dml_model_split(spec, &m, 2, false, begin));
    list[0] = 0;
    DML_CHECK_FAILS(DML_ERR_SPEC, "stage 0 would have no layers",
                    dml_model_split(spec, &m, 2, false, begin));
    dml_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_is_the_best_of_all_cuts),
        cmocka_unit_test(no_kind_of_split_cuts_a_residual_block_without_need),
        cmocka_unit_test(uniform_counts_segments_and_puts_the_longer_ones_last),
        cmocka_unit_test(delays_of_one_length_get_a_stage_each),
        cmocka_unit_test(four_linear_layers_make_four_stages_with_one_each),
        cmocka_unit_test(stages_with_more_hands_get_more_layers),
        cmocka_unit_test(a_rank_gets_layers_by_the_speed_of_its_slowest_worker),
        cmocka_unit_test(measured_times_decide_to_the_nanosecond),
        cmocka_unit_test(too_many_stages_are_refused_with_the_number_that_would_do),
        cmocka_unit_test(a_listed_split_is_taken_as_it_is_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
