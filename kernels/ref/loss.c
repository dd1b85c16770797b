/* kernels/ref/loss.c - losses over rows of class scores, with the hits they count.  The gradient is that of loss_scale
 * times the loss. */
#include "kernels/check.h"
#include "kernels/ref/real.h"
#include "kernels/ref/ref.h"

#include <math.h>

/* First maximum of row r; a NaN never is one. */
static int64_t argmax(const dml_tensor *x, int64_t r, int64_t classes)
{
    int64_t best = 0;
    for (int64_t j = 1; j < classes; j++)
        if (dml_real_get(x, r * classes + j) > dml_real_get(x, r * classes + best)) best = j;
    return best;
}

/* -log softmax(x)[label] of one row, by the stable form  log sum exp(x - max) - (x[label] - max). */
static double row_xent(dml_out dx, dml_in x, int64_t r, int64_t classes, int64_t label,
                       double scale)
{
    const double max = dml_real_get(x, r * classes + argmax(x, r, classes));
    const double score = dml_real_get(x, r * classes + label);
    double sum = 0.0;
    for (int64_t j = 0; j < classes; j++)
        sum += exp(dml_real_get(x, r * classes + j) - max);
    for (int64_t j = 0; j < classes && dx; j++)
        dml_real_put(
            dx, r * classes + j,
            scale * (exp(dml_real_get(x, r * classes + j) - max) / sum - (j == label ? 1.0 : 0.0)));
    return log(sum) - (score - max);
}

/* mean over classes of (x - onehot)^2 of one row. */
static double row_mse(dml_out dx, dml_in x, int64_t r, int64_t classes, int64_t label, double scale)
{
    double sum = 0.0;
    for (int64_t j = 0; j < classes; j++) {
        const double diff = dml_real_get(x, r * classes + j) - (j == label ? 1.0 : 0.0);
        sum += diff * diff;
        if (dx) dml_real_put(dx, r * classes + j, scale * 2.0 * diff / (double)classes);
    }
    return sum / (double)classes;
}

typedef double (*row_loss)(dml_out dx, dml_in x, int64_t r, int64_t classes, int64_t label,
                           double scale);

static dml_err over_rows(const dml_kctx *k, const char *kernel, row_loss row, dml_out loss,
                         dml_out correct, dml_out dx, dml_in x, dml_in labels)
{
    const double scale = (double)dml_ref_step(k).loss_scale;
    dml_dims d = {.real64 = true};
    DML_TRY(dml_check_loss(kernel, &d, loss, correct, dx, x, labels));
    const int64_t n = DML_DIM(d, 'n'), classes = DML_DIM(d, 'c');
    double sum = 0.0;
    int32_t hits = 0;
    for (int64_t r = 0; r < n; r++) {
        const int32_t label = ((const int32_t *)labels->data)[r];
        DML_TRY(dml_check_label(kernel, r, label, classes));
        hits += argmax(x, r, classes) == label; /* before dx, which may be x */
        sum += row(dx, x, r, classes, label, scale);
    }
    *(double *)loss->data = sum;
    *(int32_t *)correct->data = hits;
    return DML_ERR_OK;
}

dml_err dml_ref_softmax_xent(dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x,
                             dml_in labels)
{
    return over_rows(k, "softmax_xent", row_xent, loss, correct, dx, x, labels);
}

dml_err dml_ref_mse_onehot(dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x,
                           dml_in labels)
{
    return over_rows(k, "mse_onehot", row_mse, loss, correct, dx, x, labels);
}
