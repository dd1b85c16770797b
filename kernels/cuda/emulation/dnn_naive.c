/* kernels/cuda/emulation/dnn_naive.c - dnn.h by loops on the CPU, in stream order.
 *
 * Keeps the real one's rules: no new operation once sealed, no engine for what cuDNN has none for, shapes that
 * do not fit refused, results rounded once.  A workspace is asked for and filled with 0xff, so that one that is too
 * small, or that something else still lives in, shows.
 */
#include "kernels/cuda/dnn_book.h"

#include "kernels/cuda/emulation/host_step.h"
#include "kernels/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct dml_cudnn {
    cudaStream_t stream;
    dml_cudnn_book book; /* pages without a plan: loops need none */
};

/* ---- reading and writing the three types ---- */

static int64_t image_elems(const dml_cudnn_op *op)
{
    return op->n * op->h * op->w * op->c;
}

/* Elements of the tensor in a slot; 0: the operation has none. */
static int64_t elems_of(const dml_cudnn_op *op, dml_cudnn_slot slot)
{
    const bool norm = op->kind == DML_CUDNN_NORM_FWD || op->kind == DML_CUDNN_NORM_BWD;
    const bool back = op->kind == DML_CUDNN_NORM_BWD;
    switch (slot) {
    case DML_CUDNN_X: return image_elems(op);
    case DML_CUDNN_Y: return norm ? image_elems(op) : op->n * op->p * op->q * op->o;
    case DML_CUDNN_W:
        return norm ? op->c
                    : op->o * op->conv.kernel[0] * op->conv.kernel[1] * op->c / op->conv.groups;
    case DML_CUDNN_B: return norm ? (back ? 0 : op->c) : op->bias ? op->o : 0;
    case DML_CUDNN_DX: return back ? image_elems(op) : 0;
    case DML_CUDNN_DW:
    case DML_CUDNN_DB: return back ? op->c : 0;
    case DML_CUDNN_MEAN:
    case DML_CUDNN_RSTD: return norm ? op->c : 0;
    case DML_CUDNN_EPS: return op->kind == DML_CUDNN_NORM_FWD ? 1 : 0;
    case DML_CUDNN_SLOTS: break;
    }
    return 0;
}

static bool is_written(const dml_cudnn_op *op, dml_cudnn_slot slot)
{
    switch ((dml_cudnn_kind)op->kind) {
    case DML_CUDNN_CONV_FWD: return slot == DML_CUDNN_Y;
    case DML_CUDNN_CONV_BWD_INPUT: return slot == DML_CUDNN_X;
    case DML_CUDNN_CONV_BWD_WEIGHT: return slot == DML_CUDNN_W;
    case DML_CUDNN_NORM_FWD:
        return slot == DML_CUDNN_Y || slot == DML_CUDNN_MEAN || slot == DML_CUDNN_RSTD;
    case DML_CUDNN_NORM_BWD:
        return slot == DML_CUDNN_DX || slot == DML_CUDNN_DW || slot == DML_CUDNN_DB;
    }
    return false;
}

static dml_dtype type_of(const dml_cudnn_op *op, dml_cudnn_slot slot)
{
    const bool samples = slot == DML_CUDNN_X || slot == DML_CUDNN_Y || slot == DML_CUDNN_DX;
    const bool weights =
        (slot == DML_CUDNN_W || slot == DML_CUDNN_B) && op->kind < DML_CUDNN_NORM_FWD;
    return samples || weights ? (dml_dtype)op->dtype : DML_F32;
}

static void widen(float *out, const void *in, dml_dtype dtype, int64_t n)
{
    const uint16_t *half = in;
    if (dtype == DML_F32) memcpy(out, in, sizeof *out * (size_t)n);
    for (int64_t i = 0; dtype != DML_F32 && i < n; i++)
        out[i] = dtype == DML_BF16 ? dml_bf16_to_float(half[i]) : dml_f16_to_float(half[i]);
}

static void narrow(void *out, const float *in, dml_dtype dtype, int64_t n)
{
    uint16_t *half = out;
    if (dtype == DML_F32) memcpy(out, in, sizeof *in * (size_t)n);
    for (int64_t i = 0; dtype != DML_F32 && i < n; i++)
        half[i] = dtype == DML_BF16 ? dml_bf16_of_float(in[i]) : dml_f16_of_float(in[i]);
}

