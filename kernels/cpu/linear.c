/* kernels/cpu/linear.c - y = x w^T + b and its gradients as matrix products.
 *
 * In deterministic mode the forward and the input gradient go by blocks of samples (blocks.c).  The
 * weight gradient is a sum over samples, which would have to be added up; its output is cut instead,
 * into panels of rows, each made by one thread:
 *
 *   dw  +-----------+  panel 0: rows 0 .. PANEL_ROWS-1     = dy[:, those]^T x
 *       +-----------+  panel 1
 *       +-----------+  the rest
 */
#include "kernels/check.h"
#include "kernels/cpu/par.h"
#include "kernels/cpu/wide.h"

enum { PANEL_ROWS = 64, COLUMN_TILE = 64, MAX_BLOCKS = 8, BLOCK_ROWS = 16 };
enum { PLAIN_PASSES = 2, PLAIN_ROWS = 512 };

/* Packing weights costs about what three to four products of 128 rows gain by it.  Where results may not
 * depend on the layout of the run it is always done, since the other product may round otherwise. */
static bool reads_plain(const dml_kctx *k, int64_t n)
{
    return !k->deterministic && k->passes > 0 && k->passes <= PLAIN_PASSES &&
           k->passes * n <= PLAIN_ROWS;
}

/* n rows through weights (or their gradient) w [out, in]. */
static dml_dnn_shape shape_of(const dml_kctx *k, dml_dnn_kind kind, int64_t n, dml_in w)
{
    const int64_t in = w->dim[1], out = w->dim[0];
    return (dml_dnn_shape){.kind = kind,
                           .threads = dml_cpu_threads(k, n * in * out),
                           .lanes = 1,
                           .n = n,
                           .in = in,
                           .out = out,
                           .pitch = out,
                           .plain = kind != DML_DNN_LINEAR_BWD_WEIGHT && reads_plain(k, n)};
}

/* Blocks of rows: enough for a worker's threads, but not so thin that a product becomes slow. */
static int64_t blocks_of(int64_t n)
{
    const int64_t count = n / BLOCK_ROWS;
    return count < 1 ? 1 : count < MAX_BLOCKS ? count : MAX_BLOCKS;
}

dml_err dml_cpu_linear_fwd(dml_kctx *k, dml_out y, dml_in x, dml_in w, dml_in b)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear("linear_fwd", &d, y, x, w, b));
    dml_dnn_shape shape = shape_of(k, DML_DNN_LINEAR_FWD, DML_DIM(d, 'n'), w);
    shape.bias = b != NULL;
    return dml_cpu_product(k, shape, blocks_of(shape.n), x, w, b, y);
}

dml_err dml_cpu_linear_bwd_input(dml_kctx *k, dml_out dx, dml_in dy, dml_in w)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear("linear_bwd_input", &d, dy, dx, w, NULL));
    const dml_dnn_shape shape = shape_of(k, DML_DNN_LINEAR_BWD_INPUT, DML_DIM(d, 'n'), w);
    return dml_cpu_product(k, shape, blocks_of(shape.n), dx, w, NULL, dy);
}

/* One weight gradient in panels. */
typedef struct panels {
    dml_kctx *k;
    dml_dnn_op *whole, *rest; /* of PANEL_ROWS rows, of fewer */
    float *dw;
    const char *dy, *x;
    char *scratch;                       /* [threads][lane_bytes] */
    int64_t lane_bytes, in, panel_bytes; /* of dy, from panel to panel */
    dml_err err;                         /* of any panel; its trail may be another thread's */
} panels;

static void run_panel(void *arg, int64_t i, int32_t thread)
{
    panels *p = arg;
    dml_dnn_op *op = p->whole && i < p->whole->shape.pitch / PANEL_ROWS ? p->whole : p->rest;
    void *const at[DML_DNN_ROLES] = {
        [DML_DNN_X] = (void *)(uintptr_t)p->x,
        [DML_DNN_W] = p->dw + i * PANEL_ROWS * p->in,
        [DML_DNN_Y] = (void *)(uintptr_t)(p->dy + i * p->panel_bytes),
        [DML_DNN_SCRATCH] = p->scratch + thread * p->lane_bytes,
    };
    const dml_err err = dml_dnn_run(&p->k->dnn, op, thread, at);
    if (err != DML_ERR_OK) {
#pragma omp atomic write
        p->err = err;
    }
}

