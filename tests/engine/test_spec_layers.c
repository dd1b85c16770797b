/* Layers as written and as families make them. */
#include "tests/support/test.h"

#include "tests/engine/spec_file.h"

/* "conv2d conv1 <-1 64" per layer: kind, name, input, the other branch of an ADD, width. */
static void describe(const dml_spec *s, char *to, size_t room)
{
    size_t n = 0;
    for (int32_t i = 0; i < s->model.n_layers; i++) {
        const dml_layer_spec *l = &s->model.layers[i];
        n += (size_t)snprintf(to + n, room - n, "%d %s %s <%d", i, dml_layer_kind_name(l->kind),
                              l->name, l->input);
        if (l->kind == DML_LAYER_ADD) n += (size_t)snprintf(to + n, room - n, "+%d", l->with);
        if (l->out) n += (size_t)snprintf(to + n, room - n, " %d", l->out);
        n += (size_t)snprintf(to + n, room - n, "\n");
    }
}

static void check_layers(const char *text, const char *want)
{
    char got[8192] = "";
    dml_spec s;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    describe(&s, got, sizeof got);
    assert_string_equal(want, got);
    dml_spec_free(&s);
}

static void an_mlp_flattens_and_ends_in_the_classes(void **state)
{
    (void)state;
    check_layers("model: {type: mlp, hidden: [64, 32], activation: gelu, dropout: 0.1}\n",
                 "0 flatten flatten1 <-1\n"
                 "1 linear fc1 <0 64\n"
                 "2 gelu gelu1 <1\n"
                 "3 dropout dropout1 <2\n"
                 "4 linear fc2 <3 32\n"
                 "5 gelu gelu2 <4\n"
                 "6 dropout dropout2 <5\n"
                 "7 linear fc3 <6 10\n"
                 "8 cross_entropy loss <7\n");
    check_layers("model: {type: mlp, input: [784], hidden: [8]}\ntraining: {loss: mse}\n",
                 "0 linear fc1 <-1 8\n"
                 "1 relu relu1 <0\n"
                 "2 linear fc2 <1 10\n"
                 "3 mse loss <2\n");
}

static void vgg8_has_three_pairs_of_convolutions_and_two_linear_layers(void **state)
{
    (void)state;
    check_layers("model: {type: vgg}\n", "0 conv2d conv1 <-1 64\n"
                                         "1 batch_norm bn1 <0\n"
                                         "2 relu relu1 <1\n"
                                         "3 conv2d conv2 <2 64\n"
                                         "4 batch_norm bn2 <3\n"
                                         "5 relu relu2 <4\n"
                                         "6 max_pool2d maxpool1 <5\n"
                                         "7 conv2d conv3 <6 128\n"
                                         "8 batch_norm bn3 <7\n"
                                         "9 relu relu3 <8\n"
                                         "10 conv2d conv4 <9 128\n"
                                         "11 batch_norm bn4 <10\n"
                                         "12 relu relu4 <11\n"
                                         "13 max_pool2d maxpool2 <12\n"
                                         "14 conv2d conv5 <13 256\n"
                                         "15 batch_norm bn5 <14\n"
                                         "16 relu relu5 <15\n"
                                         "17 conv2d conv6 <16 256\n"
                                         "18 batch_norm bn6 <17\n"
                                         "19 relu relu6 <18\n"
                                         "20 max_pool2d maxpool3 <19\n"
                                         "21 flatten flatten1 <20\n"
                                         "22 linear fc1 <21 512\n"
                                         "23 relu relu7 <22\n"
                                         "24 dropout dropout1 <23\n"
                                         "25 linear fc2 <24 10\n"
                                         "26 cross_entropy loss <25\n");
    dml_spec s;
    DML_CHECK_OK(spec_of("model: {type: vgg, dropout: 0}\n", NULL, 0, &s));
    DML_CHECK_EQ(26, s.model.n_layers); /* no dropout */
    const dml_layer_spec *conv = &s.model.layers[0], *pool = &s.model.layers[6];
    DML_CHECK(!conv->bias && conv->conv.kernel[0] == 3 && conv->conv.kernel[1] == 3);
    DML_CHECK(conv->conv.pad[0] == 1 && conv->conv.stride[1] == 1 && conv->conv.groups == 1);
    DML_CHECK(conv->conv.dilation[0] == 1 && pool->pool.kernel[0] == 2 &&
              pool->pool.stride[1] == 2);
    DML_CHECK(s.model.layers[22].bias && s.model.layers[1].eps == 1e-5f);
    DML_CHECK(s.model.layers[1].momentum == 0.1f && !s.model.layers[1].per_micro_batch);
    dml_spec_free(&s);
}

