/* kernels/cpu/dnn_v3.c - oneDNN 3.x: primitive descriptors directly, memory descriptors are handles. */
#include "kernels/cpu/dnn_api.h"

#define RETURN_UNLESS_OK(call)                       \
    do {                                             \
        const dnnl_status_t status_ = (call);        \
        if (status_ != dnnl_success) return status_; \
    } while (0)

static dnnl_status_t new_md(dnnl_memory_desc_t *md, const dml_dnn_desc *d)
{
    if (d->any)
        return dnnl_memory_desc_create_with_tag(md, d->ndims, d->dims, d->type,
                                                dnnl_format_tag_any);
    return dnnl_memory_desc_create_with_strides(md, d->ndims, d->dims, d->type, d->strides);
}

/* The forward convolution, itself or as a hint for a backward one, where `hint` takes the place of `md`. */
static dnnl_status_t describe_conv_fwd(const dml_dnn *dnn, const dnnl_memory_desc_t md[],
                                       const dnnl_memory_desc_t hint[], const dml_dnn_window *win,
                                       dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t d[DML_DNN_ROLES];
    for (int role = 0; role < DML_DNN_ROLES; role++)
        d[role] = hint[role] ? hint[role] : md[role];
    return dnnl_convolution_forward_primitive_desc_create(
        out, dnn->engine, dnnl_forward_training, dnnl_convolution_direct, d[DML_DNN_X],
        d[DML_DNN_W], d[DML_DNN_B], d[DML_DNN_Y], win->strides, win->dilates, win->pad, win->pad,
        dnn->attr);
}

static dnnl_status_t describe_conv(const dml_dnn *dnn, dml_dnn_kind kind,
                                   const dnnl_memory_desc_t md[], const dnnl_memory_desc_t hint[],
                                   const dml_dnn_window *win, dnnl_primitive_desc_t *out)
{
    dnnl_primitive_desc_t forward;
    RETURN_UNLESS_OK(describe_conv_fwd(dnn, md, hint, win, &forward));
    if (kind == DML_DNN_CONV_FWD) {
        *out = forward;
        return dnnl_success;
    }
    const dnnl_status_t status =
        kind == DML_DNN_CONV_BWD_INPUT
            ? dnnl_convolution_backward_data_primitive_desc_create(
                  out, dnn->engine, dnnl_convolution_direct, md[DML_DNN_X], md[DML_DNN_W],
                  md[DML_DNN_Y], win->strides, win->dilates, win->pad, win->pad, forward, dnn->attr)
            : dnnl_convolution_backward_weights_primitive_desc_create(
                  out, dnn->engine, dnnl_convolution_direct, md[DML_DNN_X], md[DML_DNN_W],
                  md[DML_DNN_B], md[DML_DNN_Y], win->strides, win->dilates, win->pad, win->pad,
                  forward, dnn->attr);
    dnnl_primitive_desc_destroy(forward);
    return status;
}

static dnnl_status_t describe(const dml_dnn *dnn, dml_dnn_kind kind, const dnnl_memory_desc_t md[],
                              const dnnl_memory_desc_t hint[], const dml_dnn_window *window,
                              dnnl_primitive_desc_t *out)
{
    switch (kind) {
    case DML_DNN_LINEAR_FWD:
        return dnnl_matmul_primitive_desc_create(out, dnn->engine, md[DML_DNN_X], md[DML_DNN_W],
                                                 md[DML_DNN_B], md[DML_DNN_Y], dnn->attr);
    case DML_DNN_LINEAR_BWD_INPUT:
        return dnnl_matmul_primitive_desc_create(out, dnn->engine, md[DML_DNN_Y], md[DML_DNN_W],
                                                 NULL, md[DML_DNN_X], dnn->attr);
    case DML_DNN_LINEAR_BWD_WEIGHT:
        return dnnl_matmul_primitive_desc_create(out, dnn->engine, md[DML_DNN_Y], md[DML_DNN_X],
                                                 NULL, md[DML_DNN_W], dnn->attr);
    case DML_DNN_CONV_FWD:
    case DML_DNN_CONV_BWD_INPUT:
    case DML_DNN_CONV_BWD_WEIGHT: return describe_conv(dnn, kind, md, hint, window, out);
    }
    return dnnl_invalid_arguments;
}

