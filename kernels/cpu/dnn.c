/* kernels/cpu/dnn.c - the part of the oneDNN layer that is the same in every version. */
#include "kernels/cpu/dnn.h"

#include "kernels/cpu/dnn_api.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl_debug.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_text[] = {
#define X(kind, text, ...) text,
    DML_DNN_LIST(X)
#undef X
};

static const int arg_of[][DML_DNN_ROLES] = {
#define X(kind, text, x, w, b, y) {x, w, b, y, DNNL_ARG_SCRATCHPAD},
    DML_DNN_LIST(X)
#undef X
};

static dml_err failed(dnnl_status_t status, const char *what, int line)
{
    const dml_err err = status == dnnl_out_of_memory   ? DML_ERR_NOMEM
                        : status == dnnl_unimplemented ? DML_ERR_UNAVAILABLE
                                                       : DML_ERR_BUG;
    return dml_err_set(err, __FILE__, line, "oneDNN, %s: %s", what, dnnl_status2str(status));
}

#define DNN_TRY(call, what)                                                  \
    do {                                                                     \
        const dnnl_status_t status_ = (call);                                \
        if (status_ != dnnl_success) return failed(status_, what, __LINE__); \
    } while (0)

static dml_err init_attr(dnnl_primitive_attr_t *attr)
{
    DNN_TRY(dnnl_primitive_attr_create(attr), "attributes");
    DNN_TRY(dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user),
            "scratchpad mode");
    return DML_ERR_OK;
}

static dml_err init_adding(dml_dnn *dnn)
{
    dnnl_post_ops_t ops;
    DML_TRY(init_attr(&dnn->adding));
    DNN_TRY(dnnl_post_ops_create(&ops), "post-operations");
    dnnl_status_t status = dml_dnn_append_sum(ops);
    if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(dnn->adding, ops);
    dnnl_post_ops_destroy(ops);
    DNN_TRY(status, "a sum as post-operation");
    return DML_ERR_OK;
}

static dml_err init(dml_dnn *dnn)
{
    DNN_TRY(dnnl_engine_create(&dnn->engine, dnnl_cpu, 0), "engine");
    DML_TRY(init_attr(&dnn->attr));
    DML_TRY(init_adding(dnn));
    for (int32_t i = 0; i < dnn->threads; i++)
        DNN_TRY(dnnl_stream_create(&dnn->stream[i], dnn->engine, dnnl_stream_default_flags),
                "stream");
    return DML_ERR_OK;
}

const char *dml_dnn_version(void)
{
    static char text[48];
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return text;
}

dml_err dml_dnn_init(dml_dnn *dnn, int32_t threads)
{
    *dnn = (dml_dnn){.threads = threads};
    dnn->stream = calloc((size_t)threads, sizeof(dnnl_stream_t));
    if (!dnn->stream) DML_FAIL(DML_ERR_NOMEM, "no memory for %d streams", threads);
    const dml_err err = init(dnn);
    if (err != DML_ERR_OK) dml_dnn_free(dnn);
    return err;
}

void dml_dnn_free(dml_dnn *dnn)
{
    for (int32_t i = 0; dnn->stream && i < dnn->threads; i++)
        if (dnn->stream[i]) dnnl_stream_destroy(dnn->stream[i]);
    free(dnn->stream);
    if (dnn->attr) dnnl_primitive_attr_destroy(dnn->attr);
    if (dnn->adding) dnnl_primitive_attr_destroy(dnn->adding);
    if (dnn->engine) dnnl_engine_destroy(dnn->engine);
    *dnn = (dml_dnn){0};
}

static dml_dnn_desc matrix(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride)
{
    return (dml_dnn_desc){.ndims = 2, .dims = {rows, cols}, .strides = {row_stride, col_stride}};
}

/* y = x w^T + b,  dx = dy w,  dw = dy^T x  as products of two matrices. */
static void describe_linear(const dml_dnn_shape *s, dml_dnn_desc d[DML_DNN_ROLES])
{
    d[DML_DNN_X] = matrix(s->n, s->in, s->in, 1);
    d[DML_DNN_W] = matrix(s->out, s->in, s->in, 1);
    d[DML_DNN_Y] = matrix(s->n, s->out, s->pitch, 1);
    if (s->kind == DML_DNN_LINEAR_FWD) d[DML_DNN_W] = matrix(s->in, s->out, 1, s->in);
    if (s->kind == DML_DNN_LINEAR_BWD_WEIGHT) d[DML_DNN_Y] = matrix(s->out, s->n, 1, s->pitch);
    if (s->bias) d[DML_DNN_B] = matrix(1, s->out, s->out, 1);
    d[DML_DNN_W].any = s->kind != DML_DNN_LINEAR_BWD_WEIGHT && !s->plain;
}

/* [n, c, h, w] logically, NHWC in memory. */
static dml_dnn_desc image(int64_t n, int64_t h, int64_t w, int64_t c)
{
    return (dml_dnn_desc){.ndims = 4, .dims = {n, c, h, w}, .strides = {h * w * c, 1, w * c, c}};
}