static dml_err bwd_weight_in_panels(dml_kctx *k, dml_dnn_shape shape, dml_out dw, dml_in dy,
                                    dml_in x)
{
    const int64_t rest = shape.out % PANEL_ROWS;
    const int32_t threads = shape.threads;
    panels p = {.k = k, .dw = dw->data, .dy = dy->data, .x = x->data, .in = shape.in};
    p.panel_bytes = PANEL_ROWS * dml_dtype_bytes(dy->dtype);
    shape.threads = 1;
    shape.lanes = k->threads;
    if (shape.out >= PANEL_ROWS) {
        shape.out = PANEL_ROWS;
        DML_TRY(dml_cpu_op(k, &shape, NULL, &p.whole));
        p.lane_bytes = dml_cpu_aligned(p.whole->scratch_bytes);
    }
    if (rest > 0) {
        shape.out = rest;
        DML_TRY(dml_cpu_op(k, &shape, NULL, &p.rest));
        const int64_t bytes = dml_cpu_aligned(p.rest->scratch_bytes);
        if (bytes > p.lane_bytes) p.lane_bytes = bytes;
    }
    DML_TRY(
        dml_cpu_buffer(k, DML_CPU_SCRATCH, k->threads * p.lane_bytes + 64, (void **)&p.scratch));
    dml_par_items(threads, (shape.pitch + PANEL_ROWS - 1) / PANEL_ROWS, run_panel, &p);
    if (p.err != DML_ERR_OK) DML_FAIL(p.err, "a panel of a weight gradient failed");
    return DML_ERR_OK;
}

static dml_err weight_gradient(const char *kernel, bool adds, dml_kctx *k, dml_out dw, dml_out db,
                               dml_in dy, dml_in x)
{
    dml_dims d = {0};
    DML_TRY(dml_check_linear_grads(kernel, &d, dw, db, dy, x));
    if (db) dml_cpu_column_sums(k, db->data, adds, dy, DML_DIM(d, 'n'), DML_DIM(d, 'o'));
    dml_dnn_shape shape = shape_of(k, DML_DNN_LINEAR_BWD_WEIGHT, DML_DIM(d, 'n'), dw);
    bool native;
    shape.adds = adds;
    shape.type = (int32_t)x->dtype;
    DML_TRY(dml_cpu_native(k, &shape, &native));
    dml_cpu_wide v;
    DML_TRY(dml_cpu_widen(k, &v, 0, (dml_in[]){x, dy}, native ? 0 : 2));
    if (!native) {
        shape.type = DML_F32;
        x = &v.t[0];
        dy = &v.t[1];
    }
    if (k->deterministic) return bwd_weight_in_panels(k, shape, dw, dy, x);
    return dml_cpu_run(k, &shape, x, dw, NULL, dy);
}

dml_err dml_cpu_linear_bwd_weight(dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x)
{
    return weight_gradient("linear_bwd_weight", false, k, dw, db, dy, x);
}

dml_err dml_cpu_linear_add_weight(dml_kctx *k, dml_out dw, dml_out db, dml_in dy, dml_in x)
{
    return weight_gradient("linear_add_weight", true, k, dw, db, dy, x);
}

typedef struct columns {
    float *sum;
    const char *x;
    dml_dtype type;
    bool adds;
    int64_t rows, cols;
} columns;

static void sum_columns(void *arg, int64_t begin, int64_t end)
{
    const columns *c = arg;
    const int64_t bytes = dml_dtype_bytes(c->type);
    for (int64_t j0 = begin; j0 < end; j0 += COLUMN_TILE) {
        const int64_t width = end - j0 < COLUMN_TILE ? end - j0 : COLUMN_TILE;
        float sum[COLUMN_TILE] = {0}, row[COLUMN_TILE];
        for (int64_t r = 0; r < c->rows; r++) {
            dml_cpu_load(row, c->x + (r * c->cols + j0) * bytes, c->type, width);
#pragma omp simd
            for (int64_t j = 0; j < width; j++)
                sum[j] += row[j];
        }
        for (int64_t j = 0; j < width; j++)
            c->sum[j0 + j] = c->adds ? c->sum[j0 + j] + sum[j] : sum[j];
    }
}

void dml_cpu_column_sums(dml_kctx *k, float *sum, bool adds, dml_in x, int64_t rows, int64_t cols)
{
    columns c = {
        .sum = sum, .x = x->data, .type = x->dtype, .adds = adds, .rows = rows, .cols = cols};
    dml_par_ranges(k->threads, cols, rows * dml_dtype_bytes(x->dtype), sum_columns, &c);
}
