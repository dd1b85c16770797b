/* kernels/cuda/dnn_graph.c - tensors, then what to do with them, then the operation that binds both.
 *
 * The library counts an image's dims as N, C, H, W and reads its order in memory from the strides; NHWC is
 * {h w c, 1, w c, c}, and a KRSC filter is the image [o, kernel_h, kernel_w, c / groups].  It finds the groups in
 * the filter having fewer channels than the image.  Vectors over channels are images [1, 1, 1, c].
 */
#include "kernels/cuda/dnn_graph.h"

#include <stdio.h>

/* ---- status and descriptors ---- */

static dml_err meaning(cudnnStatus_t status)
{
    switch ((int)status) { /* an open list: a newer library knows more */
    case CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED:
    case CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED: return DML_ERR_NOMEM;
    default: break;
    }
    /* 2: bad parameters.  1: not initialized, a part not found or of another version; 3: not supported; 4 and 5: the
     * library, or the device, has failed. */
    return (int)status / 1000 == 2 ? DML_ERR_BUG : DML_ERR_UNAVAILABLE;
}

dml_err dml_cudnn_status(cudnnStatus_t status, const char *file, int line, const char *call)
{
    if (status == CUDNN_STATUS_SUCCESS) return DML_ERR_OK;
    char words[512] = "";
    cudnnGetLastErrorString(words, sizeof words);
    return dml_err_set(meaning(status), file, line, "%s: %s%s%s", call, cudnnGetErrorString(status),
                       words[0] ? ": " : "", words);
}

dml_err dml_cudnn_describe(cudnnBackendDescriptorType_t type, const dml_cudnn_attribute *attributes,
                           int32_t n, cudnnBackendDescriptor_t *out)
{
    cudnnBackendDescriptor_t d = NULL;
    DML_TRY(DML_CUDNN(cudnnBackendCreateDescriptor, (type, &d)));
    dml_err err = DML_ERR_OK;
    for (int32_t i = 0; i < n && err == DML_ERR_OK; i++) {
        const dml_cudnn_attribute *a = &attributes[i];
        err = DML_CUDNN(cudnnBackendSetAttribute, (d, a->name, a->type, a->n, a->values));
    }
    if (err == DML_ERR_OK) err = DML_CUDNN(cudnnBackendFinalize, (d));
    if (err != DML_ERR_OK) {
        cudnnBackendDestroyDescriptor(d);
        return err;
    }
    *out = d;
    return DML_ERR_OK;
}

#define ONE(attribute, kind, variable)                 \
    {                                                  \
        (attribute), CUDNN_TYPE_##kind, 1, &(variable) \
    }
#define PAIR(attribute, variable)                    \
    {                                                \
        (attribute), CUDNN_TYPE_INT64, 2, (variable) \
    }
#define LIST(...)           \
    (dml_cudnn_attribute[]) \
    {                       \
        __VA_ARGS__         \
    }
#define DESCRIBE(g, type, out, ...)                                     \
    describe((g), CUDNN_BACKEND_##type##_DESCRIPTOR, LIST(__VA_ARGS__), \
             (int32_t)(sizeof(LIST(__VA_ARGS__)) / sizeof(dml_cudnn_attribute)), (out))

static dml_err describe(dml_cudnn_graph *g, cudnnBackendDescriptorType_t type,
                        const dml_cudnn_attribute *attributes, int32_t n,
                        cudnnBackendDescriptor_t *out)
{
    DML_ASSERT_OP(g->n_made, <, DML_CUDNN_MAX_DESCRIPTORS);
    DML_TRY(dml_cudnn_describe(type, attributes, n, out));
    g->made[g->n_made++] = *out;
    return DML_ERR_OK;
}

/* ---- tensors ---- */

static cudnnDataType_t type_of(const dml_cudnn_op *op)
{
    return op->dtype == DML_BF16  ? CUDNN_DATA_BFLOAT16
           : op->dtype == DML_F16 ? CUDNN_DATA_HALF
                                  : CUDNN_DATA_FLOAT;
}

