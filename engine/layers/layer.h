/* engine/layers/layer.h - what a layer kind is: shapes, parameters, and three functions over kernels.
 *
 *   forward           y  = f(x, w)
 *   backward_input    dx = (df/dx)^T dy
 *   backward_weight   dw = (df/dw)^T dy       stored, never added: adding over micro-batches is the chunk's
 *
 * A class says nothing of memory.  Its traits say what the chunk's planner may do: overwrite the input,
 * forget it, pass a gradient through.  A new layer is one file here and one line in DML_LAYER_LIST.
 */
#ifndef DML_ENGINE_LAYERS_LAYER_H
#define DML_ENGINE_LAYERS_LAYER_H

#include "engine/chunk.h"

/* clang-format off */
/*    trait           bit  what it says                                                                 */
#define DML_TRAIT_LIST(X)                                                                                  \
    X(DX_READS_X,     0) /* backward_input reads the layer's input                                    */ \
    X(DX_READS_Y,     1) /* ... or its output                                                         */ \
    X(DW_READS_X,     2) /* backward_weight reads the layer's input                                   */ \
    X(Y_MAY_BE_X,     3) /* forward may overwrite its input                                           */ \
    X(DX_MAY_BE_DY,   4) /* backward_input may overwrite the output gradient                          */ \
    X(JOINT,          5) /* backward_input makes dparam too; there is no backward_weight              */ \
    X(JOIN,           6) /* reads `with` as well; dy is the gradient of both inputs                   */ \
    X(LOSS,           7) /* y is the gradient of x already: there is no backward                      */ \
    X(TIMED,          8) /* backward takes time even where no gradient flows                          */ \
    X(W_LIKE_X,       9) /* reads its parameters in the type of its samples                           */
/* clang-format on */
typedef enum dml_trait {
#define X(name, bit) DML_##name = 1 << bit,
    DML_TRAIT_LIST(X)
#undef X
} dml_trait;

/* Kernels by number, in the order of DML_KERNEL_LIST, and sets of them. */
typedef enum dml_kernel_id {
#define X(name, args) DML_K_##name,
    DML_KERNEL_LIST(X)
#undef X
} dml_kernel_id;
_Static_assert((int)DML_KERNELS <= 64, "a set of kernels is one word");
#define DML_USES(name) (UINT64_C(1) << DML_K_##name)

enum { DML_LAYER_PARAMS = 2 }; /* at most, per layer: the weight (or scale), then the bias */

/* One call.  A tensor with NULL data is absent.  Shapes: x [rows, in...], y and dy [rows, out...], dx as x,
 * param and dparam as the model says.  Samples have one type, F32, BF16 or F16 (training.precision); parameters
 * have it too where W_LIKE_X, else F32; their gradients are F32. */
typedef struct dml_layer_call {
    const dml_kernel_table *kt;
    dml_kctx *k;
    const dml_layer *layer;
    const dml_run *run;
    uint64_t dropout_key;
    dml_tensor x, with, y; /* y may be x where the trait says so; `with` is JOIN's second input */
    dml_tensor keep;       /* [rows, keep_elems] I32, from forward to backward_input */
    dml_tensor dy, dx;
    dml_tensor param[DML_LAYER_PARAMS], dparam[DML_LAYER_PARAMS];
    dml_tensor mean, var; /* [c] batch norm: this micro-batch's, or running ones in evaluation */
    dml_tensor loss, correct, labels; /* F64[1], I32[1], I32[rows] */
} dml_layer_call;

/* Where infer leaves what it finds. */
typedef struct dml_shaping {
    const dml_spec *spec;
    dml_arena *arena;
    dml_model *model; /* its param and state arrays have room for two a layer */
} dml_shaping;

typedef struct dml_layer_class {
    uint32_t traits;  /* dml_trait bits */
    uint64_t kernels; /* DML_USES bits */
    /* Reads l->spec and l->in (JOIN: the other input's shape is in l->out); sets out, flops, alias,
     * keep_elems, pool; declares parameters, then states.  DML_ERR_SPEC shows the layer's place. */
    dml_err (*infer)(dml_shaping *m, dml_layer *l);
    dml_err (*forward)(const dml_layer_call *c);         /* NULL: an alias has nothing to do */
    dml_err (*backward_input)(const dml_layer_call *c);  /* NULL: JOIN and LOSS, or an alias */
    dml_err (*backward_weight)(const dml_layer_call *c); /* NULL: no parameters, or JOINT */
} dml_layer_class;

#define X(kind, name) extern const dml_layer_class dml_class_##kind;
DML_LAYER_LIST(X)
#undef X
const dml_layer_class *dml_layer_class_of(dml_layer_kind kind);

/* ---- for infer ---- */

/* A complaint at the layer's place that begins with its name: return it. */
dml_err dml_layer_fail(const dml_shaping *m, const dml_layer *l, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

void dml_layer_param(dml_shaping *m, dml_layer *l, const char *suffix, dml_param_role role,
                     int32_t rank, const int64_t dim[], int64_t fan_in, int64_t fan_out);
void dml_layer_state(dml_shaping *m, dml_layer *l, const char *suffix, int64_t elems, float start);

/* Out is in; `flops` an element in each direction. */
void dml_layer_elementwise(dml_layer *l, int64_t flops);

/* "512 features" or "64 channels of 7x7", into text[DML_SHAPE_TEXT]. */
enum { DML_SHAPE_TEXT = 64 };
const char *dml_shape_text(dml_shape s, char text[DML_SHAPE_TEXT]);

/* Cells that a window takes along one side: (size + 2 pad - dilation (kernel - 1) - 1) / stride + 1, or 0
 * when it does not fit once. */
int32_t dml_window_cells(int32_t size, int32_t kernel, int32_t stride, int32_t pad,
                         int32_t dilation);

/* ---- for the calls ---- */

static inline const dml_tensor *dml_present(const dml_tensor *t)
{
    return t->data ? t : NULL;
}

/* y = x, the same number of elements, by a transposition that has nothing to move. */
dml_err dml_layer_copy(const dml_kernel_table *kt, dml_kctx *k, const dml_tensor *y,
                       const dml_tensor *x);

#endif
