/* tests/engine/test_chunk_state.c - running moments after a step. */
#include "tests/support/test.h"

#include "tests/support/chunk_rig.h"
#include "tests/support/spec_by_hand.h"

static void near(double want, double got, double tolerance)
{
    if (!(fabs(want - got) <= tolerance)) fail_msg("%.9g is not %.9g", got, want);
}

/* Batch norm alone over [channels] or an image, then what it takes to be a model. */
static const dml_spec *norm_net(by_hand *h, int32_t channels, int32_t side)
{
    by_hand_begin(h, channels, side, side, 2);
    by_hand_batch_norm(h, "bn");
    if (side > 0) by_hand_layer(h, DML_LAYER_FLATTEN, "flatten");
    by_hand_linear(h, "fc", 2);
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

/* PyTorch's BatchNorm1d(1), fed [1, 2, 3, 6] in training: mean 3, biased variance 3.5, unbiased 14/3;
 * running_mean 0.9 * 0 + 0.1 * 3, running_var 0.9 * 1 + 0.1 * 14/3. */
static void a_step_moves_running_moments_as_pytorch_does(void **state)
{
    (void)state;
    by_hand h;
    norm_net(&h, 1, 0);
    h.spec.training.micro_batch_size = 2;
    rig r;
    rig_open(&r, "ref", &h.spec, 1, NULL, 0);
    const float batch[] = {1, 2, 3, 6};
    memcpy(r.images, batch, sizeof batch);
    rig_step(&r);
    near(1.5, r.chunk[0].moments[0], 0); /* micro-batch 0: mean, biased variance */
    near(0.25, r.chunk[0].moments[1], 0);
    near(4.5, r.chunk[0].moments[2], 0);
    near(2.25, r.chunk[0].moments[3], 0);
    rig_commit_state(&r, 0);
    near(0.3, dml_chunk_state(&r.chunk[0], 0)[0], 1e-7);
    near(0.9 + 1.4 / 3, dml_chunk_state(&r.chunk[0], 1)[0], 1e-7);
    rig_close(&r);
}

/* The same four values one micro-batch after another: means 1.5 and 4.5, unbiased variances 0.5 and 4.5. */
static void per_micro_batch_moves_once_for_each(void **state)
{
    (void)state;
    by_hand h;
    norm_net(&h, 1, 0);
    h.spec.training.micro_batch_size = 2;
    h.layer[0].per_micro_batch = true;
    rig r;
    rig_open(&r, "ref", &h.spec, 1, NULL, 0);
    const float batch[] = {1, 2, 3, 6};
    memcpy(r.images, batch, sizeof batch);
    rig_step(&r);
    rig_commit_state(&r, 0);
    near(0.9 * (0.1 * 1.5) + 0.1 * 4.5, dml_chunk_state(&r.chunk[0], 0)[0], 1e-7);
    near(0.9 * (0.9 + 0.1 * 0.5) + 0.1 * 4.5, dml_chunk_state(&r.chunk[0], 1)[0], 1e-7);
    rig_close(&r);
}

/* Mean and unbiased variance of channel c over the samples that ran, computed at one go. */
static void direct_moments(const rig *r, int32_t channels, int32_t pixels, int32_t c, double *mean,
                           double *var)
{
    const int32_t size = r->chunk[0].mb_rows;
    double n = 0, sum = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t mb = 0; mb < r->mbs; mb++) {
            for (int32_t i = 0; i < r->rows[mb] * pixels; i++) {
                const double x = (double)r->images[(mb * size * pixels + i) * channels + c];
                if (pass == 0) {
                    n += 1;
                    sum += x;
                } else {
                    squares += (x - *mean) * (x - *mean);
                }
            }
        }
        *mean = sum / n;
    }
    *var = squares / (n - 1);
}

static void deferred_moments_are_those_of_the_whole_batch(void **state)
{
    (void)state;
    by_hand h;
    const int32_t rows[][4] = {{5, 5, 5, 5}, {5, 5, 2, 0}, {1, 0, 0, 0}, {5, 5, 5, 4}};
    for (int t = 0; t < 4; t++) {
        norm_net(&h, 3, 4);
        h.spec.training.num_microbatches = 4;
        h.spec.training.micro_batch_size = 5;
        rig r;
        rig_open(&r, "ref", &h.spec, 1, NULL, 0);
        memcpy(r.rows, rows[t], sizeof rows[t]);
        for (int64_t i = 0; i < r.chunk[0].size.in * 4 / (int64_t)sizeof(float); i++)
            r.images[i] = 3 * r.images[i] + (float)(i % 3 * 10); /* means far from zero */
        rig_begin(&r);
        for (int32_t mb = 3; mb >= 0; mb--)
            if (r.rows[mb] > 0) rig_forward(&r, mb);
        rig_commit_state(&r, 0);
        for (int32_t c = 0; c < 3; c++) {
            double mean = 0, var = 0;
            direct_moments(&r, 3, 16, c, &mean, &var);
            near(0.1 * mean, dml_chunk_state(&r.chunk[0], 0)[c], 1e-6);
            near(0.9 + 0.1 * var, dml_chunk_state(&r.chunk[0], 1)[c], 2e-6);
        }
        rig_close(&r);
    }
}

static void nothing_moves_without_samples(void **state)
{
    (void)state;
    by_hand h;
    rig r;
    rig_open(&r, "ref", norm_net(&h, 2, 0), 1, NULL, 0);
    r.rows[0] = r.rows[1] = 0;
    rig_commit_state(&r, 0);
    near(0, dml_chunk_state(&r.chunk[0], 0)[0], 0);
    near(1, dml_chunk_state(&r.chunk[0], 1)[1], 0);
    rig_close(&r);
}

/* A lone value has no unbiased variance: the running one stays finite. */
static void a_single_value_does_not_divide_by_zero(void **state)
{
    (void)state;
    by_hand h;
    norm_net(&h, 2, 0);
    h.spec.training.num_microbatches = 1;
    h.spec.training.micro_batch_size = 1;
    rig r;
    rig_open(&r, "ref", &h.spec, 1, NULL, 0);
    rig_begin(&r);
    rig_forward(&r, 0);
    rig_commit_state(&r, 0);
    near(0.9, dml_chunk_state(&r.chunk[0], 1)[0], 1e-7);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_moves_running_moments_as_pytorch_does),
        cmocka_unit_test(per_micro_batch_moves_once_for_each),
        cmocka_unit_test(deferred_moments_are_those_of_the_whole_batch),
        cmocka_unit_test(nothing_moves_without_samples),
        cmocka_unit_test(a_single_value_does_not_divide_by_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