/* ---- the loops, over floats ---- */

static float dot(const float *a, const float *b, int64_t n)
{
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void add_scaled(float *to, float by, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] += by * from[i];
}

/* One output cell under one tap of the window: x[c], w[o][c] and y[o] of every output channel. */
static void visit(const dml_cudnn_op *op, float *x, float *w, float *y)
{
    const int64_t c = op->c / op->conv.groups, outs = op->o / op->conv.groups;
    const int64_t w_stride = (int64_t)op->conv.kernel[0] * op->conv.kernel[1] * c;
    for (int64_t o = 0; o < op->o; o++) {
        float *xs = x + o / outs * c, *ws = w + o * w_stride;
        if (op->kind == DML_CUDNN_CONV_FWD)
            y[o] += dot(xs, ws, c);
        else if (op->kind == DML_CUDNN_CONV_BWD_INPUT)
            add_scaled(xs, y[o], ws, c);
        else
            add_scaled(ws, y[o], xs, c);
    }
}

static void convolve(const dml_cudnn_op *op, float *t[DML_CUDNN_SLOTS])
{
    const dml_conv2d *v = &op->conv;
    const int64_t taps = (int64_t)v->kernel[0] * v->kernel[1];
    for (int64_t cell = 0; cell < op->n * op->p * op->q; cell++) {
        const int64_t q = cell % op->q, p = cell / op->q % op->p, n = cell / op->q / op->p;
        float *y = t[DML_CUDNN_Y] + cell * op->o;
        for (int64_t tap = 0; tap < taps; tap++) {
            const int64_t k = tap / v->kernel[1], l = tap % v->kernel[1];
            const int64_t h = p * v->stride[0] - v->pad[0] + k * v->dilation[0];
            const int64_t w = q * v->stride[1] - v->pad[1] + l * v->dilation[1];
            if (h < 0 || h >= op->h || w < 0 || w >= op->w) continue;
            visit(op, t[DML_CUDNN_X] + ((n * op->h + h) * op->w + w) * op->c,
                  t[DML_CUDNN_W] + tap * (op->c / v->groups), y);
        }
        for (int64_t o = 0; op->bias && o < op->o; o++)
            y[o] += t[DML_CUDNN_B][o];
    }
}

static void normalise(const dml_cudnn_op *op, float *t[DML_CUDNN_SLOTS])
{
    const int64_t rows = op->n * op->h * op->w;
    for (int64_t c = 0; c < op->c; c++) {
        double sum = 0.0, squares = 0.0;
        for (int64_t i = c; i < rows * op->c; i += op->c)
            sum += (double)t[DML_CUDNN_X][i];
        const double mean = sum / (double)rows;
        for (int64_t i = c; i < rows * op->c; i += op->c)
            squares += ((double)t[DML_CUDNN_X][i] - mean) * ((double)t[DML_CUDNN_X][i] - mean);
        const double rstd = 1.0 / sqrt(squares / (double)rows + (double)t[DML_CUDNN_EPS][0]);
        for (int64_t i = c; i < rows * op->c; i += op->c)
            t[DML_CUDNN_Y][i] =
                (float)((double)t[DML_CUDNN_W][c] * ((double)t[DML_CUDNN_X][i] - mean) * rstd +
                        (double)t[DML_CUDNN_B][c]);
        t[DML_CUDNN_MEAN][c] = (float)mean;
        t[DML_CUDNN_RSTD][c] = (float)rstd;
    }
}

static void normalise_back(const dml_cudnn_op *op, float *t[DML_CUDNN_SLOTS])
{
    const int64_t rows = op->n * op->h * op->w;
    for (int64_t c = 0; c < op->c; c++) {
        const double mean = (double)t[DML_CUDNN_MEAN][c], rstd = (double)t[DML_CUDNN_RSTD][c];
        double sum = 0.0, sum_xhat = 0.0;
        for (int64_t i = c; i < rows * op->c; i += op->c) {
            sum += (double)t[DML_CUDNN_Y][i];
            sum_xhat += (double)t[DML_CUDNN_Y][i] * ((double)t[DML_CUDNN_X][i] - mean) * rstd;
        }
        for (int64_t i = c; i < rows * op->c; i += op->c) {
            const double xhat = ((double)t[DML_CUDNN_X][i] - mean) * rstd;
            t[DML_CUDNN_DX][i] = (float)((double)t[DML_CUDNN_W][c] * rstd *
                                         ((double)t[DML_CUDNN_Y][i] - sum / (double)rows -
                                          xhat * sum_xhat / (double)rows));
        }
        t[DML_CUDNN_DW][c] = (float)sum_xhat;
        t[DML_CUDNN_DB][c] = (float)sum;
    }
}

