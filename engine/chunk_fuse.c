/* engine/chunk_fuse.c - activations that the products around them apply.
 *
 *   fc1 --> relu --> fc2        forward   fc1 with relu, fc2              relu leaves `aux` (kernels.h)
 *                               backward  dX fc2 with relu's slope, dX fc1
 *
 * The product before the activation applies it on its way out, the one after it multiplies its input gradient by
 * the slope: two passes over memory less each way.  Only in fast mode, since the product is not rounded in between
 * where the activation has a curve; and only where both are linear layers of this chunk and nobody else reads
 * either value.
 */
#include "engine/chunk_impl.h"

/* The activation of layer `l`, if a product can apply it. */
static bool act_of(const dml_layer *l, dml_act *out)
{
    *out = l->spec->kind == DML_LAYER_RELU ? DML_ACT_RELU : DML_ACT_GELU_TANH;
    return l->spec->kind == DML_LAYER_RELU ||
           (l->spec->kind == DML_LAYER_GELU && l->spec->tanh_form);
}

/* The only layer of [0, n) that reads layer `i`, or -1; -1 too when another chunk does. */
static int32_t reader_of(const dml_chunk *c, const dml_layer *layer, int32_t n, int32_t i)
{
    int32_t reader = -1;
    if (dml_chunk_sends(c, i)) return -1;
    for (int32_t j = i + 1; j < n; j++) {
        const bool with =
            layer[j].cls->traits & DML_JOIN && layer[j].spec->with == c->layer_begin + i;
        if (layer[j].spec->input != c->layer_begin + i && !with) continue;
        if (reader >= 0 || with) return -1;
        reader = j;
    }
    return reader;
}

void dml_chunk_fuse(const dml_chunk *c, dml_layer_plan *plan)
{
    const dml_layer *layer = &c->model->layer[c->layer_begin];
    const int32_t n = c->layer_end - c->layer_begin;
    dml_act act;
    if (c->spec->training.numerics != DML_FAST) return;
    for (int32_t i = 0; i + 2 < n; i++) {
        if (layer[i].spec->kind != DML_LAYER_LINEAR || !act_of(&layer[i + 1], &act)) continue;
        if (reader_of(c, layer, n, i) != i + 1) continue;
        const int32_t above = reader_of(c, layer, n, i + 1);
        if (above < 0 || layer[above].spec->kind != DML_LAYER_LINEAR) continue;
        plan[i].acts = plan[i + 1].acted = plan[above].unacts = true;
    }
}

int64_t dml_fused_aux_bytes(const dml_chunk *c, const dml_layer *linear)
{
    dml_act act;
    (void)act_of(linear + 1, &act);
    return dml_act_aux_bytes(act, c->act, dml_shape_elems(linear->out));
}

/* aux [rows, bytes], and, for a table without these entries, the values that lie there instead. */
static dml_tensor bytes_at(const dml_tensor *y, dml_act act, void *aux)
{
    return dml_tensor_of(aux, DML_U8, 2,
                         (const int64_t[]){y->dim[0], dml_act_aux_bytes(act, y->dtype, y->dim[1])});
}

static dml_tensor values_at(const dml_tensor *y, void *aux)
{
    dml_tensor z = *y;
    z.data = aux;
    return z;
}

dml_err dml_fused_forward(const dml_layer_call *c, void *aux)
{
    dml_act act;
    (void)act_of(c->layer + 1, &act);
    const dml_tensor bytes = bytes_at(&c->y, act, aux), z = values_at(&c->y, aux);
    const dml_tensor *bias = dml_present(&c->param[1]);
    if (c->kt->linear_act_fwd)
        return c->kt->linear_act_fwd(c->k, act, &c->y, &bytes, &c->x, &c->param[0], bias);
    if (act == DML_ACT_RELU) {
        DML_TRY(c->kt->linear_fwd(c->k, &c->y, &c->x, &c->param[0], bias));
        return c->kt->relu_fwd(c->k, &c->y, &c->y);
    }
    DML_TRY(c->kt->linear_fwd(c->k, &z, &c->x, &c->param[0], bias));
    return c->kt->gelu_tanh_fwd(c->k, &c->y, &z);
}

dml_err dml_fused_backward(const dml_layer_call *c, const dml_layer *acted, void *aux)
{
    dml_act act;
    (void)act_of(acted, &act);
    const dml_tensor bytes = bytes_at(&c->dx, act, aux), z = values_at(&c->dx, aux);
    if (c->kt->linear_act_bwd)
        return c->kt->linear_act_bwd(c->k, act, &c->dx, &c->dy, &c->param[0], &bytes);
    DML_TRY(c->kt->linear_bwd_input(c->k, &c->dx, &c->dy, &c->param[0]));
    if (act == DML_ACT_RELU) return c->kt->relu_bwd(c->k, &c->dx, &c->dx, &c->x);
    return c->kt->gelu_tanh_bwd(c->k, &c->dx, &c->dx, &z);
}
