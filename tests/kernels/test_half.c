/* tests/kernels/test_half.c - BF16 and F16 against arithmetic: every pattern widened, and floats rounded. */
#include "tests/support/test.h"

#include "kernels/half.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum { PATTERNS = 1 << 16 };

/* Of one type: mantissa bits, and the exponent of the smallest normal number. */
typedef struct format {
    int mantissa, least;
    float largest;
    float (*to_float)(uint16_t h);
    uint16_t (*of_float)(float f);
} format;

static const format formats[] = {
    {7, -126, 0x1.fep127f, dml_bf16_to_float, dml_bf16_of_float},
    {10, -14, 65504.0f, dml_f16_to_float, dml_f16_of_float},
};
enum { FORMATS = 2 };

/* What the fields of `h` say. */
static double value_of(const format *f, uint16_t h)
{
    const int fields = (1 << f->mantissa) - 1, m = h & fields, e = (h & 0x7fff) >> f->mantissa;
    const double size = e == 0 ? ldexp(m, f->least - f->mantissa)
                               : ldexp((double)m / (fields + 1) + 1.0, e - 1 + f->least);
    return h & 0x8000 ? -size : size;
}

static bool is_special(const format *f, uint16_t h)
{
    return (h & 0x7fff) >> f->mantissa == (1 << (15 - f->mantissa)) - 1;
}

static void every_pattern_widens_to_its_value_and_comes_back(void **state)
{
    (void)state;
    for (int t = 0; t < FORMATS; t++)
        for (int32_t i = 0; i < PATTERNS; i++) {
            const format *f = &formats[t];
            const uint16_t h = (uint16_t)i;
            const float wide = f->to_float(h);
            if (!is_special(f, h)) {
                if ((double)wide != value_of(f, h)) fail_msg("%04x is %a", h, (double)wide);
                DML_CHECK_EQ(h, f->of_float(wide));
            } else if (h & ((1 << f->mantissa) - 1)) {
                const uint16_t quiet = (uint16_t)(h | 1 << (f->mantissa - 1));
                DML_CHECK(isnan(wide));
                DML_CHECK_EQ(quiet, (uint16_t)(f->of_float(wide) | 1 << (f->mantissa - 1)));
            } else {
                DML_CHECK(wide == (h & 0x8000 ? -INFINITY : INFINITY));
                DML_CHECK_EQ(h, f->of_float(wide));
            }
        }
}

/* The nearest number of the type, the even one of two. */
static double rounded(const format *f, double x)
{
    int e;
    frexp(x, &e); /* |x| in 2^(e-1) .. 2^e */
    const int quantum = (e - 1 < f->least ? f->least : e - 1) - f->mantissa;
    const double y = ldexp(rint(ldexp(x, -quantum)), quantum);
    return fabs(y) > (double)f->largest ? copysign(INFINITY, y) : y;
}

static void check_rounds(const format *f, float x)
{
    const uint16_t h = f->of_float(x);
    const double want = rounded(f, (double)x), got = (double)f->to_float(h);
    if (got != want || (signbit(x) != 0) != (h >> 15))
        fail_msg("%a becomes %a, not %a", (double)x, got, want);
}

static void floats_go_to_the_nearest_and_to_the_even_of_two(void **state)
{
    (void)state;
    for (int t = 0; t < FORMATS; t++)
        for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += 2047) {
            const float x = dml_float_of_bits((uint32_t)bits);
            if (isfinite(x)) check_rounds(&formats[t], x);
        }
}

static void the_border_between_two_neighbours_is_where_it_should_be(void **state)
{
    (void)state;
    for (int t = 0; t < FORMATS; t++)
        for (int32_t i = 0; i < PATTERNS / 2; i++) {
            const format *f = &formats[t];
            if (is_special(f, (uint16_t)i)) break;
            const float low = f->to_float((uint16_t)i), ulp = low - f->to_float((uint16_t)(i - 1));
            const bool last = is_special(f, (uint16_t)(i + 1));
            const float high = last ? low + ulp : f->to_float((uint16_t)(i + 1));
            const float middle = 0.5f * low + 0.5f * high;
            if (isinf(high) || isinf(middle)) break;
            const uint16_t even = (uint16_t)(i + (i & 1));
            DML_CHECK_EQ(even, f->of_float(middle));
            DML_CHECK_EQ(i, f->of_float(nextafterf(middle, -INFINITY)));
            DML_CHECK_EQ(i + 1, f->of_float(nextafterf(middle, INFINITY)));
            DML_CHECK_EQ(even | 0x8000, f->of_float(-middle));
        }
}

static void what_is_beyond_the_range_is_infinite_and_no_number_stays_none(void **state)
{
    (void)state;
    DML_CHECK_EQ(0x7bff, dml_f16_of_float(65519.996f));
    DML_CHECK_EQ(0x7c00, dml_f16_of_float(65520.0f)); /* half way to 65536, which would be even */
    DML_CHECK_EQ(0xfc00, dml_f16_of_float(-1e30f));
    DML_CHECK_EQ(0x7f80, dml_bf16_of_float(0x1.ffp127f));
    DML_CHECK_EQ(0x7f7f, dml_bf16_of_float(0x1.fefffep127f));
    /* a NaN whose upper bits are zero must not become infinite */
    DML_CHECK(isnan(dml_bf16_to_float(dml_bf16_of_float(dml_float_of_bits(0x7f800001)))));
    DML_CHECK(isnan(dml_f16_to_float(dml_f16_of_float(dml_float_of_bits(0xff800001)))));
    DML_CHECK_EQ(0x8000, dml_f16_of_float(-0x1p-26f)); /* a sign, and nothing */
    DML_CHECK_EQ(0x0000, dml_f16_of_float(0x1p-25f));  /* half of the least: even is 0 */
    DML_CHECK_EQ(0x0001, dml_f16_of_float(0x1.000002p-25f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_widens_to_its_value_and_comes_back),
        cmocka_unit_test(floats_go_to_the_nearest_and_to_the_even_of_two),
        cmocka_unit_test(the_border_between_two_neighbours_is_where_it_should_be),
        cmocka_unit_test(what_is_beyond_the_range_is_infinite_and_no_number_stays_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
