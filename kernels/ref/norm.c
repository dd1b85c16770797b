/* kernels/ref/norm.c - batch normalisation over all but the last dim.
 *
 *   xhat = (x - mean) / sqrt(var + eps)      y = gamma xhat + beta
 *   dx = gamma / sqrt(var + eps) (dy - mean(dy) - xhat mean(dy xhat))
 *   dgamma = sum dy xhat                     dbeta = sum dy
 */
#include "kernels/check.h"
#include "kernels/ref/real.h"
#include "kernels/ref/ref.h"

#include <math.h>

dml_err dml_ref_batch_norm_eval(dml_kctx *k, float eps, dml_out y, dml_in x, dml_in mean,
                                dml_in var, dml_in gamma, dml_in beta)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_norm("batch_norm_eval", &d, y, x, NULL, mean, var, gamma, beta));
    const int64_t channels = DML_DIM(d, 'c');
    for (int64_t e = 0; e < dml_tensor_elems(x); e++) {
        const int64_t c = e % channels;
        const double xhat =
            (dml_real_get(x, e) - dml_real_get(mean, c)) / sqrt(dml_real_get(var, c) + (double)eps);
        dml_real_put(y, e, dml_real_get(gamma, c) * xhat + dml_real_get(beta, c));
    }
    return DML_ERR_OK;
}

dml_err dml_ref_batch_norm_fwd(dml_kctx *k, float eps, dml_out y, dml_out mean, dml_out var,
                               dml_in x, dml_in gamma, dml_in beta)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_norm("batch_norm_fwd", &d, y, x, NULL, mean, var, gamma, beta));
    const int64_t channels = DML_DIM(d, 'c'), elems = dml_tensor_elems(x);
    const double rows = (double)(elems / channels);
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0.0, squares = 0.0;
        for (int64_t e = c; e < elems; e += channels)
            sum += dml_real_get(x, e);
        const double m = sum / rows;
        for (int64_t e = c; e < elems; e += channels)
            squares += (dml_real_get(x, e) - m) * (dml_real_get(x, e) - m);
        const double v = squares / rows;
        for (int64_t e = c; e < elems; e += channels)
            dml_real_put(y, e,
                         dml_real_get(gamma, c) * (dml_real_get(x, e) - m) / sqrt(v + (double)eps) +
                             dml_real_get(beta, c));
        dml_real_put(mean, c, m);
        dml_real_put(var, c, v);
    }
    return DML_ERR_OK;
}

dml_err dml_ref_batch_norm_bwd(dml_kctx *k, float eps, dml_out dx, dml_out dgamma, dml_out dbeta,
                               dml_in dy, dml_in x, dml_in mean, dml_in var, dml_in gamma)
{
    (void)k;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_norm("batch_norm_bwd", &d, dx, x, dy, mean, var, gamma, NULL));
    DML_TRY(dml_check_shapes("batch_norm_bwd", &d, "dgamma=f[c] dbeta=f[c]", dgamma, dbeta));
    const int64_t channels = DML_DIM(d, 'c'), elems = dml_tensor_elems(x);
    const double rows = (double)(elems / channels);
    for (int64_t c = 0; c < channels; c++) {
        const double m = dml_real_get(mean, c),
                     scale = 1.0 / sqrt(dml_real_get(var, c) + (double)eps);
        double sum = 0.0, sum_xhat = 0.0;
        for (int64_t e = c; e < elems; e += channels) {
            sum += dml_real_get(dy, e);
            sum_xhat += dml_real_get(dy, e) * (dml_real_get(x, e) - m) * scale;
        }
        for (int64_t e = c; e < elems; e += channels) {
            const double xhat = (dml_real_get(x, e) - m) * scale;
            dml_real_put(dx, e,
                         dml_real_get(gamma, c) * scale *
                             (dml_real_get(dy, e) - sum / rows - xhat * sum_xhat / rows));
        }
        dml_real_put(dgamma, c, sum_xhat);
        dml_real_put(dbeta, c, sum);
    }
    return DML_ERR_OK;
}
