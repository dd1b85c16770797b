/* tests/support/nets_by_hand.h - small nets that between them have every kind of layer and of wiring. */
#ifndef DML_TEST_NETS_BY_HAND_H
#define DML_TEST_NETS_BY_HAND_H

#include "tests/support/spec_by_hand.h"

/* Linear layers, every curve, dropout; smooth but for the relu. */
static inline const dml_spec *net_mlp(by_hand *h)
{
    by_hand_begin(h, 12, 0, 0, 5);
    by_hand_linear(h, "fc1", 11);
    by_hand_layer(h, DML_LAYER_TANH, "tanh");
    by_hand_linear(h, "fc2", 17)->bias = false;
    by_hand_layer(h, DML_LAYER_GELU, "gelu");
    by_hand_dropout(h, "dropout", 0.3f);
    by_hand_linear(h, "fc3", 9);
    by_hand_layer(h, DML_LAYER_RELU, "relu");
    by_hand_linear(h, "fc4", 5);
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

/* Convolutions with stride, groups, dilation and bias, both pools, both kinds of residual block. */
static inline const dml_spec *net_cnn(by_hand *h)
{
    by_hand_begin(h, 2, 12, 12, 4);
    by_hand_conv(h, "stem", 6, 3, 1, 1)->bias = true;
    by_hand_pool(h, DML_LAYER_MAX_POOL2D, "pool1", 2);
    by_hand_block(h, 0, 6, 1);
    by_hand_residual(h, 1, 6, 1);
    by_hand_residual(h, 2, 8, 2);
    dml_layer_spec *grouped = by_hand_conv(h, "grouped", 8, 2, 1, 1);
    grouped->conv.groups = 2;
    grouped->conv.dilation[0] = grouped->conv.dilation[1] = 2;
    by_hand_pool(h, DML_LAYER_AVG_POOL2D, "pool2", 2)->pool.stride[0] = 1;
    by_hand_dropout(h, "dropout", 0.25f);
    by_hand_layer(h, DML_LAYER_FLATTEN, "flatten");
    by_hand_layer(h, DML_LAYER_TANH, "tanh");
    by_hand_linear(h, "fc", 4);
    return by_hand_end(h, DML_LAYER_MSE);
}

/* Outputs that are their inputs' bytes, a block within a block, empty branches, values read thrice. */
static inline const dml_spec *net_wires(by_hand *h)
{
    by_hand_begin(h, 10, 0, 0, 6);
    by_hand_layer(h, DML_LAYER_DELAY, "delay1");
    by_hand_layer(h, DML_LAYER_FLATTEN, "flatten");
    by_hand_linear(h, "fc1", 10);
    by_hand_layer(h, DML_LAYER_DELAY, "delay2");
    const int32_t block = h->last;
    by_hand_linear(h, "fc2", 10);
    by_hand_layer(h, DML_LAYER_TANH, "tanh1");
    by_hand_add(h, "inner", block);
    by_hand_add(h, "outer", block);
    by_hand_layer(h, DML_LAYER_TANH, "tanh2");
    const int32_t twice = h->last;
    by_hand_layer(h, DML_LAYER_DELAY, "delay3");
    by_hand_add(h, "double", twice);
    const int32_t gate = h->last;
    by_hand_dropout(h, "dropout", 0.2f);
    by_hand_linear(h, "fc3", 10);
    by_hand_layer(h, DML_LAYER_TANH, "tanh3"); /* its gradient is the gate's, too */
    by_hand_add(h, "gated", gate);
    const int32_t fork = h->last;
    by_hand_linear(h, "left", 10);
    by_hand_layer(h, DML_LAYER_TANH, "tanh4");
    const int32_t left = h->last;
    h->last = fork;
    by_hand_linear(h, "right",
                   10); /* its weights still need the gradient that tanh4 could overwrite */
    const int32_t right = h->last;
    h->last = left;
    by_hand_add(h, "forked", right);
    by_hand_layer(h, DML_LAYER_DELAY, "delay4");
    by_hand_linear(h, "fc4", 6);
    return by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
}

typedef const dml_spec *(*net_maker)(by_hand *h);
static const struct {
    const char *name;
    net_maker make;
} nets[] = {{"mlp", net_mlp}, {"cnn", net_cnn}, {"wires", net_wires}};
enum { NETS = sizeof nets / sizeof *nets };

#endif