static void describe_conv(const dml_dnn_shape *s, dml_dnn_desc d[DML_DNN_ROLES],
                          dml_dnn_window *win)
{
    const int64_t g = s->conv.groups, co = s->out / g, ci = s->in / g;
    const int64_t kh = s->conv.kernel[0], kw = s->conv.kernel[1];
    d[DML_DNN_X] = image(s->n, s->h, s->w, s->in);
    d[DML_DNN_Y] = image(s->n, s->oh, s->ow, s->out);
    if (g == 1)
        d[DML_DNN_W] = (dml_dnn_desc){
            .ndims = 4, .dims = {co, ci, kh, kw}, .strides = {ci * kh * kw, kh * kw, kw, 1}};
    else
        d[DML_DNN_W] = (dml_dnn_desc){.ndims = 5,
                                      .dims = {g, co, ci, kh, kw},
                                      .strides = {co * ci * kh * kw, ci * kh * kw, kh * kw, kw, 1}};
    d[DML_DNN_W].any = true;
    if (s->bias) d[DML_DNN_B] = (dml_dnn_desc){.ndims = 1, .dims = {s->out}, .strides = {1}};
    for (int i = 0; i < 2; i++) {
        win->strides[i] = s->conv.stride[i];
        win->dilates[i] = s->conv.dilation[i] - 1;
        win->pad[i] = s->conv.pad[i];
    }
}

/* The primitive that moves the weights between the plain and the packed format, if they differ. */
static dml_err make_reorder(const dml_dnn *dnn, dml_dnn_op *op, const dml_dnn_desc *w)
{
    dml_dnn_desc plain = *w;
    plain.any = false;
    DNN_TRY(dml_dnn_memory(dnn, &plain, &op->plain), "weights");
    const dnnl_memory_t packed = op->lane[0].memory[DML_DNN_W];
    op->packed_bytes = dml_dnn_memory_bytes(packed);
    if (dml_dnn_memory_equal(op->plain, packed)) return DML_ERR_OK;
    const bool writes = op->shape.kind == DML_DNN_CONV_BWD_WEIGHT;
    dnnl_primitive_desc_t pd;
    DNN_TRY(dml_dnn_describe_reorder(dnn, writes ? packed : op->plain, writes ? op->plain : packed,
                                     &pd),
            "reorder of weights");
    const dnnl_status_t status = dnnl_primitive_create(&op->reorder, pd);
    dnnl_primitive_desc_destroy(pd);
    DNN_TRY(status, "reorder of weights");
    return DML_ERR_OK;
}

static dml_err make_parts(const dml_dnn *dnn, dml_dnn_op *op, const dml_dnn_desc desc[],
                          const_dnnl_primitive_desc_t pd)
{
    const dml_dnn_kind kind = op->shape.kind;
    DNN_TRY(dnnl_primitive_create(&op->primitive, pd), kind_text[kind]);
    for (int32_t lane = 0; lane < op->shape.lanes; lane++)
        for (int role = 0; role < DML_DNN_ROLES; role++)
            if (desc[role].ndims || role == DML_DNN_SCRATCH)
                DNN_TRY(
                    dml_dnn_memory_of(dnn, pd, arg_of[kind][role], &op->lane[lane].memory[role]),
                    kind_text[kind]);
    op->scratch_bytes = dml_dnn_memory_bytes(op->lane[0].memory[DML_DNN_SCRATCH]);
    return make_reorder(dnn, op, &desc[DML_DNN_W]);
}

static dnnl_data_type_t library_type(int32_t dtype)
{
    return dtype == DML_BF16 ? dnnl_bf16 : dtype == DML_F16 ? dnnl_f16 : dnnl_f32;
}

static void set_types(const dml_dnn_shape *s, dml_dnn_desc d[DML_DNN_ROLES])
{
    for (int role = 0; role < DML_DNN_ROLES; role++)
        d[role].type = library_type(s->type);
    if (s->kind == DML_DNN_LINEAR_BWD_WEIGHT || s->kind == DML_DNN_CONV_BWD_WEIGHT)
        d[DML_DNN_W].type = d[DML_DNN_B].type = dnnl_f32;
}

static dnnl_status_t describe(const dml_dnn *dnn, const dml_dnn_shape *s,
                              dml_dnn_desc desc[DML_DNN_ROLES], dnnl_memory_t w_like,
                              dnnl_primitive_desc_t *out)
{
    dml_dnn_window window = {0};
    if (s->kind <= DML_DNN_LINEAR_BWD_WEIGHT)
        describe_linear(s, desc);
    else
        describe_conv(s, desc, &window);
    set_types(s, desc);
    dml_dnn with = *dnn;
    if (s->adds) with.attr = dnn->adding;
    return dml_dnn_describe(&with, s->kind, desc, &window, w_like, out);
}

