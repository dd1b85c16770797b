/* kernels/cpu/loss.c - losses over rows of class scores.  Rows go to threads; each leaves its loss and
 * its hit in the scratch, and these are added in row order. */
#include "kernels/check.h"
#include "kernels/cpu/par.h"
#include "kernels/cpu/vmath.h"
#include "kernels/cpu/wide.h"

typedef struct rows {
    const float *x;
    float *dx; /* may be NULL or x */
    const int32_t *label;
    int64_t classes;
    float scale;  /* of dx */
    double *loss; /* [n] */
    int32_t *hit; /* [n] */
} rows;

/* sum of exp(x - max), element j on lane j % 16: an order that no alignment of x changes. */
static float sum_of_exp(const float *x, float max, int64_t n)
{
    enum { LANES = 16 };
    float lane[LANES] = {0};
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES)
#pragma omp simd
        for (int64_t l = 0; l < LANES; l++)
            lane[l] += dml_vexp(x[j + l] - max);
    for (int64_t l = 0; j + l < n; l++)
        lane[l] += dml_vexp(x[j + l] - max);
    for (int64_t half = LANES / 2; half > 0; half /= 2)
        for (int64_t l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

static int32_t first_maximum(const float *x, int64_t classes)
{
    int64_t best = 0;
    for (int64_t j = 1; j < classes; j++)
        if (x[j] > x[best]) best = j;
    return (int32_t)best;
}

/* -log softmax(x)[label] = log sum exp(x - max) - (x[label] - max) */
static void xent_row(void *arg, int64_t r, int32_t thread)
{
    (void)thread;
    const rows *f = arg;
    const float *x = f->x + r * f->classes;
    const int32_t best = first_maximum(x, f->classes), label = f->label[r];
    const float max = x[best], score = x[label];
    const float sum = sum_of_exp(x, max, f->classes);
    f->loss[r] = log((double)sum) - ((double)score - (double)max);
    f->hit[r] = best == label;
    if (!f->dx) return;
    float *dx = f->dx + r * f->classes;
    const float over = 1.0f / sum;
#pragma omp simd
    for (int64_t j = 0; j < f->classes; j++)
        dx[j] = dml_vexp(x[j] - max) * over;
    dx[label] -= 1.0f;
    for (int64_t j = 0; j < f->classes && f->scale != 1.0f; j++)
        dx[j] *= f->scale;
}

/* mean over classes of (x - onehot)^2 */
static void mse_row(void *arg, int64_t r, int32_t thread)
{
    (void)thread;
    const rows *f = arg;
    const float *x = f->x + r * f->classes;
    const int32_t label = f->label[r];
    const float scale = f->scale * (2.0f / (float)f->classes);
    double sum = 0.0;
    f->hit[r] = first_maximum(x, f->classes) == label;
    for (int64_t j = 0; j < f->classes; j++) {
        const float diff = x[j] - (j == label ? 1.0f : 0.0f);
        sum += (double)diff * (double)diff;
        if (f->dx) f->dx[r * f->classes + j] = scale * diff;
    }
    f->loss[r] = sum / (double)f->classes;
}

static dml_err over_rows(dml_kctx *k, const char *kernel, dml_par_item row, dml_out loss,
                         dml_out correct, dml_out dx, dml_in x, dml_in labels)
{
    dml_dims d = {0};
    DML_TRY(dml_check_loss(kernel, &d, loss, correct, dx, x, labels));
    const int64_t n = DML_DIM(d, 'n');
    dml_cpu_wide v;
    DML_TRY(dml_cpu_widen(k, &v, 1, (dml_in[]){dx, x}, 2));
    rows f = {.x = v.t[1].data,
              .dx = v.t[0].data,
              .label = labels->data,
              .classes = DML_DIM(d, 'c'),
              .scale = k->words.loss_scale};
    for (int64_t r = 0; r < n; r++)
        DML_TRY(dml_check_label(kernel, r, f.label[r], f.classes));
    void *memory;
    DML_TRY(dml_cpu_buffer(k, DML_CPU_SCRATCH, n * (int64_t)(sizeof(double) + sizeof(int32_t)),
                           &memory));
    f.loss = memory;
    f.hit = (int32_t *)(void *)(f.loss + n);
    dml_par_items(n * f.classes < 16384 ? 1 : k->threads, n, row, &f);
    double sum = 0.0;
    int32_t hits = 0;
    for (int64_t r = 0; r < n; r++) {
        sum += f.loss[r];
        hits += f.hit[r];
    }
    *(double *)loss->data = sum;
    *(int32_t *)correct->data = hits;
    return dml_cpu_narrow(&v);
}

dml_err dml_cpu_softmax_xent(dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x,
                             dml_in labels)
{
    return over_rows(k, "softmax_xent", xent_row, loss, correct, dx, x, labels);
}

dml_err dml_cpu_mse_onehot(dml_kctx *k, dml_out loss, dml_out correct, dml_out dx, dml_in x,
                           dml_in labels)
{
    return over_rows(k, "mse_onehot", mse_row, loss, correct, dx, x, labels);
}
