/* tests/engine/test_depot.c - what is put under one cut comes out under another. */
#include "tests/support/test.h"

#include "tests/support/chunk_rig.h"
#include "tests/support/spec_by_hand.h"

#include "engine/depot.h"

#include <unistd.h>

/* Three layers with parameters, one with running moments. */
static const dml_spec *net(by_hand *h)
{
    by_hand_begin(h, 5, 0, 0, 3);
    by_hand_linear(h, "fc1", 7);
    by_hand_batch_norm(h, "bn");
    by_hand_layer(h, DML_LAYER_RELU, "relu");
    by_hand_linear(h, "fc2", 3);
    h->spec.training.numerics = DML_EXACT;
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

static dml_depot open_depot(const dml_spec *spec, const dml_model *model)
{
    dml_depot d;
    int fd;
    DML_CHECK_OK(dml_depot_create(spec, model, &d, &fd));
    close(fd);
    return d;
}

/* Every element of a chunk's state gets a value that says what it is; or is looked at. */
static void each_element(const rig *r, bool look)
{
    for (int32_t c = 0; c < r->n; c++) {
        const dml_chunk *k = &r->chunk[c];
        for (int32_t p = k->param_begin; p < k->param_end; p++) {
            const int64_t at = k->param_at[p - k->param_begin];
            float *const of[] = {k->w, k->m, k->v};
            for (int32_t t = 0; t < 3 && of[t]; t++)
                for (int64_t i = 0; i < r->model.param[p].elems; i++) {
                    const float value = (float)(1000 * p + 300 * t + i);
                    if (look)
                        DML_CHECK(of[t][at + i] == value);
                    else
                        of[t][at + i] = value;
                }
            if (look)
                DML_CHECK_EQ(p - 20, k->exponent[p - k->param_begin]);
            else
                k->exponent[p - k->param_begin] = p - 20;
        }
        for (int32_t s = k->state_begin; s < k->state_end; s++)
            for (int64_t i = 0; i < r->model.state[s].elems; i++) {
                if (look)
                    DML_CHECK(dml_chunk_state(k, s)[i] == (float)(-100 * s - i));
                else
                    dml_chunk_state(k, s)[i] = (float)(-100 * s - i);
            }
    }
}

static void put_all(dml_depot *d, uint64_t stamp, rig *r)
{
    for (int32_t c = 0; c < r->n; c++)
        DML_CHECK_OK(dml_depot_put(d, stamp, &r->chunk[c], r->backend->device, r->queue));
    dml_depot_put_run(d, stamp, &(dml_depot_run){.step = 5, .commits = 4});
}

static void another_cut_finds_every_element(dml_optimizer optimizer, float momentum)
{
    by_hand h;
    net(&h);
    h.spec.optimizer.name = optimizer;
    h.spec.optimizer.momentum = momentum;
    rig from, to;
    static const int32_t one[] = {0, 5}, three[] = {0, 2, 3, 5};
    rig_open(&from, "ref", &h.spec, 1, one, 0);
    rig_open(&to, "ref", &h.spec, 3, three, 0);
    dml_depot d = open_depot(&h.spec, &from.model);
    each_element(&from, false);
    put_all(&d, 1, &from);
    DML_CHECK_OK(dml_depot_check(&d, 1));
    for (int32_t c = 0; c < to.n; c++)
        DML_CHECK_OK(dml_depot_get(&d, &to.chunk[c], to.backend->device, to.queue));
    each_element(&to, true);
    DML_CHECK_EQ(5, d.run->step);
    DML_CHECK_EQ(4, d.run->commits);
    dml_depot_close(&d);
    rig_close(&from);
    rig_close(&to);
}

static void weights_moments_and_scales_survive_another_cut(void **state)
{
    (void)state;
    another_cut_finds_every_element(DML_OPT_SGD, 0.0f);
    another_cut_finds_every_element(DML_OPT_SGD, 0.9f);
    another_cut_finds_every_element(DML_OPT_ADAMW, 0.0f);
}

static dml_err never_ends(dml_queue *queue, int64_t deadline_ns)
{
    (void)queue;
    (void)deadline_ns;
    DML_FAIL(DML_ERR_PEER, "it does not");
}

static void a_piece_that_nobody_left_is_named(void **state)
{
    (void)state;
    by_hand h;
    net(&h);
    rig r;
    static const int32_t two[] = {0, 2, 5};
    rig_open(&r, "ref", &h.spec, 2, two, 0);
    dml_depot d = open_depot(&h.spec, &r.model);
    const uint64_t before = dml_depot_stamp(1, 5), after = dml_depot_stamp(2, 7);
    uint64_t whole;
    DML_CHECK_EQ(DML_ERR_BUG, dml_depot_check(&d, before));
    DML_CHECK(!dml_depot_complete(&d, &whole));
    put_all(&d, before, &r);
    DML_CHECK_OK(dml_depot_check(&d, before));
    DML_CHECK(dml_depot_complete(&d, &whole));
    DML_CHECK_EQ(before, whole);
    DML_CHECK_OK(dml_depot_put(&d, after, &r.chunk[1], r.backend->device, r.queue));
    DML_CHECK_EQ(DML_ERR_BUG, dml_depot_check(&d, after));
    DML_CHECK(strstr(dml_err_trail(),
                     "'fc1.weight' is that of plan 1 after 5 steps, not of plan 2 after 7"));
    DML_CHECK(!dml_depot_complete(&d, &whole));
    DML_CHECK_OK(dml_depot_put(&d, after, &r.chunk[0], r.backend->device, r.queue));
    DML_CHECK_EQ(DML_ERR_BUG, dml_depot_check(&d, after));
    DML_CHECK(strstr(dml_err_trail(), "'the step'"));
    DML_CHECK_EQ(before, dml_depot_run_stamp(&d));
    dml_depot_close(&d);
    rig_close(&r);
}

/* Whatever lay there before: what is not whole carries no stamp. */
static void a_put_that_fails_leaves_no_stamp(void **state)
{
    (void)state;
    by_hand h;
    net(&h);
    rig r;
    static const int32_t one[] = {0, 5};
    rig_open(&r, "ref", &h.spec, 1, one, 0);
    dml_depot d = open_depot(&h.spec, &r.model);
    const uint64_t stamp = dml_depot_stamp(3, 40);
    DML_CHECK_EQ(3, dml_depot_stamp_generation(stamp));
    DML_CHECK_EQ(40, dml_depot_stamp_steps(stamp));
    put_all(&d, stamp, &r);
    dml_device_api broken = *r.backend->device;
    broken.sync = never_ends;
    DML_CHECK_EQ(DML_ERR_PEER, dml_depot_put(&d, stamp, &r.chunk[0], &broken, r.queue));
    DML_CHECK_OK(r.backend->device->sync(r.queue, INT64_MAX));
    uint64_t whole;
    DML_CHECK(!dml_depot_complete(&d, &whole));
    DML_CHECK_EQ(DML_ERR_BUG, dml_depot_check(&d, stamp));
    dml_depot_close(&d);
    rig_close(&r);
}

static void a_depot_of_another_size_is_refused(void **state)
{
    (void)state;
    by_hand h;
    net(&h);
    dml_arena arena = {0};
    dml_model model;
    dml_depot made, mapped;
    int fd;
    DML_CHECK_OK(dml_model_make(&h.spec, &arena, &model));
    DML_CHECK_OK(dml_depot_create(&h.spec, &model, &made, &fd));
    DML_CHECK_OK(dml_depot_map(&h.spec, &model, fd, &mapped));
    made.run->step = 7;
    DML_CHECK_EQ(7, mapped.run->step); /* the same memory */
    dml_depot_close(&mapped);
    h.spec.optimizer.name = DML_OPT_ADAMW;
    DML_CHECK_EQ(DML_ERR_BUG, dml_depot_map(&h.spec, &model, fd, &mapped));
    close(fd);
    dml_depot_close(&made);
    dml_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_moments_and_scales_survive_another_cut),
        cmocka_unit_test(a_piece_that_nobody_left_is_named),
        cmocka_unit_test(a_put_that_fails_leaves_no_stamp),
        cmocka_unit_test(a_depot_of_another_size_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
