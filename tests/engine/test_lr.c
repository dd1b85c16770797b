/* tests/engine/test_lr.c - learning rates against closed forms and a table made elsewhere. */
#include "tests/support/test.h"

#include "engine/lr.h"

#include <math.h>

static dml_spec spec_of(dml_lr_schedule name, float lr, int64_t warmup)
{
    dml_spec s = {0};
    s.optimizer.lr = lr;
    s.lr_scheduler.name = name;
    s.lr_scheduler.warmup_steps = warmup;
    s.lr_scheduler.step_size = 30;
    s.lr_scheduler.gamma = 0.5f;
    return s;
}

static void check_near(double want, double got)
{
    if (!(fabs(want - got) <= 1e-15 * fabs(want))) fail_msg("%.17g is not %.17g", got, want);
}

static void constant_is_the_peak_after_warm_up(void **state)
{
    (void)state;
    const dml_spec s = spec_of(DML_LR_CONSTANT, 0.5f, 4), none = spec_of(DML_LR_CONSTANT, 0.5f, 0);
    const double want[] = {0.125, 0.25, 0.375, 0.5, 0.5, 0.5};
    for (int64_t t = 0; t < 6; t++) {
        check_near(want[t], dml_lr_at(&s, 100, t));
        check_near(0.5, dml_lr_at(&none, 100, t));
    }
}

static void step_multiplies_by_gamma_every_step_size(void **state)
{
    (void)state;
    const dml_spec s = spec_of(DML_LR_STEP, 0.5f, 0);
    for (int64_t t = 0; t < 300; t++)
        check_near(ldexp(0.5, -(int)(t / 30)), dml_lr_at(&s, 300, t));
}

static void linear_falls_by_equal_parts(void **state)
{
    (void)state;
    dml_spec s = spec_of(DML_LR_LINEAR, 1.0f, 0);
    for (int64_t t = 0; t <= 64; t++)
        check_near(1.0 - (double)t / 64.0, dml_lr_at(&s, 64, t));
    s.lr_scheduler.min_lr_ratio = 0.25f;
    check_near(0.625, dml_lr_at(&s, 64, 32));
    check_near(0.25, dml_lr_at(&s, 64, 64));
    check_near(0.25, dml_lr_at(&s, 64, 1000));
}

static void cosine_is_halfway_at_half_time_and_symmetric(void **state)
{
    (void)state;
    const dml_spec s = spec_of(DML_LR_COSINE, 1.0f, 10);
    DML_CHECK(fabs(dml_lr_at(&s, 110, 60) - 0.5) < 1e-15);
    for (int64_t t = 0; t <= 50; t++)
        DML_CHECK(fabs(dml_lr_at(&s, 110, 60 - t) + dml_lr_at(&s, 110, 60 + t) - 1.0) < 1e-15);
    DML_CHECK(fabs(dml_lr_at(&s, 110, 110)) < 1e-15);
}

/* peak 6e-4, 700 warm-up steps of 18865, down to a tenth; from the formulas in engine/lr.h in Python. */
static void a_long_run_follows_the_table(void **state)
{
    (void)state;
    static const struct {
        int64_t step;
        double linear, cosine;
    } table[] = {
        {0, 8.571428978549583e-07, 8.571428978549583e-07},
        {1, 1.7142857957099166e-06, 1.7142857957099166e-06},
        {349, 0.00030000001424923539, 0.00030000001424923539},
        {699, 0.00060000002849847078, 0.00060000002849847078},
        {700, 0.00060000002849847078, 0.00060000002849847078},
        {701, 0.00059997030099917244, 0.0006000000244605041},
        {5000, 0.00047217178151555959, 0.00052871620914031079},
        {9782, 0.00033001487987084296, 0.00033002336404451598},
        {18864, 6.002973124321514e-05, 6.0000007781883436e-05},
        {18865, 6.0000003743916792e-05, 6.0000003743916792e-05},
    };
    dml_spec linear = spec_of(DML_LR_LINEAR, 6e-4f, 700), cosine = linear;
    cosine.lr_scheduler.name = DML_LR_COSINE;
    linear.lr_scheduler.min_lr_ratio = cosine.lr_scheduler.min_lr_ratio = 0.1f;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        check_near(table[i].linear, dml_lr_at(&linear, 18865, table[i].step));
        check_near(table[i].cosine, dml_lr_at(&cosine, 18865, table[i].step));
    }
}

static void warm_up_may_take_the_whole_run(void **state)
{
    (void)state;
    const dml_spec s = spec_of(DML_LR_COSINE, 1.0f, 8);
    check_near(1.0, dml_lr_at(&s, 8, 7));
    check_near(0.5, dml_lr_at(&s, 4, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constant_is_the_peak_after_warm_up),
        cmocka_unit_test(step_multiplies_by_gamma_every_step_size),
        cmocka_unit_test(linear_falls_by_equal_parts),
        cmocka_unit_test(cosine_is_halfway_at_half_time_and_symmetric),
        cmocka_unit_test(a_long_run_follows_the_table),
        cmocka_unit_test(warm_up_may_take_the_whole_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