dnnl_status_t dml_dnn_describe(const dml_dnn *dnn, dml_dnn_kind kind,
                               const dml_dnn_desc desc[DML_DNN_ROLES], const dml_dnn_window *window,
                               dnnl_memory_t w_like, dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t md[DML_DNN_ROLES] = {0}, hint[DML_DNN_ROLES] = {0};
    dnnl_status_t status = dnnl_success;
    for (int role = 0; role < DML_DNN_ROLES && status == dnnl_success; role++) {
        if (role == DML_DNN_W && w_like) {
            const_dnnl_memory_desc_t like;
            status = dnnl_memory_get_memory_desc(w_like, &like);
            if (status == dnnl_success) status = dnnl_memory_desc_clone(&md[role], like);
        } else if (desc[role].ndims) {
            status = new_md(&md[role], &desc[role]);
        }
        /* float weights beside bf16 samples are a gradient's, and forward has no such thing */
        dml_dnn_desc d = desc[role];
        d.type = desc[DML_DNN_X].type;
        if (status == dnnl_success && d.ndims && d.type != desc[role].type &&
            kind == DML_DNN_CONV_BWD_WEIGHT)
            status = new_md(&hint[role], &d);
    }
    if (status == dnnl_success) status = describe(dnn, kind, md, hint, window, out);
    for (int role = 0; role < DML_DNN_ROLES; role++) {
        if (md[role]) dnnl_memory_desc_destroy(md[role]);
        if (hint[role]) dnnl_memory_desc_destroy(hint[role]);
    }
    return status;
}

dnnl_status_t dml_dnn_append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}

dnnl_status_t dml_dnn_memory_of(const dml_dnn *dnn, const_dnnl_primitive_desc_t of, int arg,
                                dnnl_memory_t *out)
{
    const const_dnnl_memory_desc_t md =
        dnnl_primitive_desc_query_md(of, dnnl_query_exec_arg_md, arg);
    return md ? dnnl_memory_create(out, md, dnn->engine, DNNL_MEMORY_NONE) : dnnl_invalid_arguments;
}

dnnl_status_t dml_dnn_memory(const dml_dnn *dnn, const dml_dnn_desc *desc, dnnl_memory_t *out)
{
    dnnl_memory_desc_t md;
    RETURN_UNLESS_OK(new_md(&md, desc));
    const dnnl_status_t status = dnnl_memory_create(out, md, dnn->engine, DNNL_MEMORY_NONE);
    dnnl_memory_desc_destroy(md);
    return status;
}

int64_t dml_dnn_memory_bytes(dnnl_memory_t memory)
{
    const_dnnl_memory_desc_t md;
    return dnnl_memory_get_memory_desc(memory, &md) == dnnl_success
               ? (int64_t)dnnl_memory_desc_get_size(md)
               : 0;
}

bool dml_dnn_memory_equal(dnnl_memory_t a, dnnl_memory_t b)
{
    const_dnnl_memory_desc_t a_md, b_md;
    return dnnl_memory_get_memory_desc(a, &a_md) == dnnl_success &&
           dnnl_memory_get_memory_desc(b, &b_md) == dnnl_success &&
           dnnl_memory_desc_equal(a_md, b_md);
}

dnnl_status_t dml_dnn_describe_reorder(const dml_dnn *dnn, dnnl_memory_t from, dnnl_memory_t to,
                                       dnnl_primitive_desc_t *out)
{
    const_dnnl_memory_desc_t from_md, to_md;
    RETURN_UNLESS_OK(dnnl_memory_get_memory_desc(from, &from_md));
    RETURN_UNLESS_OK(dnnl_memory_get_memory_desc(to, &to_md));
    return dnnl_reorder_primitive_desc_create(out, from_md, dnn->engine, to_md, dnn->engine,
                                              dnn->attr);
}
