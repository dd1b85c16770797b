/* tests/support/spec_by_hand.h - specs made in C, so that a test of models needs no YAML.
 *
 *   by_hand h;
 *   by_hand_begin(&h, 1, 28, 28, 10);          channels, height, width, classes
 *   by_hand_conv(&h, "conv1", 8, 3, 1, 1);
 *   by_hand_layer(&h, DML_LAYER_RELU, "relu1");
 *   ...
 *   const dml_spec *spec = by_hand_end(&h, DML_LAYER_CROSS_ENTROPY);
 *
 * Every layer reads the one before it; change `h.last` to branch.  Layer i stands on line i + 1 of
 * "by-hand.yaml".
 */
#ifndef DML_TEST_SPEC_BY_HAND_H
#define DML_TEST_SPEC_BY_HAND_H

#include "engine/spec_read.h"

#include <stdio.h>
#include <string.h>

enum { BY_HAND_LAYERS = 256, BY_HAND_NAME = 24 };

typedef struct by_hand {
    dml_spec spec;
    dml_layer_spec layer[BY_HAND_LAYERS];
    char name[BY_HAND_LAYERS][BY_HAND_NAME];
    int32_t n, last;
} by_hand;

/* What complaints are shown with: no text, so a complaint is one line. */
static inline const void *by_hand_source(void)
{
    static const dml_spec_source source = {.text = {.file = "by-hand.yaml"}};
    return &source;
}

/* Two micro-batches of three samples; the fields are there to be changed. */
static inline void by_hand_begin(by_hand *h, int32_t channels, int32_t height, int32_t width,
                                 int32_t classes)
{
    memset(h, 0, sizeof *h);
    h->last = -1;
    dml_spec *s = &h->spec;
    s->source = by_hand_source();
    s->run.seed = 1234;
    s->model.input_rank = height > 0 ? 3 : 1;
    s->model.input[0] = channels;
    s->model.input[1] = height;
    s->model.input[2] = width;
    s->model.classes = classes;
    s->model.layers = h->layer;
    s->training.micro_batch_size = 3;
    s->training.num_microbatches = 2;
    s->training.global_batch_size = 6;
    s->optimizer.lr = 0.1f;
    s->optimizer.momentum = 0.9f;
    s->parallelism.timeout_ns = INT64_C(60000000000);
}

static inline dml_layer_spec *by_hand_layer(by_hand *h, dml_layer_kind kind, const char *name)
{
    dml_layer_spec *l = &h->layer[h->n];
    snprintf(h->name[h->n], BY_HAND_NAME, "%s", name);
    *l = (dml_layer_spec){
        .kind = kind,
        .name = h->name[h->n],
        .input = h->last,
        .with = -1,
        .place = {.file = "by-hand.yaml", .line = h->n + 1, .column = 3},
    };
    h->last = h->n++;
    h->spec.model.n_layers = h->n;
    return l;
}

static inline dml_layer_spec *by_hand_linear(by_hand *h, const char *name, int32_t out)
{
    dml_layer_spec *l = by_hand_layer(h, DML_LAYER_LINEAR, name);
    l->out = out;
    l->bias = true;
    return l;
}

/* Without bias, as before a batch norm. */
static inline dml_layer_spec *by_hand_conv(by_hand *h, const char *name, int32_t out,
                                           int32_t kernel, int32_t stride, int32_t pad)
{
    dml_layer_spec *l = by_hand_layer(h, DML_LAYER_CONV2D, name);
    l->out = out;
    l->conv = (dml_conv2d){{kernel, kernel}, {stride, stride}, {pad, pad}, {1, 1}, 1};
    return l;
}

static inline dml_layer_spec *by_hand_batch_norm(by_hand *h, const char *name)
{
    dml_layer_spec *l = by_hand_layer(h, DML_LAYER_BATCH_NORM, name);
    l->eps = 1e-5f;
    l->momentum = 0.1f;
    return l;
}

static inline dml_layer_spec *by_hand_pool(by_hand *h, dml_layer_kind kind, const char *name,
                                           int32_t kernel)
{
    dml_layer_spec *l = by_hand_layer(h, kind, name);
    l->pool = (dml_pool2d){{kernel, kernel}, {kernel, kernel}, {0, 0}, true};
    return l;
}

static inline dml_layer_spec *by_hand_dropout(by_hand *h, const char *name, float rate)
{
    dml_layer_spec *l = by_hand_layer(h, DML_LAYER_DROPOUT, name);
    l->rate = rate;
    return l;
}