/* What lies in memory as [n, h, w, c]. */
static dml_err image(dml_cudnn_graph *g, int64_t uid, cudnnDataType_t type, bool is_virtual,
                     const int64_t nhwc[4], cudnnBackendDescriptor_t *out)
{
    const int64_t n = nhwc[0], h = nhwc[1], w = nhwc[2], c = nhwc[3], align = DML_CUDNN_ALIGN;
    const int64_t dims[] = {n, c, h, w}, strides[] = {h * w * c, 1, w * c, c};
    return DESCRIBE(g, TENSOR, out, ONE(CUDNN_ATTR_TENSOR_UNIQUE_ID, INT64, uid),
                    ONE(CUDNN_ATTR_TENSOR_DATA_TYPE, DATA_TYPE, type),
                    {CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims},
                    {CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides},
                    ONE(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, INT64, align),
                    ONE(CUDNN_ATTR_TENSOR_IS_VIRTUAL, BOOLEAN, is_virtual));
}

/* The tensor of a slot. */
static dml_err bound(dml_cudnn_graph *g, dml_cudnn_slot slot, cudnnDataType_t type,
                     const int64_t nhwc[4], cudnnBackendDescriptor_t *out)
{
    g->slot[g->n_slots++] = slot;
    return image(g, slot + 1, type, false, nhwc, out);
}

/* A value that one operation leaves for the next: F32, never in memory. */
static dml_err passed_on(dml_cudnn_graph *g, const int64_t nhwc[4], cudnnBackendDescriptor_t *out)
{
    return image(g, DML_CUDNN_SLOTS + 1, CUDNN_DATA_FLOAT, true, nhwc, out);
}

/* A float of the host that a run hands over. */
static dml_err number(dml_cudnn_graph *g, dml_cudnn_slot slot, cudnnBackendDescriptor_t *out)
{
    const int64_t uid = slot + 1, ones[] = {1, 1, 1, 1}, align = sizeof(float);
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const bool yes = true;
    g->slot[g->n_slots++] = slot;
    return DESCRIBE(g, TENSOR, out, ONE(CUDNN_ATTR_TENSOR_UNIQUE_ID, INT64, uid),
                    ONE(CUDNN_ATTR_TENSOR_DATA_TYPE, DATA_TYPE, type),
                    {CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, ones},
                    {CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, ones},
                    ONE(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, INT64, align),
                    ONE(CUDNN_ATTR_TENSOR_IS_BY_VALUE, BOOLEAN, yes));
}

/* ---- convolution ---- */

/* The window, as both axes and all three kinds share it. */
static dml_err window(dml_cudnn_graph *g, const dml_conv2d *p, cudnnBackendDescriptor_t *out)
{
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t axes = 2, stride[] = {p->stride[0], p->stride[1]};
    const int64_t pad[] = {p->pad[0], p->pad[1]}, dilation[] = {p->dilation[0], p->dilation[1]};
    return DESCRIBE(g, CONVOLUTION, out, ONE(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, DATA_TYPE, sums),
                    ONE(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CONVOLUTION_MODE, mode),
                    ONE(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, INT64, axes),
                    PAIR(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, stride),
                    PAIR(CUDNN_ATTR_CONVOLUTION_DILATIONS, dilation),
                    PAIR(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, pad),
                    PAIR(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, pad));
}

/* y = a + b for every channel, rounded on the way out. */
static dml_err add_bias(dml_cudnn_graph *g, cudnnBackendDescriptor_t a, cudnnBackendDescriptor_t b,
                        cudnnBackendDescriptor_t y)
{
    const cudnnPointwiseMode_t add = CUDNN_POINTWISE_ADD;
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t rule;
    DML_TRY(DESCRIBE(g, POINTWISE, &rule, ONE(CUDNN_ATTR_POINTWISE_MODE, POINTWISE_MODE, add),
                     ONE(CUDNN_ATTR_POINTWISE_MATH_PREC, DATA_TYPE, sums)));
    return DESCRIBE(g, OPERATION_POINTWISE, &g->operation[g->n_operations++],
                    ONE(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, BACKEND_DESCRIPTOR, rule),
                    ONE(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, BACKEND_DESCRIPTOR, a),
                    ONE(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, BACKEND_DESCRIPTOR, b),
                    ONE(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, BACKEND_DESCRIPTOR, y));
}

