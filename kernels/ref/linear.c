/* kernels/ref/linear.c - y = x w^T + b, its two gradients, and forms that do a neighbour's work as well. */
#include "kernels/check.h"
#include "kernels/ref/curves.h"
#include "kernels/ref/real.h"
#include "kernels/ref/ref.h"

#include <string.h>

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

/* dw, db = or += the gradients. */
static dml_err weight_gradient(const char *kernel, dml_out dw, dml_out db, dml_in dy, dml_in x,
                               bool add)
{
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_linear_grads(kernel, &d, dw, db, dy, x));
    const int64_t n = DML_DIM(d, 'n'), in = DML_DIM(d, 'i'), out = DML_DIM(d, 'o');
    for (int64_t o = 0; o < out; o++) {
        for (int64_t i = 0; i < in; i++) {
            double sum = add ? dml_real_get(dw, o * in + i) : 0.0;
            for (int64_t r = 0; r < n; r++)
                sum += dml_real_get(dy, r * out + o) * dml_real_get(x, r * in + i);
            dml_real_put(dw, o * in + i, sum);
        }
        double sum = db && add ? dml_real_get(db, o) : 0.0;
        for (int64_t r = 0; r < n && db; r++)
            sum += dml_real_get(dy, r * out + o);
        if (db) dml_real_put(db, o, sum);
    }
    return DML_ERR_OK;
}

dml_err dml_ref_linear_bwd_weight(dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x)
{
    (void)k;
    return weight_gradient("linear_bwd_weight", dw, db, dy, x, false);
}

dml_err dml_ref_linear_add_weight(dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x)
{
    (void)k;
    return weight_gradient("linear_add_weight", dw, db, dy, x, true);
}

/* Row r of aux, seen as a tensor of y's type. */
static dml_tensor aux_row(dml_in aux, int64_t r, dml_dtype dtype, int64_t elems)
{
    return dml_tensor_of((char *)aux->data + r * aux->dim[1], dtype, 1, &elems);
}

dml_err dml_ref_linear_act_fwd(dml_kctx *k, dml_act act, dml_out y, dml_out aux, dml_in x, dml_in w,
                               dml_in b)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_linear("linear_act_fwd", &d, y, x, w, b));
    DML_TRY(dml_check_aux("linear_act_fwd", act, y, aux));
    const int64_t in = DML_DIM(d, 'i'), out = DML_DIM(d, 'o');
    memset(aux->data, 0, (size_t)dml_tensor_bytes(aux));
    for (int64_t r = 0; r < DML_DIM(d, 'n'); r++) {
        const dml_tensor kept = aux_row(aux, r, y->dtype, out);
        for (int64_t o = 0; o < out; o++) {
            double sum = b ? dml_real_get(b, o) : 0.0;
            for (int64_t i = 0; i < in; i++)
                sum += dml_real_get(x, r * in + i) * dml_real_get(w, o * in + i);
            switch (act) {
            case DML_ACT_RELU:
                dml_real_put(y, r * out + o, sum <= 0.0 ? 0.0 : sum);
                if (dml_real_get(y, r * out + o) > 0.0)
                    ((uint8_t *)kept.data)[o / 8] |= (uint8_t)(1u << o % 8);
                break;
            case DML_ACT_GELU_TANH:
                dml_real_put(y, r * out + o, dml_gelu_tanh(sum));
                dml_real_put(&kept, o, sum);
                break;
            }
        }
    }
    return DML_ERR_OK;
}

dml_err dml_ref_linear_act_bwd(dml_kctx *k, dml_act act, dml_out dx, dml_in dy, dml_in w,
                               dml_in aux)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_linear("linear_act_bwd", &d, dy, dx, w, NULL));
    DML_TRY(dml_check_aux("linear_act_bwd", act, dx, aux));
    const int64_t in = DML_DIM(d, 'i'), out = DML_DIM(d, 'o');
    for (int64_t r = 0; r < DML_DIM(d, 'n'); r++) {
        const dml_tensor kept = aux_row(aux, r, dx->dtype, in);
        for (int64_t i = 0; i < in; i++) {
            double sum = 0.0;
            for (int64_t o = 0; o < out; o++)
                sum += dml_real_get(dy, r * out + o) * dml_real_get(w, o * in + i);
            switch (act) {
            case DML_ACT_RELU:
                if (!(((const uint8_t *)kept.data)[i / 8] >> i % 8 & 1)) sum = 0.0;
                break;
            case DML_ACT_GELU_TANH: sum *= dml_gelu_tanh_slope(dml_real_get(&kept, i)); break;
            }
            dml_real_put(dx, r * in + i, sum);
        }
    }
    return DML_ERR_OK;
}
