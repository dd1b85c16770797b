/* kernels/cpu/layout.c - NHWC to NCHW and back: a transposition of each sample. */
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/par.h"

/* [rows, cols] -> [cols, rows] per sample, in tiles that stay in the first cache. */
typedef struct transposition {
    float *y;
    const float *x;
    int64_t rows, cols;
} transposition;

enum { TRANSPOSE_TILE = 16 };

static void transpose_sample(void *arg, int64_t n, int32_t thread)
{
    (void)thread;
    const transposition *t = arg;
    const float *restrict x = t->x + n * t->rows * t->cols;
    float *restrict y = t->y + n * t->rows * t->cols;
    for (int64_t r0 = 0; r0 < t->rows; r0 += TRANSPOSE_TILE)
        for (int64_t c0 = 0; c0 < t->cols; c0 += TRANSPOSE_TILE) {
            const int64_t r1 = r0 + TRANSPOSE_TILE < t->rows ? r0 + TRANSPOSE_TILE : t->rows;
            const int64_t c1 = c0 + TRANSPOSE_TILE < t->cols ? c0 + TRANSPOSE_TILE : t->cols;
            for (int64_t c = c0; c < c1; c++)
                for (int64_t r = r0; r < r1; r++)
                    y[c * t->rows + r] = x[r * t->cols + c];
        }
}

dml_err dml_cpu_nhwc_to_nchw(dml_kctx *k, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_layout("nhwc_to_nchw", &d, x, y));
    transposition t = {y->data, x->data, DML_DIM(d, 'h') * DML_DIM(d, 'w'), DML_DIM(d, 'c')};
    dml_par_items(k->threads, DML_DIM(d, 'n'), transpose_sample, &t);
    return DML_ERR_OK;
}

dml_err dml_cpu_nchw_to_nhwc(dml_kctx *k, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_layout("nchw_to_nhwc", &d, y, x));
    transposition t = {y->data, x->data, DML_DIM(d, 'c'), DML_DIM(d, 'h') * DML_DIM(d, 'w')};
    dml_par_items(k->threads, DML_DIM(d, 'n'), transpose_sample, &t);
    return DML_ERR_OK;
}
