/* engine/layers/layers.c - the table of layer kinds and what their files share. */
#include "engine/layers/layer.h"

#include <stdarg.h>
#include <stdio.h>

const dml_layer_class *dml_layer_class_of(dml_layer_kind kind)
{
    static const dml_layer_class *const table[] = {
#define X(kind, name) &dml_class_##kind,
        DML_LAYER_LIST(X)
#undef X
    };
    return table[kind];
}

dml_err dml_layer_fail(const dml_shaping *m, const dml_layer *l, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return dml_spec_fail(m->spec, l->spec->place, "model.layers", "layer '%s' %s", l->spec->name,
                         text);
}

void dml_layer_param(dml_shaping *m, dml_layer *l, const char *suffix, dml_param_role role,
                     int32_t rank, const int64_t dim[], int64_t fan_in, int64_t fan_out)
{
    dml_param *p = &m->model->param[m->model->n_params++];
    *p = (dml_param){
        .name = dml_arena_printf(m->arena, "%s.%s", l->spec->name, suffix),
        .layer = (int32_t)(l - m->model->layer),
        .rank = rank,
        .dim = {1, 1, 1, 1},
        .elems = 1,
        .fan_in = fan_in,
        .fan_out = fan_out,
        .role = role,
        .decay = role == DML_PARAM_WEIGHT || m->spec->optimizer.decay_all,
    };
    for (int32_t i = 0; i < rank; i++) {
        p->dim[i] = dim[i];
        p->elems *= dim[i];
    }
    m->model->param_elems += p->elems;
}

void dml_layer_state(dml_shaping *m, dml_layer *l, const char *suffix, int64_t elems, float start)
{
    m->model->state[m->model->n_states++] = (dml_state){
        .name = dml_arena_printf(m->arena, "%s.%s", l->spec->name, suffix),
        .layer = (int32_t)(l - m->model->layer),
        .elems = elems,
        .start = start,
    };
}

void dml_layer_elementwise(dml_layer *l, int64_t flops)
{
    l->out = l->in;
    l->flops[0] = l->flops[1] = flops * dml_shape_elems(l->in);
}

const char *dml_shape_text(dml_shape s, char text[DML_SHAPE_TEXT])
{
    if (s.rank == 1)
        snprintf(text, DML_SHAPE_TEXT, "%d feature%s", s.dim[0], s.dim[0] == 1 ? "" : "s");
    else
        snprintf(text, DML_SHAPE_TEXT, "%d channel%s of %dx%d", s.dim[2], s.dim[2] == 1 ? "" : "s",
                 s.dim[0], s.dim[1]);
    return text;
}

int32_t dml_window_cells(int32_t size, int32_t kernel, int32_t stride, int32_t pad,
                         int32_t dilation)
{
    const int64_t room = (int64_t)size + 2 * (int64_t)pad - (int64_t)dilation * (kernel - 1) - 1;
    return room < 0 ? 0 : (int32_t)(room / stride + 1);
}

dml_err dml_layer_copy(const dml_kernel_table *kt, dml_kctx *k, const dml_tensor *y,
                       const dml_tensor *x)
{
    const int64_t rows = x->dim[0], each = dml_tensor_row_elems(x);
    dml_tensor from = dml_tensor_of(x->data, x->dtype, 4, (const int64_t[]){rows, each, 1, 1});
    dml_tensor to = dml_tensor_of(y->data, y->dtype, 4, (const int64_t[]){rows, 1, each, 1});
    return kt->nhwc_to_nchw(k, &to, &from);
}