static void resnet_projects_its_shortcut_where_the_shape_changes(void **state)
{
    (void)state;
    check_layers("model: {type: resnet, depth: 8}\n", "0 conv2d conv1 <-1 16\n"
                                                      "1 batch_norm bn1 <0\n"
                                                      "2 relu relu1 <1\n"
                                                      "3 conv2d layer1.0.conv1 <2 16\n"
                                                      "4 batch_norm layer1.0.bn1 <3\n"
                                                      "5 relu layer1.0.relu1 <4\n"
                                                      "6 conv2d layer1.0.conv2 <5 16\n"
                                                      "7 batch_norm layer1.0.bn2 <6\n"
                                                      "8 add layer1.0.add <7+2\n"
                                                      "9 relu layer1.0.relu2 <8\n"
                                                      "10 conv2d layer2.0.conv1 <9 32\n"
                                                      "11 batch_norm layer2.0.bn1 <10\n"
                                                      "12 relu layer2.0.relu1 <11\n"
                                                      "13 conv2d layer2.0.conv2 <12 32\n"
                                                      "14 batch_norm layer2.0.bn2 <13\n"
                                                      "15 conv2d layer2.0.downsample.0 <9 32\n"
                                                      "16 batch_norm layer2.0.downsample.1 <15\n"
                                                      "17 add layer2.0.add <14+16\n"
                                                      "18 relu layer2.0.relu2 <17\n"
                                                      "19 conv2d layer3.0.conv1 <18 64\n"
                                                      "20 batch_norm layer3.0.bn1 <19\n"
                                                      "21 relu layer3.0.relu1 <20\n"
                                                      "22 conv2d layer3.0.conv2 <21 64\n"
                                                      "23 batch_norm layer3.0.bn2 <22\n"
                                                      "24 conv2d layer3.0.downsample.0 <18 64\n"
                                                      "25 batch_norm layer3.0.downsample.1 <24\n"
                                                      "26 add layer3.0.add <23+25\n"
                                                      "27 relu layer3.0.relu2 <26\n"
                                                      "28 avg_pool2d avgpool1 <27\n"
                                                      "29 flatten flatten1 <28\n"
                                                      "30 linear fc <29 10\n"
                                                      "31 cross_entropy loss <30\n");
    dml_spec r;
    DML_CHECK_OK(spec_of("model: {type: resnet, depth: 8}\n", NULL, 0, &r));
    static const int32_t halving[] = {10, 15, 19, 24}; /* first of body and of shortcut */
    for (size_t i = 0; i < 4; i++)
        DML_CHECK_EQ(2, r.model.layers[halving[i]].conv.stride[0]);
    DML_CHECK_EQ(1, r.model.layers[3].conv.stride[0]);
    DML_CHECK_EQ(1, r.model.layers[13].conv.stride[1]);
    DML_CHECK_EQ(1, r.model.layers[15].conv.kernel[0]);
    DML_CHECK_EQ(0, r.model.layers[15].conv.pad[0]);
    DML_CHECK_EQ(0, r.model.layers[28].pool.kernel[0]); /* the whole image */
    dml_spec_free(&r);
    static const int32_t depths[] = {20, 32, 44, 56};
    for (size_t i = 0; i < 4; i++) {
        char text[64];
        snprintf(text, sizeof text, "model: {type: resnet, depth: %d}\n", depths[i]);
        dml_spec s;
        DML_CHECK_OK(spec_of(text, NULL, 0, &s));
        int32_t weighty =
            0; /* the depth counts convolutions outside shortcuts, and the last layer */
        for (int32_t l = 0; l < s.model.n_layers; l++)
            weighty += (s.model.layers[l].kind == DML_LAYER_CONV2D ||
                        s.model.layers[l].kind == DML_LAYER_LINEAR) &&
                       !strstr(s.model.layers[l].name, "downsample");
        DML_CHECK_EQ(depths[i], weighty);
        dml_spec_free(&s);
    }
}

static void residual_blocks_nest_and_may_begin_the_model(void **state)
{
    (void)state;
    check_layers("model:\n"
                 "  input: [4]\n"
                 "  layers:\n"
                 "    - residual:\n"
                 "        - residual: {body: [tanh], name: inner}\n"
                 "        - linear: 4\n"
                 "    - residual: {body: [relu], shortcut: [linear: {out: 4, name: side}, gelu]}\n"
                 "    - linear: 10\n",
                 "0 tanh block1.inner.tanh1 <-1\n"
                 "1 add block1.inner.add <0+-1\n"
                 "2 linear block1.fc1 <1 4\n"
                 "3 add block1.add <2+-1\n"
                 "4 relu block2.relu1 <3\n"
                 "5 linear block2.shortcut.side <3 4\n"
                 "6 gelu block2.shortcut.gelu1 <5\n"
                 "7 add block2.add <4+6\n"
                 "8 linear fc1 <7 10\n"
                 "9 cross_entropy loss <8\n");
}

