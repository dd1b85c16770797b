/* comm/pair.c - checking the pairs of `meet`. */
#include "comm/pair.h"

int32_t dml_pair_place(const int32_t *ranks, int32_t n, int32_t rank)
{
    for (int32_t i = 0; i < n; i++)
        if (ranks[i] == rank) return i;
    return -1;
}

static dml_err check_side(const char *side, int32_t pair, const int32_t *ranks, int32_t n,
                          int32_t world)
{
    if (n < 1) DML_FAIL(DML_ERR_BUG, "pair %d has no %s rank", pair, side);
    for (int32_t i = 0; i < n; i++)
        if (ranks[i] < 0 || ranks[i] >= world || (i > 0 && ranks[i] <= ranks[i - 1]))
            DML_FAIL(DML_ERR_BUG, "pair %d: rank %d at place %d of its %s side, in a world of %d",
                     pair, ranks[i], i, side, world);
    return DML_ERR_OK;
}

dml_err dml_pairs_check(const dml_pair *pairs, int32_t n, int32_t world)
{
    for (int32_t i = 0; i < n; i++) {
        const dml_pair *p = &pairs[i];
        DML_TRY(check_side("lower", i, p->lower, p->n_lower, world));
        DML_TRY(check_side("upper", i, p->upper, p->n_upper, world));
        for (int32_t k = 0; k < p->n_lower; k++)
            if (dml_pair_place(p->upper, p->n_upper, p->lower[k]) >= 0)
                DML_FAIL(DML_ERR_BUG, "pair %d has rank %d on both sides", i, p->lower[k]);
    }
    return DML_ERR_OK;
}
