/* kernels/cpu/norm.c - batch normalisation over rows of channels.
 *
 * One reading of x gives both moments: with a pivot near the mean (the channel's first value)
 *
 *   s = sum (x - pivot)   q = sum (x - pivot)^2      mean = pivot + s / N     var = q / N - (s / N)^2
 *
 * loses no digits.  Rows are summed in blocks, a function of their number alone: floats over RUN rows,
 * then doubles, whatever the threads; blocks are added in order.
 */
#include "kernels/check.h"
#include "kernels/cpu/par.h"
#include "kernels/cpu/wide.h"
#include "kernels/ref/ref.h"

#include <math.h>

enum { RUN = 64, MIN_BLOCK_ROWS = 256, MAX_BLOCKS = 64, TILE = 64 };

/* Two sums per channel over rows, by blocks. */
typedef struct sums {
    const float *x, *dy; /* dy NULL: forward */
    const float *pivot;  /* [c]; the mean, backward */
    int64_t rows, c, block_rows;
    double *sum; /* [blocks][2][c] */
} sums;

/* s[j] += x - pivot,  q[j] += (x - pivot)^2  over four rows of `width` channels. */
static inline void add_moments(const float *restrict x, const float *restrict pivot, int64_t pitch,
                               int64_t width, float *restrict s, float *restrict q)
{
#pragma omp simd
    for (int64_t j = 0; j < width; j++) {
        const float a = x[j] - pivot[j], b = x[j + pitch] - pivot[j];
        const float c = x[j + 2 * pitch] - pivot[j], d = x[j + 3 * pitch] - pivot[j];
        s[j] += (a + b) + (c + d);
        q[j] += (a * a + b * b) + (c * c + d * d);
    }
}

/* s[j] += dy,  q[j] += dy (x - mean)  likewise. */
static inline void add_products(const float *restrict x, const float *restrict dy,
                                const float *restrict mean, int64_t pitch, int64_t width,
                                float *restrict s, float *restrict q)
{
#pragma omp simd
    for (int64_t j = 0; j < width; j++) {
        const float a = dy[j], b = dy[j + pitch], c = dy[j + 2 * pitch], d = dy[j + 3 * pitch];
        s[j] += (a + b) + (c + d);
        q[j] += (a * (x[j] - mean[j]) + b * (x[j + pitch] - mean[j])) +
                (c * (x[j + 2 * pitch] - mean[j]) + d * (x[j + 3 * pitch] - mean[j]));
    }
}

static void add_one_row(const sums *f, int64_t at, int64_t j0, int64_t width, float *s, float *q)
{
    for (int64_t j = 0; j < width; j++) {
        const float x = f->x[at + j] - f->pivot[j0 + j], a = f->dy ? f->dy[at + j] : x;
        s[j] += a;
        q[j] += a * x;
    }
}

/* Adds rows first .. first + n-1 of channels j0 .. j0 + width-1, n <= RUN, to the double sums. */
static void add_run(const sums *f, int64_t first, int64_t n, int64_t j0, int64_t width,
                    double *block)
{
    float s[TILE] = {0}, q[TILE] = {0};
    int64_t r = 0;
    for (; r + 4 <= n; r += 4) {
        const int64_t at = (first + r) * f->c + j0;
        if (f->dy)
            add_products(f->x + at, f->dy + at, f->pivot + j0, f->c, width, s, q);
        else
            add_moments(f->x + at, f->pivot + j0, f->c, width, s, q);
    }
    for (; r < n; r++)
        add_one_row(f, (first + r) * f->c + j0, j0, width, s, q);
    for (int64_t j = 0; j < width; j++) {
        block[j0 + j] += (double)s[j];
        block[f->c + j0 + j] += (double)q[j];
    }
}

static void sum_block(void *arg, int64_t i, int32_t thread)
{
    (void)thread;
    const sums *f = arg;
    double *block = f->sum + 2 * f->c * i;
    for (int64_t j = 0; j < 2 * f->c; j++)
        block[j] = 0.0;
    const int64_t begin = i * f->block_rows;
    const int64_t end = begin + f->block_rows < f->rows ? begin + f->block_rows : f->rows;
    for (int64_t r = begin; r < end; r += RUN)
        for (int64_t j = 0; j < f->c; j += TILE)
            add_run(f, r, end - r < RUN ? end - r : RUN, j, f->c - j < TILE ? f->c - j : TILE,
                    block);
}

