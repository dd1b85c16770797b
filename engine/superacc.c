/* engine/superacc.c - a double is m 2^(p - 1074) with m < 2^53 and p >= 0; add m << (p % 32) at limb p / 32.
 *
 * m << 31 has 84 bits: its low and high 32-bit halves are shifted apart, so that all stays in uint64.
 */
#include "engine/superacc.h"

#include <math.h>
#include <string.h>

enum { LIMB_BITS = 32, MANTISSA_BITS = 53, LOWEST_EXPONENT = -1074, FLAG = DML_SUPERACC_LIMBS };
#define LIMB_MASK UINT64_C(0xffffffff)

/* Fields of the flag word.  An accumulator adds at most one to each, so merged they count the ranks. */
#define SEEN_NAN     INT64_C(1)
#define SEEN_POS_INF (INT64_C(1) << 20)
#define SEEN_NEG_INF (INT64_C(1) << 40)
#define FIELD_MASK   ((INT64_C(1) << 20) - 1)

static void add_non_finite(dml_superacc *a, double x)
{
    const int64_t seen = isnan(x) ? SEEN_NAN : x > 0 ? SEEN_POS_INF : SEEN_NEG_INF;
    if (!(a->word[FLAG] & (seen * FIELD_MASK))) a->word[FLAG] += seen;
}

void dml_superacc_add(dml_superacc *a, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint64_t exponent = bits >> 52 & 0x7ff;
    uint64_t m = bits & ((UINT64_C(1) << 52) - 1);
    if (exponent == 0x7ff) {
        add_non_finite(a, x);
        return;
    }
    if (exponent > 0) m |= UINT64_C(1) << 52;
    const uint64_t p = exponent > 0 ? exponent - 1 : 0;
    const uint64_t low = (m & LIMB_MASK) << p % LIMB_BITS;
    const uint64_t high = (m >> LIMB_BITS) << p % LIMB_BITS;
    const int64_t part[3] = {(int64_t)(low & LIMB_MASK),
                             (int64_t)((low >> LIMB_BITS) + (high & LIMB_MASK)),
                             (int64_t)(high >> LIMB_BITS)};
    int64_t *limb = a->word + p / LIMB_BITS;
    const int64_t sign = bits >> 63 ? -1 : 1;
    for (int i = 0; i < 3; i++)
        limb[i] += sign * part[i];
}

void dml_superacc_merge(dml_superacc *a, const dml_superacc *b)
{
    for (int i = 0; i < DML_SUPERACC_WORDS; i++)
        a->word[i] += b->word[i];
}

/* Settles the carries: all limbs but the last in [0, 2^32), the last one with the sign. */
static void carry(int64_t *limb)
{
    for (int i = 0; i + 1 < DML_SUPERACC_LIMBS; i++) {
        limb[i + 1] += limb[i] >> LIMB_BITS; /* arithmetic: rounds down */
        limb[i] &= (int64_t)LIMB_MASK;
    }
}

/* Bits [at, at + n) of settled limbs, n <= 53. */
static uint64_t bits_at(const int64_t *limb, int at, int n)
{
    uint64_t out = 0;
    for (int i = 0; i < n; i++) {
        const int b = at + i;
        out |= ((uint64_t)limb[b / LIMB_BITS] >> b % LIMB_BITS & 1) << i;
    }
    return out;
}

/* Whether any of the bits below `at` is set. */
static int any_below(const int64_t *limb, int at)
{
    for (int i = 0; i < at / LIMB_BITS; i++)
        if (limb[i]) return 1;
    return bits_at(limb, at - at % LIMB_BITS, at % LIMB_BITS) != 0;
}

/* Number of the highest set bit of settled limbs >= 0; -1 when there is none. */
static int highest_bit(const int64_t *limb)
{
    for (int i = DML_SUPERACC_LIMBS - 1; i >= 0; i--)
        if (limb[i]) return i * LIMB_BITS + 63 - __builtin_clzll((uint64_t)limb[i]);
    return -1;
}

static double round_finite(const dml_superacc *a)
{
    int64_t limb[DML_SUPERACC_LIMBS];
    memcpy(limb, a->word, sizeof limb);
    carry(limb);
    const double sign = limb[DML_SUPERACC_LIMBS - 1] < 0 ? -1.0 : 1.0;
    if (sign < 0) {
        for (int i = 0; i < DML_SUPERACC_LIMBS; i++)
            limb[i] = -limb[i];
        carry(limb);
    }
    const int top = highest_bit(limb), cut = top - (MANTISSA_BITS - 1);
    if (top < 0) return 0.0;
    if (cut <= 0) return sign * ldexp((double)bits_at(limb, 0, top + 1), LOWEST_EXPONENT);
    uint64_t m = bits_at(limb, cut, MANTISSA_BITS);
    const int half = (int)bits_at(limb, cut - 1, 1);
    if (half && (m & 1 || any_below(limb, cut - 1))) m++;
    return sign * ldexp((double)m, cut + LOWEST_EXPONENT);
}

double dml_superacc_round(const dml_superacc *a)
{
    const int64_t flag = a->word[FLAG];
    if (flag == 0) return round_finite(a);
    const int nan = (flag & FIELD_MASK) != 0;
    const int pos = (flag / SEEN_POS_INF & FIELD_MASK) != 0;
    const int neg = (flag / SEEN_NEG_INF & FIELD_MASK) != 0;
    if (nan || (pos && neg)) return (double)NAN;
    return pos ? (double)INFINITY : -(double)INFINITY;
}
