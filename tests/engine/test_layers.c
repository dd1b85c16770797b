/* tests/engine/test_layers.c - what each kind refuses, with its name and its place; what it outputs. */
#include "tests/support/test.h"

#include "engine/layers/layer.h"
#include "tests/support/spec_by_hand.h"

/* Ends the model with a loss that fits nothing: whatever comes before must fail first. */
static void refused(by_hand *h, int32_t line, const char *text)
{
    dml_arena arena = {0};
    dml_model model;
    char place[64];
    by_hand_end(h, DML_LAYER_CROSS_ENTROPY);
    DML_CHECK_FAILS(DML_ERR_SPEC, text, dml_model_make(&h->spec, &arena, &model));
    snprintf(place, sizeof place, "by-hand.yaml:%d", line);
    if (!strstr(dml_err_trail(), place)) fail_msg("no '%s' in %s", place, dml_err_trail());
    dml_arena_free(&arena);
}

static void image(by_hand *h)
{
    by_hand_begin(h, 6, 8, 10, 4);
}

static void a_layer_that_does_not_fit_is_named_with_its_place(void **state)
{
    (void)state;
    by_hand h;
    image(&h);
    by_hand_linear(&h, "fc", 4);
    refused(&h, 1,
            "layer 'fc' (linear) reads features, not 6 channels of 8x10: put a flatten before");

    by_hand_begin(&h, 7, 0, 0, 4);
    by_hand_layer(&h, DML_LAYER_TANH, "tanh");
    by_hand_conv(&h, "conv", 4, 3, 1, 1);
    refused(&h, 2, "layer 'conv' (conv2d) reads an image, not 7 features");

    image(&h);
    by_hand_conv(&h, "conv", 4, 11, 1, 0);
    refused(&h, 1, "11x11 kernel that does not fit into 6 channels of 8x10");

    image(&h);
    by_hand_conv(&h, "conv", 9, 3, 1, 0)->conv.groups = 6;
    refused(&h, 1, "cannot cut 6 input and 9 output channels into 6 groups");

    image(&h);
    by_hand_conv(&h, "conv", 9, 3, 0, 0);
    refused(&h, 1, "stride and dilation of at least 1");

    image(&h);
    by_hand_pool(&h, DML_LAYER_MAX_POOL2D, "pool", 9);
    refused(&h, 1, "9x9 window that does not fit");

    image(&h);
    by_hand_pool(&h, DML_LAYER_AVG_POOL2D, "pool", 3)->pool.pad[1] = 2;
    refused(&h, 1, "padding of at most half the kernel 3, not 3 and 2");

    image(&h);
    by_hand_dropout(&h, "dropout", 1.0f);
    refused(&h, 1, "needs a rate of at least 0 and below 1, not 1");

    image(&h);
    by_hand_batch_norm(&h, "bn")->eps = 0;
    refused(&h, 1, "needs eps above 0");

    image(&h);
    by_hand_conv(&h, "conv", 6, 3, 2, 1);
    by_hand_add(&h, "add", -1);
    refused(&h, 2, "cannot add 6 channels of 8x10 of 'the input' to 6 channels of 4x5 of 'conv'");

    image(&h);
    by_hand_layer(&h, DML_LAYER_DELAY, "delay")->ns[2] = -5;
    refused(&h, 1, "cannot take -5 ns");

    image(&h);
    by_hand_layer(&h, DML_LAYER_FLATTEN, "flatten");
    by_hand_linear(&h, "fc", 12);
    refused(&h, 3,
            "layer 'loss' (loss) compares 4 classes, but the layer before it gives 12 features");

    by_hand_begin(&h, 4, 0, 0, 4);
    by_hand_layer(&h, DML_LAYER_MSE, "early");
    refused(&h, 1, "layer 'early' is a loss, and not the last layer");
}

static void a_model_without_a_loss_is_refused(void **state)
{
    (void)state;
    by_hand h;
    dml_arena arena = {0};
    dml_model model;
    by_hand_begin(&h, 4, 0, 0, 4);
    by_hand_linear(&h, "fc", 4);
    DML_CHECK_FAILS(DML_ERR_SPEC, "layer 'fc' is the last layer, and not a loss",
                    dml_model_make(&h.spec, &arena, &model));
    h.layer[0].input = 0;
    DML_CHECK_FAILS(DML_ERR_SPEC, "reads a layer that is not before it",
                    dml_model_make(&h.spec, &arena, &model));
    dml_arena_free(&arena);
}

/* Sizes from PyTorch's documentation of Conv2d and MaxPool2d. */
static void windows_are_counted_as_pytorch_does(void **state)
{
    (void)state;
    DML_CHECK_EQ(28, dml_window_cells(28, 3, 1, 1, 1));
    DML_CHECK_EQ(3, dml_window_cells(7, 2, 2, 0, 1));
    DML_CHECK_EQ(56, dml_window_cells(112, 3, 2, 1, 1));
    DML_CHECK_EQ(112, dml_window_cells(224, 7, 2, 3, 1));
    DML_CHECK_EQ(4, dml_window_cells(8, 3, 1, 0, 2));
    DML_CHECK_EQ(1, dml_window_cells(5, 3, 1, 0, 2));
    DML_CHECK_EQ(0, dml_window_cells(4, 3, 1, 0, 2));
}

static void a_pool_without_a_kernel_takes_the_whole_image(void **state)
{
    (void)state;
    by_hand h;
    dml_arena arena = {0};
    dml_model model;
    image(&h);
    by_hand_pool(&h, DML_LAYER_AVG_POOL2D, "pool", 0);
    by_hand_layer(&h, DML_LAYER_FLATTEN, "flatten");
    by_hand_linear(&h, "fc", 4);
    DML_CHECK_OK(dml_model_make(by_hand_end(&h, DML_LAYER_MSE), &arena, &model));
    DML_CHECK_EQ(8, model.layer[0].pool.kernel[0]);
    DML_CHECK_EQ(10, model.layer[0].pool.kernel[1]);
    DML_CHECK_EQ(6, dml_shape_elems(model.layer[0].out));
    DML_CHECK(model.layer[1].alias);
    dml_arena_free(&arena);
}

static void flatten_moves_bytes_only_when_there_are_channels_and_pixels(void **state)
{
    (void)state;
    const struct {
        int32_t channels, height, width;
        bool alias;
    } cases[] = {
        {6, 8, 10, false}, {1, 8, 10, true}, {6, 1, 1, true}, {6, 1, 2, false}, {5, 0, 0, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        by_hand h;
        dml_arena arena = {0};
        dml_model model;
        by_hand_begin(&h, cases[i].channels, cases[i].height, cases[i].width, 4);
        by_hand_layer(&h, DML_LAYER_FLATTEN, "flatten");
        by_hand_linear(&h, "fc", 4);
        DML_CHECK_OK(dml_model_make(by_hand_end(&h, DML_LAYER_MSE), &arena, &model));
        DML_CHECK_EQ(cases[i].alias, model.layer[0].alias);
        dml_arena_free(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_that_does_not_fit_is_named_with_its_place),
        cmocka_unit_test(a_model_without_a_loss_is_refused),
        cmocka_unit_test(windows_are_counted_as_pytorch_does),
        cmocka_unit_test(a_pool_without_a_kernel_takes_the_whole_image),
        cmocka_unit_test(flatten_moves_bytes_only_when_there_are_channels_and_pixels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