/* Leaves the two sums of all rows in f->sum[0 .. 2c-1]. */
static void run_sums(dml_kctx *k, sums *f, int64_t blocks)
{
    dml_par_items(k->threads, blocks, sum_block, f);
    for (int64_t i = 1; i < blocks; i++)
        for (int64_t j = 0; j < 2 * f->c; j++)
            f->sum[j] += f->sum[2 * f->c * i + j];
}

/* Rows of a block: at most MAX_BLOCKS of them, each worth waking a thread for. */
static int64_t block_rows_of(int64_t rows)
{
    const int64_t even = (rows + MAX_BLOCKS - 1) / MAX_BLOCKS;
    return even > MIN_BLOCK_ROWS ? even : MIN_BLOCK_ROWS;
}

/* An affine map per channel:  forward  y = (x - mean) scale + shift,
 * backward  dx = (dy - shift - (x - mean) slope) scale.  The arrays [c] lie in the scratch. */
typedef struct affine {
    const float *x, *dy, *mean, *scale, *shift, *slope;
    float *y;
    int64_t c;
} affine;

static void rows_forward(void *arg, int64_t begin, int64_t end)
{
    const affine *f = arg;
    const float *restrict mean = f->mean, *restrict scale = f->scale, *restrict shift = f->shift;
    for (int64_t r = begin; r < end; r++) {
        const float *restrict x = f->x + r * f->c;
        float *restrict y = f->y + r * f->c;
#pragma omp simd
        for (int64_t j = 0; j < f->c; j++)
            y[j] = (x[j] - mean[j]) * scale[j] + shift[j];
    }
}

static void rows_backward(void *arg, int64_t begin, int64_t end)
{
    const affine *f = arg;
    const float *restrict mean = f->mean, *restrict scale = f->scale, *restrict shift = f->shift;
    const float *restrict slope = f->slope;
    for (int64_t r = begin; r < end; r++) {
        const float *restrict x = f->x + r * f->c, *restrict dy = f->dy + r * f->c;
        float *restrict dx = f->y + r * f->c;
#pragma omp simd
        for (int64_t j = 0; j < f->c; j++)
            dx[j] = (dy[j] - shift[j] - (x[j] - mean[j]) * slope[j]) * scale[j];
    }
}

/* Scratch of a call: the sums, then three arrays of c floats. */
typedef struct space {
    double *sum;
    float *scale, *shift, *slope;
} space;

static dml_err space_of(dml_kctx *k, int64_t blocks, int64_t c, space *out)
{
    void *memory;
    const int64_t sum_bytes = dml_cpu_aligned(blocks * 2 * c * (int64_t)sizeof(double));
    DML_TRY(
        dml_cpu_buffer(k, DML_CPU_SCRATCH, sum_bytes + 3 * c * (int64_t)sizeof(float), &memory));
    out->sum = memory;
    out->scale = (float *)(void *)((char *)memory + sum_bytes);
    out->shift = out->scale + c;
    out->slope = out->shift + c;
    return DML_ERR_OK;
}

dml_err dml_cpu_batch_norm_eval(dml_kctx *k, float eps, dml_out y, dml_in x, dml_in mean,
                                dml_in var, dml_in gamma, dml_in beta)
{
    dml_dims d = {0};
    DML_TRY(dml_check_norm("batch_norm_eval", &d, y, x, NULL, mean, var, gamma, beta));
    const int64_t c = DML_DIM(d, 'c');
    space s = {0};
    DML_TRY(space_of(k, 0, c, &s));
    for (int64_t j = 0; j < c; j++)
        s.scale[j] = ((const float *)gamma->data)[j] / sqrtf(((const float *)var->data)[j] + eps);
    dml_cpu_wide v;
    DML_TRY(dml_cpu_widen(k, &v, 1, (dml_in[]){y, x}, 2));
    affine f = {.x = v.t[1].data, .mean = mean->data, .scale = s.scale, .shift = beta->data};
    f.y = v.t[0].data;
    f.c = c;
    dml_par_ranges(k->threads, dml_tensor_elems(x) / c, 8 * c, rows_forward, &f);
    return dml_cpu_narrow(&v);
}