static void options_take_pairs_bare_values_and_names_of_pytorch(void **state)
{
    (void)state;
    static const char text[] =
        "model:\n"
        "  layers:\n"
        "    - Conv2d: {out_channels: 6, kernel_size: [3, 5], stride: [1, 2], padding: [0, 1], "
        "dilation: 2, groups: 3}\n"
        "    - MaxPool2d: [2, 3]\n"
        "    - avg_pool2d: {kernel: 3, stride: 1, padding: 1, count_include_pad: false}\n"
        "    - avg_pool2d\n"
        "    - dropout: {p: 0.3}\n"
        "    - dropout\n"
        "    - delay: {forward: 10ms, weight: 1.5ms}\n"
        "    - delay: 2ms\n"
        "    - linear: {out_features: 10, bias: false}\n";
    dml_spec s;
    DML_CHECK_OK(spec_of(text, NULL, 0, &s));
    const dml_layer_spec *l = s.model.layers;
    DML_CHECK(l[0].out == 6 && l[0].bias && l[0].conv.groups == 3);
    DML_CHECK(l[0].conv.kernel[0] == 3 && l[0].conv.kernel[1] == 5);
    DML_CHECK(l[0].conv.stride[0] == 1 && l[0].conv.stride[1] == 2);
    DML_CHECK(l[0].conv.pad[0] == 0 && l[0].conv.pad[1] == 1 && l[0].conv.dilation[1] == 2);
    DML_CHECK(l[1].pool.kernel[0] == 2 && l[1].pool.stride[1] == 3);
    DML_CHECK(l[2].pool.stride[0] == 1 && l[2].pool.pad[1] == 1 && !l[2].pool.count_include_pad);
    DML_CHECK(l[3].pool.kernel[0] == 0 && l[3].pool.stride[0] == 1 && l[3].pool.count_include_pad);
    DML_CHECK(l[4].rate == 0.3f && l[5].rate == 0.5f);
    DML_CHECK_EQ(10000000, l[6].ns[0]);
    DML_CHECK_EQ(0, l[6].ns[1]);
    DML_CHECK_EQ(1500000, l[6].ns[2]);
    DML_CHECK_EQ(2000000, l[7].ns[2]);
    DML_CHECK(l[8].out == 10 && !l[8].bias);
    DML_CHECK_EQ(3, l[0].place.line);
    DML_CHECK_EQ(7, l[0].place.column);
    dml_spec_free(&s);
}

static void automatic_names_step_around_given_ones(void **state)
{
    (void)state;
    check_layers("model:\n"
                 "  input: [4]\n"
                 "  layers:\n"
                 "    - linear: {out: 4, name: fc2}\n"
                 "    - linear: 4\n"
                 "    - linear: 10\n",
                 "0 linear fc2 <-1 4\n"
                 "1 linear fc3 <0 4\n"
                 "2 linear fc4 <1 10\n"
                 "3 cross_entropy loss <2\n");
}

static void a_layer_is_added_by_its_name_in_the_block_or_in_the_model(void **state)
{
    (void)state;
    check_layers("model:\n"
                 "  input: [4]\n"
                 "  layers:\n"
                 "    - linear: {name: stem, out: 4}\n"
                 "    - residual:\n"
                 "        name: block\n"
                 "        body: [linear: {name: stem, out: 4}, relu, add: stem, add: block.relu1]\n"
                 "    - add: {with: block.stem, name: join}\n"
                 "    - add: stem\n"
                 "    - linear: 10\n",
                 "0 linear stem <-1 4\n"
                 "1 linear block.stem <0 4\n"
                 "2 relu block.relu1 <1\n"
                 "3 add block.add1 <2+1\n"
                 "4 add block.add2 <3+2\n"
                 "5 add block.add <4+0\n"
                 "6 add join <5+1\n"
                 "7 add add2 <6+0\n"
                 "8 linear fc2 <7 10\n"
                 "9 cross_entropy loss <8\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_mlp_flattens_and_ends_in_the_classes),
        cmocka_unit_test(vgg8_has_three_pairs_of_convolutions_and_two_linear_layers),
        cmocka_unit_test(resnet_projects_its_shortcut_where_the_shape_changes),
        cmocka_unit_test(residual_blocks_nest_and_may_begin_the_model),
        cmocka_unit_test(a_layer_is_added_by_its_name_in_the_block_or_in_the_model),
        cmocka_unit_test(options_take_pairs_bare_values_and_names_of_pytorch),
        cmocka_unit_test(automatic_names_step_around_given_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
