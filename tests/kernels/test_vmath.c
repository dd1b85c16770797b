/* tests/kernels/test_vmath.c - the vectorised functions against libm in double.
 *
 *   test_kernels_vmath [stride]      every stride-th float; 1 takes minutes
 */
#include "tests/support/test.h"

#include "kernels/cpu/vmath.h"

#include <math.h>
#include <stdlib.h>

static uint32_t stride = 4999;

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Largest error over the floats of [low, high], in units of the last place of the result. */
static double worst_ulp(float (*got)(float), double (*want)(double), float low, float high)
{
    double worst = 0.0;
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += stride) {
        const float x = from_bits((uint32_t)bits);
        if (!(x >= low && x <= high)) continue;
        const double w = want((double)x);
        const float near = fabsf((float)w);
        const double ulp = (double)nextafterf(near, INFINITY) - (double)near;
        worst = fmax(worst, fabs((double)got(x) - w) / ulp);
    }
    return worst;
}

static void exp_is_good_to_an_ulp_and_a_half(void **state)
{
    (void)state;
    DML_CHECK(worst_ulp(dml_vexp, exp, -103.0f, 88.72f) < 1.5);
}

static void tanh_is_good_to_two_ulp(void **state)
{
    (void)state;
    DML_CHECK(worst_ulp(dml_vtanh, tanh, -30.0f, 30.0f) < 2.0);
}

static void the_normal_distribution_is_good_to_2e_7(void **state)
{
    (void)state;
    for (double x = -9.0; x < 9.0; x += 1e-3) {
        const float f = (float)x;
        const double want = 0.5 * erfc(-(double)f * 0.70710678118654752440);
        DML_CHECK(fabs((double)dml_vnormal_cdf(f) - want) < 2e-7);
        const double density = 0.39894228040143267794 * exp(-0.5 * (double)f * (double)f);
        DML_CHECK(fabs((double)dml_vnormal_pdf(f) - density) < 1e-7);
    }
}

static void limits_and_nan_come_out_as_libm_has_them(void **state)
{
    (void)state;
    DML_CHECK(isnan(dml_vexp(NAN)) && isnan(dml_vtanh(NAN)) && isnan(dml_vnormal_cdf(NAN)));
    DML_CHECK(dml_vexp(-INFINITY) == 0.0f && dml_vexp(-1e30f) == 0.0f);
    DML_CHECK(isinf(dml_vexp(INFINITY)) && isinf(dml_vexp(88.8f)) && dml_vexp(0.0f) == 1.0f);
    DML_CHECK(dml_vtanh(INFINITY) == 1.0f && dml_vtanh(-INFINITY) == -1.0f);
    DML_CHECK(dml_vnormal_cdf(40.0f) == 1.0f && dml_vnormal_cdf(-40.0f) == 0.0f);
}

int main(int argc, char **argv)
{
    if (argc > 1) stride = (uint32_t)strtoul(argv[1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_good_to_an_ulp_and_a_half),
        cmocka_unit_test(tanh_is_good_to_two_ulp),
        cmocka_unit_test(the_normal_distribution_is_good_to_2e_7),
        cmocka_unit_test(limits_and_nan_come_out_as_libm_has_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
