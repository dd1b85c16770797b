/* tests/engine/test_superacc.c - the superaccumulator against exact arithmetic done another way.
 *
 * The oracle keeps a sum as a list of doubles that do not overlap (Shewchuk, Adaptive Precision Floating-Point
 * Arithmetic, 1997), every addition being exact, and rounds the list once, to nearest even.
 */
#include "tests/support/test.h"

#include "engine/base/rng.h"
#include "engine/superacc.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

enum { SUMS = 20000, MOST_ADDENDS = 60, PARTS = 64 };

typedef struct expansion {
    double part[PARTS]; /* increasing magnitude, not overlapping, none zero */
    int n;
} expansion;

static void grow(expansion *e, double x)
{
    int kept = 0;
    for (int i = 0; i < e->n; i++) {
        double y = e->part[i];
        if (fabs(x) < fabs(y)) {
            const double t = x;
            x = y;
            y = t;
        }
        const volatile double high = x + y;
        const volatile double low = y - (high - x);
        if (low != 0) e->part[kept++] = low;
        x = high;
    }
    DML_CHECK(kept < PARTS);
    if (x != 0) e->part[kept++] = x;
    e->n = kept;
}

/* Parts are added from the top while that is exact; the first rounding is then the only one, unless it
 * was a tie, which the sign of what is below decides. */
static double rounded(const expansion *e)
{
    int i = e->n;
    if (i == 0) return 0.0;
    volatile double high = e->part[--i], low = 0;
    while (i > 0 && low == 0) {
        const double x = high, y = e->part[--i];
        high = x + y;
        low = y - (high - x);
    }
    if (i > 0 && ((low < 0 && e->part[i - 1] < 0) || (low > 0 && e->part[i - 1] > 0))) {
        const volatile double twice = 2 * low, x = high + twice;
        if (twice == x - high) high = x;
    }
    return high;
}

static uint32_t word(uint64_t *counter)
{
    uint32_t w[4];
    dml_rng_block(99, 0, (*counter)++, w);
    return w[0];
}

/* Any sign and mantissa, exponent in [low, high); below -1022 denormals. */
static double random_double(uint64_t *counter, int low, int high)
{
    const int exponent = low + (int)(word(counter) % (uint32_t)(high - low));
    const uint64_t m = ((uint64_t)word(counter) << 21 ^ word(counter)) | UINT64_C(1) << 52;
    const double x = ldexp((double)m, exponent - 52);
    return word(counter) & 1 ? -x : x;
}

static void check_same(double want, double got)
{
    if (memcmp(&want, &got, sizeof want) != 0) fail_msg("%a is not %a", got, want);
}

static double sum_of(const double *x, int n)
{
    dml_superacc a = {0};
    for (int i = 0; i < n; i++)
        dml_superacc_add(&a, x[i]);
    return dml_superacc_round(&a);
}

/* Exponents over the whole range or a narrow one; pairs that cancel up to a few low bits. */
static int random_addends(uint64_t *counter, double x[MOST_ADDENDS])
{
    static const struct {
        int low, high;
    } range[] = {{-1074, -1000}, {-1074, 950}, {-300, 300}, {-30, 30}, {-3, 3}, {900, 950}};
    const size_t r = word(counter) % (sizeof range / sizeof *range);
    const int n = 1 + (int)(word(counter) % MOST_ADDENDS);
    for (int i = 0; i < n; i++) {
        const bool cancels = i > 0 && word(counter) % 4 == 0;
        x[i] = cancels ? -nextafter(x[i - 1], word(counter) & 1 ? 0 : x[i - 1])
                       : random_double(counter, range[r].low, range[r].high);
    }
    return n;
}

static void sums_agree_with_exact_arithmetic(void **state)
{
    (void)state;
    uint64_t counter = 0;
    for (int s = 0; s < SUMS; s++) {
        double x[MOST_ADDENDS];
        const int n = random_addends(&counter, x);
        expansion e = {.n = 0};
        for (int i = 0; i < n; i++)
            grow(&e, x[i]);
        check_same(rounded(&e), sum_of(x, n));
    }
}

