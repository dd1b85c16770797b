/* kernels/ref/linear.c - y = x w^T + b and its two gradients. */
#include "kernels/check.h"
#include "kernels/ref/real.h"
#include "kernels/ref/ref.h"

dml_err dml_ref_linear_fwd(dml_kctx *k, dml_out y, dml_in x, dml_in w, dml_in b)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_linear("linear_fwd", &d, y, x, w, b));
    const int64_t n = DML_DIM(d, 'n'), in = DML_DIM(d, 'i'), out = DML_DIM(d, 'o');
    for (int64_t r = 0; r < n; r++)
        for (int64_t o = 0; o < out; o++) {
            double sum = b ? dml_real_get(b, o) : 0.0;
            for (int64_t i = 0; i < in; i++)
                sum += dml_real_get(x, r * in + i) * dml_real_get(w, o * in + i);
            dml_real_put(y, r * out + o, sum);
        }
    return DML_ERR_OK;
}

dml_err dml_ref_linear_bwd_input(dml_kctx *k, dml_out dx, dml_in dy, dml_in w)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_linear("linear_bwd_input", &d, dy, dx, w, NULL));
    const int64_t n = DML_DIM(d, 'n'), in = DML_DIM(d, 'i'), out = DML_DIM(d, 'o');
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < in; i++) {
            double sum = 0.0;
            for (int64_t o = 0; o < out; o++)
                sum += dml_real_get(dy, r * out + o) * dml_real_get(w, o * in + i);
            dml_real_put(dx, r * in + i, sum);
        }
    return DML_ERR_OK;
}

dml_err dml_ref_linear_bwd_weight(dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_linear("linear_bwd_weight", &d, dy, x, dw, db));
    const int64_t n = DML_DIM(d, 'n'), in = DML_DIM(d, 'i'), out = DML_DIM(d, 'o');
    for (int64_t o = 0; o < out; o++) {
        for (int64_t i = 0; i < in; i++) {
            double sum = 0.0;
            for (int64_t r = 0; r < n; r++)
                sum += dml_real_get(dy, r * out + o) * dml_real_get(x, r * in + i);
            dml_real_put(dw, o * in + i, sum);
        }
        double sum = 0.0;
        for (int64_t r = 0; r < n && db; r++)
            sum += dml_real_get(dy, r * out + o);
        if (db) dml_real_put(db, o, sum);
    }
    return DML_ERR_OK;
}
