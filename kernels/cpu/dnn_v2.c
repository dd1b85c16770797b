/* kernels/cpu/dnn_v2.c - oneDNN 2.x: an operation descriptor first, then a primitive descriptor. */
#include "kernels/cpu/dnn_api.h"

#define RETURN_UNLESS_OK(call)                       \
    do {                                             \
        const dnnl_status_t status_ = (call);        \
        if (status_ != dnnl_success) return status_; \
    } while (0)

static dnnl_status_t init_md(dnnl_memory_desc_t *md, const dml_dnn_desc *d)
{
    if (d->any)
        return dnnl_memory_desc_init_by_tag(md, d->ndims, d->dims, d->type, dnnl_format_tag_any);
    return dnnl_memory_desc_init_by_strides(md, d->ndims, d->dims, d->type, d->strides);
}

/* The forward convolution: itself, or the hint that version 2 asks of a backward one. */
static dnnl_status_t describe_conv_fwd(const dml_dnn *dnn, const dnnl_memory_desc_t md[],
                                       const dnnl_memory_desc_t *bias, const dml_dnn_window *win,
                                       dnnl_primitive_desc_t *out)
{
    dnnl_convolution_desc_t conv;
    RETURN_UNLESS_OK(dnnl_dilated_convolution_forward_desc_init(
        &conv, dnnl_forward_training, dnnl_convolution_direct, &md[DML_DNN_X], &md[DML_DNN_W], bias,
        &md[DML_DNN_Y], win->strides, win->dilates, win->pad, win->pad));
    return dnnl_primitive_desc_create(out, &conv, dnn->attr, dnn->engine, NULL);
}

/* The tensors of that hint: float weights beside bf16 samples are a gradient's, and forward has no such thing. */
static dnnl_status_t init_hint(dnnl_memory_desc_t hint[], const dnnl_memory_desc_t md[],
                               const dml_dnn_desc desc[])
{
    for (int role = 0; role < DML_DNN_ROLES; role++) {
        dml_dnn_desc d = desc[role];
        if (!d.ndims) continue;
        hint[role] = md[role];
        d.type = desc[DML_DNN_X].type;
        if (d.type != desc[role].type) RETURN_UNLESS_OK(init_md(&hint[role], &d));
    }
    return dnnl_success;
}

static dnnl_status_t describe_conv_bwd(const dml_dnn *dnn, dml_dnn_kind kind,
                                       const dml_dnn_desc desc[], const dnnl_memory_desc_t md[],
                                       const dnnl_memory_desc_t *bias, const dml_dnn_window *win,
                                       dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t hint[DML_DNN_ROLES];
    RETURN_UNLESS_OK(init_hint(hint, md, desc));
    dnnl_convolution_desc_t conv;
    if (kind == DML_DNN_CONV_BWD_INPUT)
        RETURN_UNLESS_OK(dnnl_dilated_convolution_backward_data_desc_init(
            &conv, dnnl_convolution_direct, &md[DML_DNN_X], &md[DML_DNN_W], &md[DML_DNN_Y],
            win->strides, win->dilates, win->pad, win->pad));
    else
        RETURN_UNLESS_OK(dnnl_dilated_convolution_backward_weights_desc_init(
            &conv, dnnl_convolution_direct, &md[DML_DNN_X], &md[DML_DNN_W], bias, &md[DML_DNN_Y],
            win->strides, win->dilates, win->pad, win->pad));
    dnnl_primitive_desc_t forward;
    RETURN_UNLESS_OK(describe_conv_fwd(dnn, hint, bias ? &hint[DML_DNN_B] : NULL, win, &forward));
    const dnnl_status_t status =
        dnnl_primitive_desc_create(out, &conv, dnn->attr, dnn->engine, forward);
    dnnl_primitive_desc_destroy(forward);
    return status;
}

static dnnl_status_t describe_matmul(const dml_dnn *dnn, const dnnl_memory_desc_t *a,
                                     const dnnl_memory_desc_t *b, const dnnl_memory_desc_t *bias,
                                     const dnnl_memory_desc_t *c, dnnl_primitive_desc_t *out)
{
    dnnl_matmul_desc_t matmul;
    RETURN_UNLESS_OK(dnnl_matmul_desc_init(&matmul, a, b, bias, c));
    return dnnl_primitive_desc_create(out, &matmul, dnn->attr, dnn->engine, NULL);
}