static void any_order_and_any_partition_give_the_same_bits(void **state)
{
    (void)state;
    uint64_t counter = UINT64_C(1) << 40;
    for (int s = 0; s < 2000; s++) {
        double x[MOST_ADDENDS];
        const int n = random_addends(&counter, x);
        const double want = sum_of(x, n);
        int32_t order[MOST_ADDENDS];
        dml_rng_permutation((uint64_t)s, n, order);
        dml_superacc rank[5] = {{{0}}}, all = {{0}};
        for (int i = 0; i < n; i++)
            dml_superacc_add(&rank[word(&counter) % 5], x[order[i]]);
        for (int r = 4; r >= 0; r--)
            dml_superacc_merge(&all, &rank[r]);
        check_same(want, dml_superacc_round(&all));
    }
}

static void ties_go_to_even_and_the_smallest_bit_breaks_them(void **state)
{
    (void)state;
    const double half_even[] = {0x1p53, 1.0}, half_odd[] = {0x1p53, 2.0, 1.0};
    const double above[] = {0x1p53, 1.0, 0x1p-1074}, below[] = {0x1p53, 2.0, 1.0, -0x1p-1074};
    check_same(0x1p53, sum_of(half_even, 2));
    check_same(0x1p53 + 4, sum_of(half_odd, 3));
    check_same(0x1p53 + 2, sum_of(above, 3));
    check_same(0x1p53 + 2, sum_of(below, 4));
    const double carries[] = {0x1.fffffffffffffp0, 0x1p-53};
    check_same(2.0, sum_of(carries, 2));
}

static void edges_of_the_range_are_exact(void **state)
{
    (void)state;
    const double max[] = {DBL_MAX, DBL_MAX, -DBL_MAX}, over[] = {DBL_MAX, DBL_MAX};
    const double tie[] = {-DBL_MAX, -0x1p969}, just[] = {DBL_MAX, 0x1p970};
    const double tiny[] = {0x1p-1074, 0x1p-1074, 0x1p-1074}, step[] = {0x1p-1022, -0x1p-1074};
    const double far[] = {DBL_MAX, 0x1p-1074, -DBL_MAX}, gone[] = {-3.5, 3.5}, zero[] = {-0.0};
    check_same(DBL_MAX, sum_of(max, 3));
    check_same((double)INFINITY, sum_of(over, 2));
    check_same(-DBL_MAX, sum_of(tie, 2));
    check_same((double)INFINITY, sum_of(just, 2));
    check_same(0x3p-1074, sum_of(tiny, 3));
    check_same(0x1p-1022 - 0x1p-1074, sum_of(step, 2));
    check_same(0x1p-1074, sum_of(far, 3));
    check_same(0.0, sum_of(gone, 2));
    check_same(0.0, sum_of(zero, 1));
    check_same(0.0, sum_of(NULL, 0));
}

static void carries_wait_through_many_additions(void **state)
{
    (void)state;
    dml_superacc a = {0}, b = {0};
    for (int i = 0; i < 1 << 20; i++) {
        dml_superacc_add(&a, 0x1.fffffffffffffp-3);
        dml_superacc_add(&b, -0x1.fffffffffffffp-3);
    }
    check_same(0x1.fffffffffffffp17, dml_superacc_round(&a));
    check_same(-0x1.fffffffffffffp17, dml_superacc_round(&b));
    for (int i = 0; i < 10; i++) /* 2^20 ranks' worth */
        dml_superacc_merge(&a, &a);
    check_same(0x1.fffffffffffffp27, dml_superacc_round(&a));
}

static void what_is_not_finite_stays_so_through_merges(void **state)
{
    (void)state;
    const double inf = (double)INFINITY;
    const double pos[] = {1.0, inf, inf, 2.0}, neg[] = {-inf, 5.0}, both[] = {inf, -inf};
    const double nan[] = {1.0, (double)NAN, inf};
    check_same(inf, sum_of(pos, 4));
    check_same(-inf, sum_of(neg, 2));
    DML_CHECK(isnan(sum_of(both, 2)));
    DML_CHECK(isnan(sum_of(nan, 3)));
    dml_superacc rank = {0}, all = {0};
    for (int i = 0; i < 1 << 20; i++)
        dml_superacc_add(&rank, -inf);
    for (int r = 0; r < 4096; r++)
        dml_superacc_merge(&all, &rank);
    check_same(-inf, dml_superacc_round(&all));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_agree_with_exact_arithmetic),
        cmocka_unit_test(any_order_and_any_partition_give_the_same_bits),
        cmocka_unit_test(ties_go_to_even_and_the_smallest_bit_breaks_them),
        cmocka_unit_test(edges_of_the_range_are_exact),
        cmocka_unit_test(carries_wait_through_many_additions),
        cmocka_unit_test(what_is_not_finite_stays_so_through_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
