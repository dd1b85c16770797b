/* kernels/cuda/conv_cuda.c - convolution by dnn.h, between two orders of a filter.
 *
 *   stored    KCRS  [o, c / groups, kernel_h, kernel_w]    as PyTorch
 *   computed  KRSC  [o, kernel_h, kernel_w, c / groups]    as NHWC tensor-core kernels read and write it
 *
 * Every call turns its filter, in scratch, unless both orders are the same bytes: 1 x 1 kernels and depthwise
 * ones.  A copy kept from one change of the weights to the next would save little (3 x 3 x 512 x 512 in BF16 is 9 MB of
 * traffic, 2 us of a H200's memory, beside a product of 25 us over 64 images) and would have to know which
 * weights still live, and which launches were captured before they changed.
 *
 *   scratch   | filter | filter turned, not widened | workspace: the library's, then the column sums' |
 */
#include "kernels/cuda/conv_cuda.h"

#include "kernels/check.h"
#include "kernels/cuda/entries.h"

enum { SCRATCH_ALIGN = 256 };

dml_err dml_cuda_cudnn(dml_kctx *k, dml_cudnn **out)
{
    if (!k->dnn) {
        const dml_cudnn_config config = {
            .deterministic = k->config.deterministic, .tf32 = k->config.tf32, .stream = k->stream};
        DML_TRY(dml_cudnn_open(&config, &k->dnn));
        if (k->sealed) dml_cudnn_seal(k->dnn);
    }
    *out = k->dnn;
    return DML_ERR_OK;
}

static dml_cudnn_op op_of(dml_cudnn_kind kind, const dml_conv2d *p, const dml_dims *d)
{
    return (dml_cudnn_op){.n = DML_DIM(*d, 'n'),
                          .h = DML_DIM(*d, 'h'),
                          .w = DML_DIM(*d, 'w'),
                          .c = DML_DIM(*d, 'c'),
                          .p = DML_DIM(*d, 'p'),
                          .q = DML_DIM(*d, 'q'),
                          .o = DML_DIM(*d, 'o'),
                          .conv = *p,
                          .kind = (int32_t)kind,
                          .dtype = (int32_t)d->sample->dtype};
}

/* A filter in its two orders: o blocks of c rows by cells, or of cells rows by c. */
typedef struct filter {
    int64_t o, c, cells, elem_bytes;
    bool turns; /* the orders differ */
} filter;

static filter filter_of(const dml_cudnn_op *op)
{
    filter f = {.o = op->o,
                .c = op->c / op->conv.groups,
                .cells = (int64_t)op->conv.kernel[0] * op->conv.kernel[1],
                .elem_bytes = dml_dtype_bytes((dml_dtype)op->dtype)};
    f.turns = f.c > 1 && f.cells > 1;
    return f;
}