/* ---- one run ---- */

typedef struct job {
    dml_cudnn_op op;
    void *memory[DML_CUDNN_SLOTS];
    float eps;
    void *workspace;
    int64_t workspace_bytes;
} job;

/* Everything as floats, zero where it is written; then the loops; then back. */
static void step(void *arg)
{
    job *j = arg;
    float *t[DML_CUDNN_SLOTS] = {NULL};
    if (j->workspace_bytes > 0) memset(j->workspace, 0xff, (size_t)j->workspace_bytes);
    dml_emu_touch(j->workspace, (size_t)j->workspace_bytes, true);
    for (int slot = 0; slot < DML_CUDNN_SLOTS; slot++) {
        const dml_cudnn_slot s = (dml_cudnn_slot)slot;
        const int64_t n = elems_of(&j->op, s);
        const dml_dtype dtype = type_of(&j->op, s);
        t[slot] = calloc((size_t)n + 1, sizeof(float));
        DML_ASSERT(t[slot] != NULL);
        if (s == DML_CUDNN_EPS) t[slot][0] = j->eps;
        if (n == 0 || s == DML_CUDNN_EPS) continue;
        dml_emu_touch(j->memory[slot], (size_t)(n * dml_dtype_bytes(dtype)), is_written(&j->op, s));
        if (!is_written(&j->op, s)) widen(t[slot], j->memory[slot], dtype, n);
    }
    if (j->op.kind == DML_CUDNN_NORM_FWD)
        normalise(&j->op, t);
    else if (j->op.kind == DML_CUDNN_NORM_BWD)
        normalise_back(&j->op, t);
    else
        convolve(&j->op, t);
    for (int slot = 0; slot < DML_CUDNN_SLOTS; slot++) {
        const dml_cudnn_slot s = (dml_cudnn_slot)slot;
        if (is_written(&j->op, s))
            narrow(j->memory[slot], t[slot], type_of(&j->op, s), elems_of(&j->op, s));
        free(t[slot]);
    }
}

/* ---- the shim ---- */

dml_err dml_cudnn_open(const dml_cudnn_config *config, dml_cudnn **out)
{
    if (dml_emu_judge("cudnnCreate", __builtin_return_address(0)))
        DML_FAIL(DML_ERR_UNAVAILABLE, "cudnnCreate: CUDNN_STATUS_NOT_INITIALIZED");
    dml_cudnn *d = calloc(1, sizeof *d);
    if (!d) DML_FAIL(DML_ERR_NOMEM, "no memory for loops");
    d->stream = config->stream;
    dml_cudnn_book_init(&d->book, "loops 1", "emulated", config);
    *out = d;
    return DML_ERR_OK;
}

void dml_cudnn_close(dml_cudnn *d)
{
    if (!d) return;
    dml_cudnn_book_free(&d->book, NULL);
    free(d);
}

void dml_cudnn_seal(dml_cudnn *d)
{
    d->book.sealed = true;
}

static int64_t cells(const dml_cudnn_op *op, int64_t in, int axis)
{
    const dml_conv2d *c = &op->conv;
    const int64_t span = in + 2 * c->pad[axis] - c->dilation[axis] * (c->kernel[axis] - 1) - 1;
    return span < 0 ? 0 : span / c->stride[axis] + 1;
}