static inline dml_layer_spec *by_hand_add(by_hand *h, const char *name, int32_t with)
{
    dml_layer_spec *l = by_hand_layer(h, DML_LAYER_ADD, name);
    l->with = with;
    return l;
}

static inline const dml_spec *by_hand_end(by_hand *h, dml_layer_kind loss)
{
    by_hand_layer(h, loss, "loss");
    return &h->spec;
}

/* conv3x3, batch norm, relu, numbered. */
static inline void by_hand_block(by_hand *h, int32_t number, int32_t out, int32_t stride)
{
    char name[BY_HAND_NAME];
    snprintf(name, sizeof name, "conv%d", number);
    by_hand_conv(h, name, out, 3, stride, 1);
    snprintf(name, sizeof name, "bn%d", number);
    by_hand_batch_norm(h, name);
    snprintf(name, sizeof name, "relu%d", number);
    by_hand_layer(h, DML_LAYER_RELU, name);
}

/* 784 - 1024 - 1024 - 10, relu. */
static inline const dml_spec *by_hand_mlp(by_hand *h)
{
    by_hand_begin(h, 784, 0, 0, 10);
    by_hand_linear(h, "fc1", 1024);
    by_hand_layer(h, DML_LAYER_RELU, "relu1");
    by_hand_linear(h, "fc2", 1024);
    by_hand_layer(h, DML_LAYER_RELU, "relu2");
    by_hand_linear(h, "fc3", 10);
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

/* VGG-8 for 28x28x1. */
static inline const dml_spec *by_hand_vgg8(by_hand *h)
{
    by_hand_begin(h, 1, 28, 28, 10);
    for (int32_t i = 1; i <= 6; i++) {
        by_hand_block(h, i, 64 << (i - 1) / 2, 1);
        char name[BY_HAND_NAME];
        snprintf(name, sizeof name, "pool%d", i / 2);
        if (i % 2 == 0) by_hand_pool(h, DML_LAYER_MAX_POOL2D, name, 2);
    }
    by_hand_layer(h, DML_LAYER_FLATTEN, "flatten");
    by_hand_linear(h, "fc1", 512);
    by_hand_layer(h, DML_LAYER_RELU, "relu7");
    by_hand_dropout(h, "dropout", 0.5f);
    by_hand_linear(h, "fc2", 10);
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

/* A basic block of a ResNet: a projection on the shortcut where the shape changes. */
static inline void by_hand_residual(by_hand *h, int32_t number, int32_t out, int32_t stride)
{
    const int32_t from = h->last;
    const bool project = stride != 1 || number == 0;
    char name[6][BY_HAND_NAME];
    static const char *const part[] = {"conv1", "bn1", "relu1", "conv2", "bn2", "add"};
    for (int i = 0; i < 6; i++)
        snprintf(name[i], BY_HAND_NAME, "block%d.%s", number, part[i]);
    by_hand_conv(h, name[0], out, 3, stride, 1);
    by_hand_batch_norm(h, name[1]);
    by_hand_layer(h, DML_LAYER_RELU, name[2]);
    by_hand_conv(h, name[3], out, 3, 1, 1);
    by_hand_batch_norm(h, name[4]);
    const int32_t body = h->last;
    int32_t with = from;
    if (project) {
        char conv[BY_HAND_NAME], norm[BY_HAND_NAME];
        snprintf(conv, sizeof conv, "block%d.short", number);
        snprintf(norm, sizeof norm, "block%d.shortbn", number);
        h->last = from;
        by_hand_conv(h, conv, out, 1, stride, 0);
        by_hand_batch_norm(h, norm);
        with = h->last;
    }
    h->last = body;
    by_hand_add(h, name[5], with);
    snprintf(name[0], BY_HAND_NAME, "block%d.relu2", number);
    by_hand_layer(h, DML_LAYER_RELU, name[0]);
}

/* He's ResNet for CIFAR, 6 n + 2 layers deep. */
static inline const dml_spec *by_hand_resnet(by_hand *h, int32_t channels, int32_t n)
{
    by_hand_begin(h, channels, 32, 32, 10);
    by_hand_block(h, 0, 16, 1);
    for (int32_t b = 0; b < 3 * n; b++)
        by_hand_residual(h, b + 1, 16 << b / n, b > 0 && b % n == 0 ? 2 : 1);
    by_hand_pool(h, DML_LAYER_AVG_POOL2D, "pool", 0);
    by_hand_layer(h, DML_LAYER_FLATTEN, "flatten");
    by_hand_linear(h, "fc", 10);
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

#endif