static int64_t aligned_up(int64_t bytes)
{
    return (bytes + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
}

static int64_t filter_bytes(const filter *f)
{
    return aligned_up(f->o * f->c * f->cells * f->elem_bytes);
}

static dml_err check_aligned(const char *kernel, dml_in a, dml_in b, dml_in c)
{
    const dml_tensor *const tensor[] = {a, b, c};
    for (int i = 0; i < 3; i++)
        if (tensor[i] && (uintptr_t)tensor[i]->data % DML_CUDNN_ALIGN != 0)
            DML_FAIL(DML_ERR_BUG, "%s: a tensor is not aligned to %d bytes", kernel,
                     DML_CUDNN_ALIGN);
    return DML_ERR_OK;
}

/* Memory of one call. */
typedef struct scratch {
    char *filter;    /* as computed */
    char *turned;    /* as stored, not widened */
    void *workspace; /* the library's */
} scratch;

/* Plans, and finds room for up to two filters and the workspace, which has `at_least` bytes. */
static dml_err prepare(dml_kctx *k, const char *kernel, const dml_cudnn_op *op, int filters,
                       int64_t at_least, scratch *out)
{
    dml_cudnn *dnn;
    int64_t workspace = 0;
    void *memory = NULL;
    *out = (scratch){0};
    DML_TRY(dml_cuda_cudnn(k, &dnn));
    DML_TRY(dml_cudnn_plan(dnn, op, &workspace));
    if (workspace < at_least) workspace = at_least;
    const filter f = filter_of(op);
    const int64_t bytes = filters * filter_bytes(&f) + aligned_up(workspace);
    if (bytes > 0) DML_TRY(dml_cuda_scratch(k, kernel, bytes, &memory));
    if (!memory) return DML_ERR_OK; /* nothing needed, or only a plan */
    out->filter = memory;
    out->turned = out->filter + (filters > 1 ? filter_bytes(&f) : 0);
    out->workspace = out->filter + filters * filter_bytes(&f);
    return DML_ERR_OK;
}

/* y[n, cols, rows] = x[n, rows, cols] */
static dml_err turn(dml_kctx *k, const char *kernel, void *y, const void *x, const filter *f,
                    int64_t rows, int64_t cols)
{
    return dml_cuda_launched(k, dml_cu_transpose(y, x, f->o, rows, cols, f->elem_bytes, k->stream),
                             __FILE__, __LINE__, kernel);
}

/* Forward and input gradient: the filter is read. */
static dml_err with_filter(dml_kctx *k, const char *kernel, const dml_cudnn_op *op, dml_in x,
                           dml_in w, dml_in b, dml_in y)
{
    const filter f = filter_of(op);
    scratch s;
    DML_TRY(check_aligned(kernel, x, w, y));
    DML_TRY(prepare(k, kernel, op, f.turns ? 1 : 0, 0, &s));
    if (k->config.plan_only) return DML_ERR_OK;
    if (f.turns) DML_TRY(turn(k, kernel, s.filter, w->data, &f, f.c, f.cells));
    void *const memory[DML_CUDNN_SLOTS] = {[DML_CUDNN_X] = x->data,
                                           [DML_CUDNN_W] = f.turns ? s.filter : w->data,
                                           [DML_CUDNN_B] = b ? b->data : NULL,
                                           [DML_CUDNN_Y] = y->data};
    return dml_cudnn_run(k->dnn, op, memory, s.workspace);
}

dml_err dml_cuda_conv2d_fwd(dml_kctx *k, const dml_conv2d *p, dml_out y, dml_in x, dml_in w,
                            dml_in b)
{
    dml_dims d = {0};
    DML_TRY(dml_check_conv2d("conv2d_fwd", &d, p, y, x, w, b));
    DML_TRY(check_aligned("conv2d_fwd", b, NULL, NULL));
    dml_cudnn_op op = op_of(DML_CUDNN_CONV_FWD, p, &d);
    op.bias = b != NULL;
    return with_filter(k, "conv2d_fwd", &op, x, w, b, y);
}

dml_err dml_cuda_conv2d_bwd_input(dml_kctx *k, const dml_conv2d *p, dml_out dx, dml_in dy, dml_in w)
{
    dml_dims d = {0};
    DML_TRY(dml_check_conv2d("conv2d_bwd_input", &d, p, dy, dx, w, NULL));
    const dml_cudnn_op op = op_of(DML_CUDNN_CONV_BWD_INPUT, p, &d);
    return with_filter(k, "conv2d_bwd_input", &op, dx, w, NULL, dy);
}

/* dw from what the library left: turned back, and widened.  Under BF16 or F16 it was rounded once to that type: the
 * library's tensor-core engines write no other, and PyTorch's gradients of such weights are rounded likewise. */
static dml_err finish_filter(dml_kctx *k, const char *kernel, const dml_cudnn_op *op, float *dw,
                             const scratch *s)
{
    const filter f = filter_of(op);
    if (op->dtype == DML_F32) return turn(k, kernel, dw, s->filter, &f, f.cells, f.c);
    if (f.turns) DML_TRY(turn(k, kernel, s->turned, s->filter, &f, f.cells, f.c));
    return dml_cuda_launched(k,
                             dml_cu_convert(dw, DML_F32, f.turns ? s->turned : s->filter,
                                            (dml_dtype)op->dtype, f.o * f.c * f.cells, k->stream),
                             __FILE__, __LINE__, kernel);
}

dml_err dml_cuda_conv2d_bwd_weight(dml_kctx *k, const dml_conv2d *p, dml_out dw, dml_out db,
                                   dml_in dy, dml_in x)
{
    static const char *const kernel = "conv2d_bwd_weight";
    dml_dims d = {0};
    DML_TRY(dml_check_conv2d_grads(kernel, &d, p, dw, db, dy, x));
    DML_TRY(check_aligned(kernel, dw, dy, x));
    const dml_cudnn_op op = op_of(DML_CUDNN_CONV_BWD_WEIGHT, p, &d);
    const bool turns = filter_of(&op).turns, widens = op.dtype != DML_F32;
    const int64_t rows = op.n * op.p * op.q;
    const int64_t sums_bytes = db ? dml_cu_column_sums_bytes(rows, op.o) : 0;
    scratch s;
    DML_TRY(prepare(k, kernel, &op, turns + widens, sums_bytes, &s));
    if (k->config.plan_only) return DML_ERR_OK;
    void *const memory[DML_CUDNN_SLOTS] = {[DML_CUDNN_X] = x->data,
                                           [DML_CUDNN_W] = turns || widens ? s.filter : dw->data,
                                           [DML_CUDNN_Y] = dy->data};
    DML_TRY(dml_cudnn_run(k->dnn, &op, memory, s.workspace));
    if (turns || widens) DML_TRY(finish_filter(k, kernel, &op, dw->data, &s));
    if (!db) return DML_ERR_OK;
    return dml_cuda_launched(k,
                             dml_cu_column_sums(db->data, dy->data, s.workspace, rows, op.o, false,
                                                (dml_dtype)op.dtype, k->stream),
                             __FILE__, __LINE__, kernel);
}