dml_err dml_cpu_batch_norm_fwd(dml_kctx *k, float eps, dml_out y, dml_out mean, dml_out var,
                               dml_in x, dml_in gamma, dml_in beta)
{
    dml_dims d = {0};
    DML_TRY(dml_check_norm("batch_norm_fwd", &d, y, x, NULL, mean, var, gamma, beta));
    const int64_t c = DML_DIM(d, 'c'), rows = dml_tensor_elems(x) / c;
    const int64_t block_rows = block_rows_of(rows), blocks = (rows + block_rows - 1) / block_rows;
    space s = {0};
    DML_TRY(space_of(k, blocks, c, &s));
    dml_cpu_wide v;
    DML_TRY(dml_cpu_widen(k, &v, 1, (dml_in[]){y, x}, 2));
    const float *first = v.t[1].data; /* the first row is the pivot */
    sums f = {.x = first, .pivot = first, .rows = rows, .c = c, .block_rows = block_rows};
    f.sum = s.sum;
    run_sums(k, &f, blocks);
    for (int64_t j = 0; j < c; j++) {
        const double shift = s.sum[j] / (double)rows;
        const double biased = s.sum[c + j] / (double)rows - shift * shift;
        ((float *)mean->data)[j] = (float)((double)first[j] + shift);
        ((float *)var->data)[j] = biased > 0.0 || isnan(biased) ? (float)biased : 0.0f;
    }
    DML_TRY(dml_cpu_batch_norm_eval(k, eps, &v.t[0], &v.t[1], mean, var, gamma, beta));
    return dml_cpu_narrow(&v);
}

dml_err dml_cpu_batch_norm_bwd(dml_kctx *k, float eps, dml_out dx, dml_out dgamma, dml_out dbeta,
                               dml_in dy, dml_in x, dml_in mean, dml_in var, dml_in gamma)
{
    dml_dims d = {0};
    DML_TRY(dml_check_norm("batch_norm_bwd", &d, dx, x, dy, mean, var, gamma, NULL));
    DML_TRY(dml_check_shapes("batch_norm_bwd", &d, "dgamma=f[c] dbeta=f[c]", dgamma, dbeta));
    const int64_t c = DML_DIM(d, 'c'), rows = dml_tensor_elems(x) / c;
    const int64_t block_rows = block_rows_of(rows), blocks = (rows + block_rows - 1) / block_rows;
    space s = {0};
    DML_TRY(space_of(k, blocks, c, &s));
    dml_cpu_wide v;
    DML_TRY(dml_cpu_widen(k, &v, 1, (dml_in[]){dx, dy, x}, 3));
    const float *const x_at = v.t[2].data, *const dy_at = v.t[1].data;
    sums f = {.x = x_at, .dy = dy_at, .pivot = mean->data, .rows = rows, .c = c};
    f.block_rows = block_rows;
    f.sum = s.sum;
    run_sums(k, &f, blocks);
    for (int64_t j = 0; j < c; j++) {
        const double over = 1.0 / sqrt((double)((const float *)var->data)[j] + (double)eps);
        s.scale[j] = (float)((double)((const float *)gamma->data)[j] * over);
        s.shift[j] = (float)(s.sum[j] / (double)rows);
        s.slope[j] = (float)(s.sum[c + j] * over * over / (double)rows);
        ((float *)dgamma->data)[j] = (float)(s.sum[c + j] * over);
        ((float *)dbeta->data)[j] = (float)s.sum[j];
    }
    affine g = {.x = x_at, .dy = dy_at, .mean = mean->data, .scale = s.scale};
    g.shift = s.shift;
    g.slope = s.slope;
    g.y = v.t[0].data;
    g.c = c;
    dml_par_ranges(k->threads, rows, 12 * c, rows_backward, &g);
    return dml_cpu_narrow(&v);
}

/* A few operations on a few channels, once a step. */
dml_err dml_cpu_move_moments(dml_kctx *k, const dml_moments *p, dml_out mean, dml_out var,
                             dml_in slots)
{
    (void)k;
    return dml_ref_move_moments(NULL, p, mean, var, slots);
}