/* As cuDNN's descriptors. */
static dml_err check_shape(const dml_cudnn_op *op)
{
    if (op->dtype != DML_F32 && op->dtype != DML_BF16 && op->dtype != DML_F16)
        DML_FAIL(DML_ERR_BUG, "an operation on %s", dml_dtype_name((dml_dtype)op->dtype));
    if (op->kind >= DML_CUDNN_NORM_FWD) return DML_ERR_OK;
    if (op->p != cells(op, op->h, 0) || op->q != cells(op, op->w, 1))
        DML_FAIL(DML_ERR_BUG, "CUDNN_STATUS_BAD_PARAM: the output is not what the window gives");
    if (op->c % op->conv.groups != 0 || op->o % op->conv.groups != 0)
        DML_FAIL(DML_ERR_BUG, "CUDNN_STATUS_BAD_PARAM: the groups do not divide the channels");
    return DML_ERR_OK;
}

static dml_err make(void *owner, dml_cudnn_page *page, const dml_cudnn_choice *wanted)
{
    (void)owner;
    const dml_cudnn_op *op = &page->op;
    const int64_t engine = 7 + op->kind, pack = op->dtype == DML_F32 ? 4 : 8;
    DML_TRY(check_shape(op));
    if (op->kind >= DML_CUDNN_NORM_FWD && op->c % pack != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "no loop normalises %lld channels", (long long)op->c);
    if (wanted && wanted->engine != engine)
        DML_FAIL(DML_ERR_UNAVAILABLE, "loop %lld does not compute this", (long long)wanted->engine);
    page->choice = (dml_cudnn_choice){.engine = engine};
    page->workspace_bytes = 96 + 8 * (op->o % 5);
    return DML_ERR_OK;
}

dml_err dml_cudnn_plan(dml_cudnn *d, const dml_cudnn_op *op, int64_t *workspace_bytes)
{
    if (!dml_cudnn_book_find(&d->book, op) &&
        dml_emu_judge("cudnnBackendFinalize", __builtin_return_address(0)))
        DML_FAIL(DML_ERR_PEER, "cudnnBackendFinalize: CUDNN_STATUS_INTERNAL_ERROR");
    dml_cudnn_page *page;
    DML_TRY(dml_cudnn_book_plan(&d->book, op, make, d, &page));
    *workspace_bytes = page->workspace_bytes;
    return DML_ERR_OK;
}

dml_err dml_cudnn_run(dml_cudnn *d, const dml_cudnn_op *op, void *const memory[DML_CUDNN_SLOTS],
                      void *workspace)
{
    if (dml_emu_judge("cudnnBackendExecute", __builtin_return_address(0)))
        DML_FAIL(DML_ERR_PEER, "cudnnBackendExecute: CUDNN_STATUS_EXECUTION_FAILED");
    dml_cudnn_page *page;
    DML_TRY(dml_cudnn_book_plan(&d->book, op, make, d, &page));
    job j = {.op = *op, .workspace = workspace, .workspace_bytes = page->workspace_bytes};
    for (int slot = 0; slot < DML_CUDNN_SLOTS; slot++) {
        if (elems_of(op, (dml_cudnn_slot)slot) == 0) continue;
        j.memory[slot] = memory[slot];
        if (!memory[slot] ||
            (slot != DML_CUDNN_EPS && (uintptr_t)memory[slot] % DML_CUDNN_ALIGN != 0))
            DML_FAIL(DML_ERR_BUG, "CUDNN_STATUS_BAD_PARAM: tensor %d is missing or misaligned",
                     slot);
    }
    if (!workspace || (uintptr_t)workspace % 256 != 0)
        DML_FAIL(DML_ERR_BUG, "CUDNN_STATUS_BAD_PARAM: no workspace, or a misaligned one");
    if (op->kind == DML_CUDNN_NORM_FWD) j.eps = *(const float *)memory[DML_CUDNN_EPS];
    const cudaError_t status = dml_emu_host_call(d->stream, step, &j, sizeof j);
    if (status != cudaSuccess)
        DML_FAIL(DML_ERR_PEER, "cudnnBackendExecute: %s", cudaGetErrorString(status));
    return DML_ERR_OK;
}

dml_err dml_cudnn_choices(const dml_cudnn *d, void *out, int64_t *bytes)
{
    return dml_cudnn_book_choices(&d->book, out, bytes);
}

dml_err dml_cudnn_choose(dml_cudnn *d, const void *choices, int64_t bytes)
{
    return dml_cudnn_book_choose(&d->book, choices, bytes);
}