static dml_err make(dml_dnn *dnn, dml_dnn_op *op, const dml_dnn_op *like)
{
    const dml_dnn_shape *s = &op->shape;
    dml_dnn_desc desc[DML_DNN_ROLES] = {0};
    dnnl_primitive_desc_t pd;
    DNN_TRY(describe(dnn, s, desc, like ? like->lane[0].memory[DML_DNN_W] : NULL, &pd),
            kind_text[s->kind]);
    const dml_err err = make_parts(dnn, op, desc, pd);
    dnnl_primitive_desc_destroy(pd);
    return err;
}

dml_err dml_dnn_op_new(dml_dnn *dnn, const dml_dnn_shape *shape, const dml_dnn_op *like,
                       dml_dnn_op **out)
{
    dml_dnn_op *op = calloc(1, sizeof *op);
    dml_dnn_lane *lane = calloc((size_t)shape->lanes, sizeof *lane);
    if (!op || !lane) {
        free(op);
        free(lane);
        DML_FAIL(DML_ERR_NOMEM, "no memory for %s", kind_text[shape->kind]);
    }
    op->shape = *shape;
    op->lane = lane;
    /* The library cuts a primitive for as many threads as the caller has when it is made. */
    omp_set_num_threads(shape->threads);
    const dml_err err = make(dnn, op, like);
    if (err != DML_ERR_OK) {
        dml_dnn_op_free(op);
        return err;
    }
    *out = op;
    return DML_ERR_OK;
}

/* The library's plain loops, for what it was not made for, are slower than ours around its float kernels. */
static bool is_fast(const_dnnl_primitive_desc_t pd)
{
    const char *name = NULL;
    return dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name) ==
               dnnl_success &&
           name && !strstr(name, "ref");
}

dml_err dml_dnn_ask(dml_dnn *dnn, const dml_dnn_shape *shape, dml_dnn_op **out)
{
    dml_dnn_op *op = calloc(1, sizeof *op);
    if (!op) DML_FAIL(DML_ERR_NOMEM, "no memory for %s", kind_text[shape->kind]);
    op->shape = *shape;
    dml_dnn_desc desc[DML_DNN_ROLES] = {0};
    dnnl_primitive_desc_t pd;
    if (describe(dnn, shape, desc, NULL, &pd) == dnnl_success) {
        op->native = is_fast(pd);
        dnnl_primitive_desc_destroy(pd);
    }
    *out = op;
    return DML_ERR_OK;
}

void dml_dnn_op_free(dml_dnn_op *op)
{
    if (!op) return;
    for (int32_t lane = 0; lane < op->shape.lanes; lane++)
        for (int role = 0; role < DML_DNN_ROLES; role++)
            if (op->lane[lane].memory[role]) dnnl_memory_destroy(op->lane[lane].memory[role]);
    if (op->plain) dnnl_memory_destroy(op->plain);
    if (op->reorder) dnnl_primitive_destroy(op->reorder);
    if (op->primitive) dnnl_primitive_destroy(op->primitive);
    free(op->lane);
    free(op);
}

/* Setting a pointer makes the library clear the padding of a packed tensor, so not without need. */
static dml_err point(dml_dnn_lane *lane, int role, void *at)
{
    if (lane->at[role] == at) return DML_ERR_OK;
    DNN_TRY(dnnl_memory_set_data_handle(lane->memory[role], at), "pointer");
    lane->at[role] = at;
    return DML_ERR_OK;
}

dml_err dml_dnn_run(dml_dnn *dnn, dml_dnn_op *op, int32_t lane, void *const at[DML_DNN_ROLES])
{
    dml_dnn_lane *l = &op->lane[lane];
    dnnl_exec_arg_t arg[DML_DNN_ROLES];
    int n_args = 0;
    for (int role = 0; role < DML_DNN_ROLES; role++) {
        if (!l->memory[role]) continue;
        DML_TRY(point(l, role, at[role]));
        arg[n_args++] = (dnnl_exec_arg_t){arg_of[op->shape.kind][role], l->memory[role]};
    }
    omp_set_num_threads(op->shape.threads);
    DNN_TRY(dnnl_primitive_execute(op->primitive, dnn->stream[lane], n_args, arg),
            kind_text[op->shape.kind]);
    return DML_ERR_OK;
}

dml_err dml_dnn_pack(dml_dnn *dnn, dml_dnn_op *op, void *plain, void *packed)
{
    const bool writes = op->shape.kind == DML_DNN_CONV_BWD_WEIGHT;
    DNN_TRY(dnnl_memory_set_data_handle(op->plain, plain), "pointer");
    DML_TRY(point(&op->lane[0], DML_DNN_W, packed));
    const dnnl_memory_t packed_memory = op->lane[0].memory[DML_DNN_W];
    const dnnl_exec_arg_t arg[] = {
        {DNNL_ARG_FROM, writes ? packed_memory : op->plain},
        {DNNL_ARG_TO, writes ? op->plain : packed_memory},
    };
    omp_set_num_threads(op->shape.threads);
    DNN_TRY(dnnl_primitive_execute(op->reorder, dnn->stream[0], 2, arg), "reorder of weights");
    return DML_ERR_OK;
}