/* Attributes of the three kinds, whose names differ and meanings do not. */
typedef struct conv_names {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t alpha, beta, window, x, w, y;
} conv_names;

#define NAMES(kind, dx, dw, dy)                              \
    CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_ALPHA,         \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_BETA,      \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_CONV_DESC, \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_##dx,      \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_##dw,      \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_##dy
static const conv_names conv_of[] = {
    [DML_CUDNN_CONV_FWD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                            NAMES(FORWARD, X, W, Y)},
    [DML_CUDNN_CONV_BWD_INPUT] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                                  NAMES(BWD_DATA, DX, W, DY)},
    [DML_CUDNN_CONV_BWD_WEIGHT] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                                   NAMES(BWD_FILTER, X, DW, DY)},
};

static dml_err convolution(dml_cudnn_graph *g, const dml_cudnn_op *op)
{
    const float one = 1.0f, zero = 0.0f;
    const conv_names *name = &conv_of[op->kind];
    const int64_t x_dims[] = {op->n, op->h, op->w, op->c}, y_dims[] = {op->n, op->p, op->q, op->o};
    const int64_t w_dims[] = {op->o, op->conv.kernel[0], op->conv.kernel[1],
                              op->c / op->conv.groups};
    cudnnBackendDescriptor_t x, w, y, sum = NULL, b = NULL, over;
    DML_TRY(bound(g, DML_CUDNN_X, type_of(op), x_dims, &x));
    DML_TRY(bound(g, DML_CUDNN_W, type_of(op), w_dims, &w));
    DML_TRY(bound(g, DML_CUDNN_Y, type_of(op), y_dims, &y));
    if (op->bias) {
        DML_TRY(bound(g, DML_CUDNN_B, type_of(op), (int64_t[]){1, 1, 1, op->o}, &b));
        DML_TRY(passed_on(g, y_dims, &sum));
    }
    const cudnnBackendDescriptor_t result = op->bias ? sum : y;
    DML_TRY(window(g, &op->conv, &over));
    const dml_cudnn_attribute attributes[] = {ONE(name->window, BACKEND_DESCRIPTOR, over),
                                              ONE(name->x, BACKEND_DESCRIPTOR, x),
                                              ONE(name->w, BACKEND_DESCRIPTOR, w),
                                              ONE(name->y, BACKEND_DESCRIPTOR, result),
                                              ONE(name->alpha, FLOAT, one),
                                              ONE(name->beta, FLOAT, zero)};
    DML_TRY(describe(g, name->type, attributes, sizeof attributes / sizeof *attributes,
                     &g->operation[g->n_operations++]));
    return op->bias ? add_bias(g, sum, b, y) : DML_ERR_OK;
}

/* ---- batch norm ---- */

static dml_err vector(dml_cudnn_graph *g, dml_cudnn_slot slot, int64_t c,
                      cudnnBackendDescriptor_t *out)
{
    return bound(g, slot, CUDNN_DATA_FLOAT, (int64_t[]){1, 1, 1, c}, out);
}

static dml_err norm_fwd(dml_cudnn_graph *g, const dml_cudnn_op *op)
{
    const cudnnBackendNormMode_t mode = CUDNN_BATCH_NORM;
    const cudnnBackendNormFwdPhase_t phase = CUDNN_NORM_FWD_TRAINING;
    const int64_t dims[] = {op->n, op->h, op->w, op->c};
    cudnnBackendDescriptor_t x, y, gamma, beta, mean, rstd, eps;
    DML_TRY(bound(g, DML_CUDNN_X, type_of(op), dims, &x));
    DML_TRY(bound(g, DML_CUDNN_Y, type_of(op), dims, &y));
    DML_TRY(vector(g, DML_CUDNN_W, op->c, &gamma));
    DML_TRY(vector(g, DML_CUDNN_B, op->c, &beta));
    DML_TRY(vector(g, DML_CUDNN_MEAN, op->c, &mean));
    DML_TRY(vector(g, DML_CUDNN_RSTD, op->c, &rstd));
    DML_TRY(number(g, DML_CUDNN_EPS, &eps));
    return DESCRIBE(g, OPERATION_NORM_FORWARD, &g->operation[g->n_operations++],
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_MODE, NORM_MODE, mode),
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_PHASE, NORM_FWD_PHASE, phase),
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, BACKEND_DESCRIPTOR, x),
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, BACKEND_DESCRIPTOR, mean),
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC, BACKEND_DESCRIPTOR, rstd),
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, BACKEND_DESCRIPTOR, gamma),
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC, BACKEND_DESCRIPTOR, beta),
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC, BACKEND_DESCRIPTOR, eps),
                    ONE(CUDNN_ATTR_OPERATION_NORM_FWD_YDESC, BACKEND_DESCRIPTOR, y));
}

