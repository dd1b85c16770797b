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

/* No bias: the batch norm that follows subtracts it again.  Valid until the next push. */
static dml_layer_spec *conv(family *f, int32_t out, int32_t kernel, int32_t stride,
                            const char *name)
{
    dml_layer_spec *l = dml_layer_push(f->m, &f->scope, DML_LAYER_CONV2D, name, (dml_place){0});
    l->out = out;
    l->bias = false;
    pair(l->conv.kernel, kernel);
    pair(l->conv.stride, stride);
    pair(l->conv.pad, kernel / 2);
    return l;
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
static void vgg8(family *f)
{
    const bool norm = f->m->r->spec->model.family.batch_norm;
    for (int32_t channels = 64; channels <= 256; channels *= 2) {
        for (int i = 0; i < 2; i++) {
            conv(f, channels, 3, 1, NULL)->bias = !norm;
            if (norm) push(f, DML_LAYER_BATCH_NORM);
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

/* Simonyan and Zisserman 2014 (arXiv:1409.1556), table 1, columns A, B, D, E: convolutions of each of five
 * groups with 64, 128, 256, 512, 512 channels, a pool after each.  As torchvision's vgg11 ... vgg19_bn: numbers
 * count the places of `features` and `classifier`, convolutions have biases beside batch norm too.  There is
 * no adaptive pool before the classifier; with 224 x 224 images torchvision's changes nothing. */
static void vgg_torchvision(family *f, const int32_t convolutions[5])
{
    dml_arena *arena = f->m->r->arena;
    const dml_spec *spec = f->m->r->spec;
    int32_t place = 0;
    for (int32_t group = 0; group < 5; group++) {
        for (int32_t i = 0; i < convolutions[group]; i++) {
            const int32_t channels = group < 3 ? 64 << group : 512;
            conv(f, channels, 3, 1, dml_arena_printf(arena, "features.%d", place++))->bias = true;
            if (spec->model.family.batch_norm)
                dml_layer_push(f->m, &f->scope, DML_LAYER_BATCH_NORM,
                               dml_arena_printf(arena, "features.%d", place++), (dml_place){0});
            push(f, DML_LAYER_RELU);
            place++;
        }
        max_pool(f, 2);
        place++;
    }
    push(f, DML_LAYER_FLATTEN);
    for (int32_t i = 0; i < 2; i++) {
        linear(f, 4096, dml_arena_printf(arena, "classifier.%d", 3 * i));
        push(f, DML_LAYER_RELU);
        dropout(f);
    }
    linear(f, spec->model.classes, "classifier.6");
}

static void vgg(family *f)
{
    static const struct {
        int32_t depth, convolutions[5];
    } variants[] = {
        {11, {1, 1, 2, 2, 2}}, {13, {2, 2, 2, 2, 2}}, {16, {2, 2, 3, 3, 3}}, {19, {2, 2, 4, 4, 4}}};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        if (variants[i].depth == f->m->r->spec->model.family.depth) {
            vgg_torchvision(f, variants[i].convolutions);
            return;
        }
    vgg8(f);
}

/* What a residual network is made of. */
typedef struct blocks {
    int32_t groups, n[4]; /* blocks of each group; channels double from one to the next */
    int32_t width;        /* of the first group's 3x3 convolutions */
    bool bottleneck;      /* three convolutions that end in 4 x width channels, not two */
} blocks;

/* x -> relu(body(x) + shortcut(x)), torchvision's BasicBlock and Bottleneck.
 *
 *   basic        conv3x3/stride bn relu conv3x3 bn
 *   bottleneck   conv1x1 bn relu conv3x3/stride bn relu conv1x1 bn      (v1.5: the stride is the 3x3's)
 *
 * Where the shape changes the shortcut is a 1x1 convolution with that stride and a batch norm. */
static void block(family *f, const char *name, int32_t width, int32_t stride, bool bottleneck,
                  bool project)
{
    dml_arena *arena = f->m->r->arena;
    const int32_t input = f->m->tail, out = bottleneck ? 4 * width : width;
    family b = {f->m, {dml_arena_printf(arena, "%s.", name), {0}, 0}};
    if (bottleneck) {
        conv(&b, width, 1, 1, NULL);
        push(&b, DML_LAYER_BATCH_NORM);
        push(&b, DML_LAYER_RELU);
    }
    conv(&b, width, 3, stride, NULL);
    push(&b, DML_LAYER_BATCH_NORM);
    push(&b, DML_LAYER_RELU);
    conv(&b, out, bottleneck ? 1 : 3, 1, NULL);
    push(&b, DML_LAYER_BATCH_NORM)->zero_init = f->m->r->spec->model.family.zero_init_residual;
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

/* He et al. 2015 (arXiv:1512.03385).  Depths 18 to 152: table 1, four groups from 64 channels, torchvision's
 * resnet18 ... resnet152.  Other depths 6n + 2: section 4.2, three groups of n blocks from 16 channels. */
static blocks blocks_of(int32_t depth)
{
    switch (depth) {
    case 18: return (blocks){4, {2, 2, 2, 2}, 64, false};
    case 34: return (blocks){4, {3, 4, 6, 3}, 64, false};
    case 50: return (blocks){4, {3, 4, 6, 3}, 64, true};
    case 101: return (blocks){4, {3, 4, 23, 3}, 64, true};
    case 152: return (blocks){4, {3, 8, 36, 3}, 64, true};
    }
    const int32_t n = (depth - 2) / 6;
    return (blocks){3, {n, n, n, 0}, 16, false};
}

static void resnet(family *f)
{
    const dml_spec *spec = f->m->r->spec;
    const blocks shape = blocks_of(spec->model.family.depth);
    const bool imagenet = spec->model.family.stem == DML_STEM_IMAGENET;
    conv(f, shape.width, imagenet ? 7 : 3, imagenet ? 2 : 1, NULL);
    push(f, DML_LAYER_BATCH_NORM);
    push(f, DML_LAYER_RELU);
    if (imagenet) {
        dml_layer_spec *pool = push(f, DML_LAYER_MAX_POOL2D);
        pair(pool->pool.kernel, 3);
        pair(pool->pool.stride, 2);
        pair(pool->pool.pad, 1);
    }
    for (int32_t group = 0; group < shape.groups; group++)
        for (int32_t i = 0; i < shape.n[group]; i++) {
            const bool shrink = group > 0 && i == 0;
            block(f, dml_arena_printf(f->m->r->arena, "layer%d.%d", group + 1, i),
                  shape.width << group, shrink ? 2 : 1, shape.bottleneck,
                  shrink || (shape.bottleneck && i == 0));
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
