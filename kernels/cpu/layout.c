/* kernels/cpu/layout.c - NHWC to NCHW and back: a transposition of each sample. */
#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/par.h"

/* [rows, cols] -> [cols, rows] per sample, in tiles that stay in the first cache. */
typedef struct transposition {
    void *y;
    const void *x;
    int64_t rows, cols;
} transposition;

enum { TRANSPOSE_TILE = 16 };

/* One loop for each size of element: what the bits mean does not matter. */
#define TRANSPOSE(name, element)                                                                  \
    static void name(void *arg, int64_t n, int32_t thread)                                        \
    {                                                                                             \
        (void)thread;                                                                             \
        const transposition *t = arg;                                                             \
        const element *restrict x = (const element *)t->x + n * t->rows * t->cols;                \
        element *restrict y = (element *)t->y + n * t->rows * t->cols;                            \
        for (int64_t r0 = 0; r0 < t->rows; r0 += TRANSPOSE_TILE)                                  \
            for (int64_t c0 = 0; c0 < t->cols; c0 += TRANSPOSE_TILE) {                            \
                const int64_t r1 = r0 + TRANSPOSE_TILE < t->rows ? r0 + TRANSPOSE_TILE : t->rows; \
                const int64_t c1 = c0 + TRANSPOSE_TILE < t->cols ? c0 + TRANSPOSE_TILE : t->cols; \
                for (int64_t c = c0; c < c1; c++)                                                 \
                    for (int64_t r = r0; r < r1; r++)                                             \
                        y[c * t->rows + r] = x[r * t->cols + c];                                  \
            }                                                                                     \
    }
TRANSPOSE(transpose_4_bytes, uint32_t)
TRANSPOSE(transpose_2_bytes, uint16_t)

static void transpose(dml_kctx *k, dml_out y, dml_in x, int64_t rows, int64_t cols)
{
    transposition t = {y->data, x->data, rows, cols};
    dml_par_items(k->threads, x->dim[0],
                  dml_dtype_bytes(x->dtype) == 2 ? transpose_2_bytes : transpose_4_bytes, &t);
}

dml_err dml_cpu_nhwc_to_nchw(dml_kctx *k, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_layout("nhwc_to_nchw", &d, x, y));
    transpose(k, y, x, DML_DIM(d, 'h') * DML_DIM(d, 'w'), DML_DIM(d, 'c'));
    return DML_ERR_OK;
}

dml_err dml_cpu_nchw_to_nhwc(dml_kctx *k, dml_out y, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_layout("nchw_to_nhwc", &d, y, x));
    transpose(k, y, x, DML_DIM(d, 'c'), DML_DIM(d, 'h') * DML_DIM(d, 'w'));
    return DML_ERR_OK;
}
