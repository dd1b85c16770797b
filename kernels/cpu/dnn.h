/* kernels/cpu/dnn.h - matrix product and convolution by oneDNN, one shape at a time.
 *
 * An operation is a library primitive with its memory objects, made once for a shape; running it sets
 * pointers and calls the library.  Images are NHWC as they lie; weights may be wanted in a format of
 * the library's own, `packed`, and then `pack` brings them from or to PyTorch's layout.
 *
 *                x               w                     b      y                 reads -> writes
 *   linear       [n, in]         [out, in]             [out]  [n, out]          fwd         x w b -> y
 *   conv         [n, h, w, in]   [out, in/g, kh, kw]   [out]  [n, oh, ow, out]  bwd_input   y w   -> x
 *                                                                               bwd_weight  x y   -> w b
 *
 * where x, w, b, y of a backward operation are the gradients of those.
 */
#ifndef DML_KERNELS_CPU_DNN_H
#define DML_KERNELS_CPU_DNN_H

#include "kernels/kernels.h"

#include <oneapi/dnnl/dnnl.h>

/* clang-format off */
/*    kind                text                  oneDNN's names of x, w, b and y; 0: not there                            */
#define DML_DNN_LIST(X)                                                                                                    \
    X(LINEAR_FWD,         "linear_fwd",         DNNL_ARG_SRC,      DNNL_ARG_WEIGHTS,      DNNL_ARG_BIAS,      DNNL_ARG_DST)  \
    X(LINEAR_BWD_INPUT,   "linear_bwd_input",   DNNL_ARG_DST,      DNNL_ARG_WEIGHTS,      0,                  DNNL_ARG_SRC)  \
    X(LINEAR_BWD_WEIGHT,  "linear_bwd_weight",  DNNL_ARG_WEIGHTS,  DNNL_ARG_DST,          0,                  DNNL_ARG_SRC)  \
    X(CONV_FWD,           "conv2d_fwd",         DNNL_ARG_SRC,      DNNL_ARG_WEIGHTS,      DNNL_ARG_BIAS,      DNNL_ARG_DST)  \
    X(CONV_BWD_INPUT,     "conv2d_bwd_input",   DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS,      0,                  DNNL_ARG_DIFF_DST) \
    X(CONV_BWD_WEIGHT,    "conv2d_bwd_weight",  DNNL_ARG_SRC,      DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_BIAS, DNNL_ARG_DIFF_DST)
/* clang-format on */
typedef enum dml_dnn_kind {
#define X(kind, ...) DML_DNN_##kind,
    DML_DNN_LIST(X)
#undef X
} dml_dnn_kind;

/* What an operation is made for; all zero where a field does not apply, since it is a hash key. */
typedef struct dml_dnn_shape {
    dml_dnn_kind kind;
    int32_t threads; /* the primitive is cut for, and runs with, so many */
    int32_t bias;    /* whether b takes part */
    int32_t lanes;   /* threads that may run it at the same time */
    int64_t n, in, out;
    int64_t pitch; /* elements from row to row of y; linear only */
    int64_t h, w, oh, ow;
    dml_conv2d conv;
    int32_t
        type; /* dml_dtype of x and y, and of w and b where those are read; gradients of these are F32 */
    int16_t plain;  /* weights are read as they lie, not packed; linear only */
    int16_t adds;   /* the gradient of weights is added to what lies there; linear only */
    int64_t like_n; /* the n of the operation whose packed format it shares; 0: its own */
} dml_dnn_shape;

enum { DML_DNN_X, DML_DNN_W, DML_DNN_B, DML_DNN_Y, DML_DNN_SCRATCH, DML_DNN_ROLES };

/* The memory objects of one lane and where they point now. */
typedef struct dml_dnn_lane {
    dnnl_memory_t memory[DML_DNN_ROLES];
    void *at[DML_DNN_ROLES];
} dml_dnn_lane;

typedef struct dml_dnn_op {
    dml_dnn_shape shape;
    dnnl_primitive_t primitive;
    dnnl_primitive_t reorder; /* packed <-> plain; NULL: the primitive takes plain weights */
    dnnl_memory_t plain;      /* weights as PyTorch lays them out */
    int64_t packed_bytes;     /* of the weights in the primitive's format */
    int64_t scratch_bytes;    /* needed by each lane while it runs */
    dml_dnn_lane *lane;       /* [shape.lanes] owned */
    bool native;              /* of a question: the answer */
} dml_dnn_op;

/* The library's engine and a stream for each thread. */
typedef struct dml_dnn {
    dnnl_engine_t engine;
    dnnl_primitive_attr_t attr, adding; /* adding: results are added to what lies there */
    dnnl_stream_t *stream;              /* [threads] owned */
    int32_t threads;
} dml_dnn;

const char *dml_dnn_version(void); /* "oneDNN 2.6.3" */

dml_err dml_dnn_init(dml_dnn *dnn, int32_t threads);
void dml_dnn_free(dml_dnn *dnn);

/* Makes the operation for `shape`.
 *
 *   like  an operation whose packed format the new one shares; NULL: the library chooses
 *
 * DML_ERR_UNAVAILABLE  the library has no primitive for it
 */
dml_err dml_dnn_op_new(dml_dnn *dnn, const dml_dnn_shape *shape, const dml_dnn_op *like,
                       dml_dnn_op **out);
/* Asks whether there is a primitive for `shape`, and one made for this processor: *out is no operation to be
 * run, but has `native`. */
dml_err dml_dnn_ask(dml_dnn *dnn, const dml_dnn_shape *shape, dml_dnn_op **out);
void dml_dnn_op_free(dml_dnn_op *op);

/* Runs it on `lane`, with pointers by role: w in the packed format when there is a reorder. */
dml_err dml_dnn_run(dml_dnn *dnn, dml_dnn_op *op, int32_t lane, void *const at[DML_DNN_ROLES]);

/* Between plain and packed: to packed for what reads the weights, to plain for what writes them. */
dml_err dml_dnn_pack(dml_dnn *dnn, dml_dnn_op *op, void *plain, void *packed);

#endif