dnnl_status_t dml_dnn_describe(const dml_dnn *dnn, dml_dnn_kind kind,
                               const dml_dnn_desc desc[DML_DNN_ROLES], const dml_dnn_window *window,
                               dnnl_memory_t w_like, dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t md[DML_DNN_ROLES];
    for (int role = 0; role < DML_DNN_ROLES; role++)
        if (desc[role].ndims) RETURN_UNLESS_OK(init_md(&md[role], &desc[role]));
    if (w_like) {
        const dnnl_memory_desc_t *like;
        RETURN_UNLESS_OK(dnnl_memory_get_memory_desc(w_like, &like));
        md[DML_DNN_W] = *like;
    }
    const dnnl_memory_desc_t *bias = desc[DML_DNN_B].ndims ? &md[DML_DNN_B] : NULL;
    switch (kind) {
    case DML_DNN_LINEAR_FWD:
        return describe_matmul(dnn, &md[DML_DNN_X], &md[DML_DNN_W], bias, &md[DML_DNN_Y], out);
    case DML_DNN_LINEAR_BWD_INPUT:
        return describe_matmul(dnn, &md[DML_DNN_Y], &md[DML_DNN_W], NULL, &md[DML_DNN_X], out);
    case DML_DNN_LINEAR_BWD_WEIGHT:
        return describe_matmul(dnn, &md[DML_DNN_Y], &md[DML_DNN_X], NULL, &md[DML_DNN_W], out);
    case DML_DNN_CONV_FWD: return describe_conv_fwd(dnn, md, bias, window, out);
    case DML_DNN_CONV_BWD_INPUT:
    case DML_DNN_CONV_BWD_WEIGHT: return describe_conv_bwd(dnn, kind, desc, md, bias, window, out);
    }
    return dnnl_invalid_arguments;
}

dnnl_status_t dml_dnn_append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f);
}

dnnl_status_t dml_dnn_memory_of(const dml_dnn *dnn, const_dnnl_primitive_desc_t of, int arg,
                                dnnl_memory_t *out)
{
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(of, dnnl_query_exec_arg_md, arg);
    return md ? dnnl_memory_create(out, md, dnn->engine, DNNL_MEMORY_NONE) : dnnl_invalid_arguments;
}

dnnl_status_t dml_dnn_memory(const dml_dnn *dnn, const dml_dnn_desc *desc, dnnl_memory_t *out)
{
    dnnl_memory_desc_t md;
    RETURN_UNLESS_OK(init_md(&md, desc));
    return dnnl_memory_create(out, &md, dnn->engine, DNNL_MEMORY_NONE);
}

int64_t dml_dnn_memory_bytes(dnnl_memory_t memory)
{
    const dnnl_memory_desc_t *md;
    return dnnl_memory_get_memory_desc(memory, &md) == dnnl_success
               ? (int64_t)dnnl_memory_desc_get_size(md)
               : 0;
}

bool dml_dnn_memory_equal(dnnl_memory_t a, dnnl_memory_t b)
{
    const dnnl_memory_desc_t *a_md, *b_md;
    return dnnl_memory_get_memory_desc(a, &a_md) == dnnl_success &&
           dnnl_memory_get_memory_desc(b, &b_md) == dnnl_success &&
           dnnl_memory_desc_equal(a_md, b_md);
}

dnnl_status_t dml_dnn_describe_reorder(const dml_dnn *dnn, dnnl_memory_t from, dnnl_memory_t to,
                                       dnnl_primitive_desc_t *out)
{
    const dnnl_memory_desc_t *from_md, *to_md;
    RETURN_UNLESS_OK(dnnl_memory_get_memory_desc(from, &from_md));
    RETURN_UNLESS_OK(dnnl_memory_get_memory_desc(to, &to_md));
    return dnnl_reorder_primitive_desc_create(out, from_md, dnn->engine, to_md, dnn->engine,
                                              dnn->attr);
}
