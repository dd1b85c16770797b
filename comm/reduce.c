/* comm/reduce.c - the element loops of reductions, one row of the list each.
 *
 * Plain loops that the compiler vectorises: an element's result never depends on its neighbours, so the
 * vector width changes no bit.
 */
#include "comm/reduce.h"

#include "kernels/half.h"

static inline dml_bf16 add_bf16(dml_bf16 a, dml_bf16 b)
{
    return dml_bf16_of_float(dml_bf16_to_float(a) + dml_bf16_to_float(b));
}

static inline dml_f16 add_f16(dml_f16 a, dml_f16 b)
{
    return dml_f16_of_float(dml_f16_to_float(a) + dml_f16_to_float(b));
}

/* clang-format off */
/*    dtype  reduction  element   result from a and b            */
#define REDUCE_LIST(X)                                            \
    X(F32,   SUM,       float,    a + b)                          \
    X(F64,   SUM,       double,   a + b)                          \
    X(BF16,  SUM,       dml_bf16, add_bf16(a, b))                 \
    X(F16,   SUM,       dml_f16,  add_f16(a, b))                  \
    X(I64,   SUM,       uint64_t, a + b) /* wraps, defined     */ \
    X(I32,   SUM,       uint32_t, a + b)                          \
    X(U32,   SUM,       uint32_t, a + b)                          \
    X(I64,   MAX,       int64_t,  a > b ? a : b)                  \
    X(I32,   MAX,       int32_t,  a > b ? a : b)                  \
    X(U32,   MAX,       uint32_t, a > b ? a : b)
/* clang-format on */

#define X(dtype, reduction, type, expr)                                                    \
    static void reduce_##dtype##_##reduction(void *restrict acc, const void *restrict src, \
                                             int64_t elems)                                \
    {                                                                                      \
        type *restrict y = acc;                                                            \
        const type *restrict x = src;                                                      \
        for (int64_t i = 0; i < elems; i++) {                                              \
            const type a = y[i], b = x[i];                                                 \
            y[i] = expr;                                                                   \
        }                                                                                  \
    }
REDUCE_LIST(X)
#undef X

dml_reduce_fn dml_reduce_find(dml_dtype dtype, dml_reduction reduction)
{
#define X(d, r, type, expr) \
    if (dtype == DML_##d && reduction == DML_##r) return reduce_##d##_##r;
    REDUCE_LIST(X)
#undef X
    return NULL;
}

const char *dml_reduction_name(dml_reduction reduction)
{
    return reduction == DML_SUM ? "sum" : "max";
}
