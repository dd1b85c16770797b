/* engine/spec_family.c - models that one word names: mlp, vgg, resnet.
 *
 * Names are those of torchvision where it has the model, so that weights can be exchanged.
 */
#include "engine/spec_read.h"

#include <string.h>

typedef struct family {
    dml_layer_maker *m;
    dml_layer_scope scope;
} family;

static dml_layer_spec *push(family *f, dml_layer_kind kind)
{
    return dml_layer_push(f->m, &f->scope, kind, NULL, (dml_place){0});
}

static void linear(family *f, int32_t out, const char *name)
{
    dml_layer_spec *l = dml_layer_push(f->m, &f->scope, DML_LAYER_LINEAR, name, (dml_place){0});
    l->out = out;
}

static void pair(int32_t *v, int32_t value)
{
    v[0] = v[1] = value;
}

/* No bias: the batch norm that follows subtracts it again. */
static void conv(family *f, int32_t out, int32_t kernel, int32_t stride, const char *name)
{
    dml_layer_spec *l = dml_layer_push(f->m, &f->scope, DML_LAYER_CONV2D, name, (dml_place){0});
    l->out = out;
    l->bias = false;
    pair(l->conv.kernel, kernel);
    pair(l->conv.stride, stride);
    pair(l->conv.pad, kernel / 2);
}

static void max_pool(family *f, int32_t size)
{
    dml_layer_spec *l = push(f, DML_LAYER_MAX_POOL2D);
    pair(l->pool.kernel, size);
    pair(l->pool.stride, size);
}

static void dropout(family *f)
{
    const float rate = f->m->r->spec->model.family.dropout;
    if (rate > 0.0f) push(f, DML_LAYER_DROPOUT)->rate = rate;
}

/* flatten, (linear, activation, dropout) for each hidden width, linear */
static void mlp(family *f)
{
    static const dml_layer_kind activations[] = {DML_LAYER_RELU, DML_LAYER_GELU, DML_LAYER_TANH};
    const dml_spec *spec = f->m->r->spec;
    if (spec->model.input_rank > 1) push(f, DML_LAYER_FLATTEN);
    for (int32_t i = 0; i < spec->model.family.hidden.n; i++) {
        linear(f, spec->model.family.hidden.v[i], NULL);
        push(f, activations[spec->model.family.activation]);
        dropout(f);
    }
    linear(f, spec->model.classes, NULL);
}

/* VGG-8: three times (conv3x3, bn, relu) x 2 and a pool, with 64, 128, 256 channels; 512 hidden. */
static void vgg(family *f)
{
    for (int32_t channels = 64; channels <= 256; channels *= 2) {
        for (int i = 0; i < 2; i++) {
            conv(f, channels, 3, 1, NULL);
            push(f, DML_LAYER_BATCH_NORM);
            push(f, DML_LAYER_RELU);
        }
        max_pool(f, 2);
    }
    push(f, DML_LAYER_FLATTEN);
    linear(f, 512, NULL);
    push(f, DML_LAYER_RELU);
    dropout(f);
    linear(f, f->m->r->spec->model.classes, NULL);
}

/* x -> relu(conv3x3 bn relu conv3x3 bn (x) + shortcut(x)), torchvision's BasicBlock.  Where the shape
 * changes the shortcut is a 1x1 convolution and a batch norm. */
static void basic_block(family *f, const char *name, int32_t out, int32_t stride, bool project)
{
    dml_arena *arena = f->m->r->arena;
    const int32_t input = f->m->tail;
    family b = {f->m, {dml_arena_printf(arena, "%s.", name), {0}, 0}};
    conv(&b, out, 3, stride, NULL);
    push(&b, DML_LAYER_BATCH_NORM);
    push(&b, DML_LAYER_RELU);
    conv(&b, out, 3, 1, NULL);
    push(&b, DML_LAYER_BATCH_NORM);
    const int32_t end_of_body = f->m->tail;
    f->m->tail = input;
    if (project) {
        conv(&b, out, 1, stride, dml_arena_printf(arena, "%s.downsample.0", name));
        dml_layer_push(f->m, &b.scope, DML_LAYER_BATCH_NORM,
                       dml_arena_printf(arena, "%s.downsample.1", name), (dml_place){0});
    }
    const int32_t with = f->m->tail;
    f->m->tail = end_of_body;
    dml_layer_join(f->m, &b.scope, with, (dml_place){0});
    push(&b, DML_LAYER_RELU);
}

/* He et al. 2015 (arXiv:1512.03385), section 4.2: depth 6n + 2, three groups of n blocks with 16, 32 and
 * 64 channels, the image halved at the start of the second and third. */
static void resnet(family *f)
{
    const dml_spec *spec = f->m->r->spec;
    const int32_t n = (spec->model.family.depth - 2) / 6;
    conv(f, 16, 3, 1, NULL);
    push(f, DML_LAYER_BATCH_NORM);
    push(f, DML_LAYER_RELU);
    for (int32_t group = 0; group < 3; group++)
        for (int32_t i = 0; i < n; i++) {
            const bool shrink = group > 0 && i == 0;
            basic_block(f, dml_arena_printf(f->m->r->arena, "layer%d.%d", group + 1, i),
                        16 << group, shrink ? 2 : 1, shrink);
        }
    pair(push(f, DML_LAYER_AVG_POOL2D)->pool.stride, 1);
    push(f, DML_LAYER_FLATTEN);
    linear(f, spec->model.classes, "fc");
}

void dml_layers_of_family(dml_layer_maker *m)
{
    const char *type = m->r->spec->model.type;
    family f = {m, {.prefix = ""}};
    if (strcmp(type, "mlp") == 0)
        mlp(&f);
    else if (strcmp(type, "vgg") == 0)
        vgg(&f);
    else
        resnet(&f);
}