static dml_err norm_bwd(dml_cudnn_graph *g, const dml_cudnn_op *op)
{
    const cudnnBackendNormMode_t mode = CUDNN_BATCH_NORM;
    const int64_t dims[] = {op->n, op->h, op->w, op->c};
    cudnnBackendDescriptor_t x, dy, dx, gamma, dgamma, dbeta, mean, rstd;
    DML_TRY(bound(g, DML_CUDNN_X, type_of(op), dims, &x));
    DML_TRY(bound(g, DML_CUDNN_Y, type_of(op), dims, &dy));
    DML_TRY(bound(g, DML_CUDNN_DX, type_of(op), dims, &dx));
    DML_TRY(vector(g, DML_CUDNN_W, op->c, &gamma));
    DML_TRY(vector(g, DML_CUDNN_DW, op->c, &dgamma));
    DML_TRY(vector(g, DML_CUDNN_DB, op->c, &dbeta));
    DML_TRY(vector(g, DML_CUDNN_MEAN, op->c, &mean));
    DML_TRY(vector(g, DML_CUDNN_RSTD, op->c, &rstd));
    return DESCRIBE(g, OPERATION_NORM_BACKWARD, &g->operation[g->n_operations++],
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_MODE, NORM_MODE, mode),
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_XDESC, BACKEND_DESCRIPTOR, x),
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_MEAN_DESC, BACKEND_DESCRIPTOR, mean),
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_INV_VARIANCE_DESC, BACKEND_DESCRIPTOR, rstd),
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_DYDESC, BACKEND_DESCRIPTOR, dy),
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_SCALE_DESC, BACKEND_DESCRIPTOR, gamma),
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_DSCALE_DESC, BACKEND_DESCRIPTOR, dgamma),
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_DBIAS_DESC, BACKEND_DESCRIPTOR, dbeta),
                    ONE(CUDNN_ATTR_OPERATION_NORM_BWD_DXDESC, BACKEND_DESCRIPTOR, dx));
}

/* ---- graph ---- */

static dml_err describe_all(dml_cudnn_graph *g, const dml_cudnn_op *op)
{
    if (op->dtype != DML_F32 && op->dtype != DML_BF16 && op->dtype != DML_F16)
        DML_FAIL(DML_ERR_BUG, "an operation on %s", dml_dtype_name((dml_dtype)op->dtype));
    switch ((dml_cudnn_kind)op->kind) {
    case DML_CUDNN_CONV_FWD:
    case DML_CUDNN_CONV_BWD_INPUT:
    case DML_CUDNN_CONV_BWD_WEIGHT: return convolution(g, op);
    case DML_CUDNN_NORM_FWD: return norm_fwd(g, op);
    case DML_CUDNN_NORM_BWD: return norm_bwd(g, op);
    }
    DML_FAIL(DML_ERR_BUG, "%d is no kind of operation", op->kind);
}

dml_err dml_cudnn_graph_init(dml_cudnn_graph *g, const dml_cudnn_op *op)
{
    *g = (dml_cudnn_graph){0};
    const dml_err err = describe_all(g, op);
    if (err != DML_ERR_OK) dml_cudnn_graph_free(g);
    return err;
}

void dml_cudnn_graph_free(dml_cudnn_graph *g)
{
    while (g->n_made > 0)
        cudnnBackendDestroyDescriptor(g->made[--g->n_made]);
    *g = (dml_cudnn_graph){0};
}
