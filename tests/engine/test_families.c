/* Model families against torchvision's: parameters, multiply-adds, names, shapes, places of the strides.
 *
 * Parameter counts are those torchvision prints for its models; multiply-adds of a 224 x 224 image are the
 * "GFLOPS" of its model pages, here of convolutions and linear layers alone.
 */
#include "tests/support/test.h"

#include "engine/model.h"
#include "tests/engine/spec_file.h"

typedef struct family {
    dml_spec spec;
    dml_arena arena;
    dml_model model;
} family;

static void open_family(family *f, const char *text)
{
    *f = (family){0};
    DML_CHECK_OK(spec_of(text, NULL, 0, &f->spec));
    DML_CHECK_OK(dml_model_make(&f->spec, &f->arena, &f->model));
}

static void close_family(family *f)
{
    dml_arena_free(&f->arena);
    dml_spec_free(&f->spec);
}

static const dml_layer *layer(const family *f, const char *name)
{
    for (int32_t i = 0; i < f->model.n_layers; i++)
        if (strcmp(f->model.layer[i].spec->name, name) == 0) return &f->model.layer[i];
    fail_msg("no layer '%s'", name);
    return NULL;
}

static int64_t multiply_adds(const family *f)
{
    int64_t n = 0;
    for (int32_t i = 0; i < f->model.n_layers; i++) {
        const dml_layer_kind kind = f->model.layer[i].spec->kind;
        if (kind == DML_LAYER_CONV2D || kind == DML_LAYER_LINEAR)
            n += f->model.layer[i].flops[0] / 2;
    }
    return n;
}

static void parameters_and_work_are_torchvisions(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        int64_t parameters;
        double gflops; /* 10^9 multiply-adds, to three decimals */
    } known[] = {
        {"type: resnet, depth: 18", 11689512, 1.814},
        {"type: resnet, depth: 34", 21797672, 3.664},
        {"type: resnet, depth: 50", 25557032, 4.089},
        {"type: resnet, depth: 101", 44549160, 7.801},
        {"type: resnet, depth: 152", 60192808, 11.514},
        {"type: vgg, depth: 11, batch_norm: {enabled: false}", 132863336, 7.609},
        {"type: vgg, depth: 11", 132868840, 7.609},
        {"type: vgg, depth: 13, batch_norm: {enabled: false}", 133047848, 11.308},
        {"type: vgg, depth: 13", 133053736, 11.308},
        {"type: vgg, depth: 16, batch_norm: {enabled: false}", 138357544, 15.47},
        {"type: vgg, depth: 16", 138365992, 15.47},
        {"type: vgg, depth: 19, batch_norm: {enabled: false}", 143667240, 19.632},
        {"type: vgg, depth: 19", 143678248, 19.632},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char text[256];
        snprintf(text, sizeof text,
                 "model: {%s, input: [3, 224, 224], classes: 1000}\ndata: {format: synthetic}\n",
                 known[i].model);
        family f;
        open_family(&f, text);
        DML_CHECK_EQ(known[i].parameters, f.model.param_elems);
        /* whole millions: the pages round to them */
        DML_CHECK_EQ((int64_t)(known[i].gflops * 1e3 + 0.5),
                     (multiply_adds(&f) + 500000) / 1000000);
        close_family(&f);
    }
}

static void expect_shape(const family *f, const char *name, int32_t h, int32_t w, int32_t c)
{
    const dml_shape s = layer(f, name)->out;
    DML_CHECK_EQ(3, s.rank);
    DML_CHECK_EQ(h, s.dim[0]);
    DML_CHECK_EQ(w, s.dim[1]);
    DML_CHECK_EQ(c, s.dim[2]);
}

static void resnet50_halves_in_its_3x3_convolutions(void **state)
{
    (void)state;
    family f;
    open_family(&f, "model: {type: resnet, depth: 50, input: [3, 224, 224], classes: 1000}\n"
                    "data: {format: synthetic}\n");
    DML_CHECK_EQ(DML_STEM_IMAGENET, f.spec.model.family.stem);
    expect_shape(&f, "conv1", 112, 112, 64);
    expect_shape(&f, "maxpool1", 56, 56, 64);
    expect_shape(&f, "layer1.0.conv3", 56, 56, 256);
    expect_shape(&f, "layer1.0.downsample.0", 56, 56, 256);
    expect_shape(&f, "layer2.0.conv1", 56, 56, 128); /* v1 would halve here */
    expect_shape(&f, "layer2.0.conv2", 28, 28, 128);
    expect_shape(&f, "layer2.0.downsample.1", 28, 28, 512);
    expect_shape(&f, "layer3.5.conv3", 14, 14, 1024);
    expect_shape(&f, "layer4.2.relu3", 7, 7, 2048);
    expect_shape(&f, "avgpool1", 1, 1, 2048);
    DML_CHECK_EQ(1000, layer(&f, "fc")->out.dim[0]);
    const dml_conv2d *stem = &layer(&f, "conv1")->spec->conv;
    DML_CHECK(stem->kernel[0] == 7 && stem->stride[1] == 2 && stem->pad[0] == 3);
    const dml_pool2d *pool = &layer(&f, "maxpool1")->pool;
    DML_CHECK(pool->kernel[1] == 3 && pool->stride[0] == 2 && pool->pad[1] == 1);
    close_family(&f);
}

static void the_stem_follows_the_image_unless_it_is_written(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        dml_stem stem;
        int32_t last; /* side of the last group's images */
    } cases[] = {
        {"depth: 18, input: [3, 224, 224]", DML_STEM_IMAGENET, 7},
        {"depth: 18, input: [3, 32, 32]", DML_STEM_CIFAR, 4},
        {"depth: 18, input: [3, 63, 64]", DML_STEM_CIFAR, 8},
        {"depth: 18, input: [3, 64, 64], stem: cifar", DML_STEM_CIFAR, 8},
        {"depth: 50, input: [3, 32, 32], stem: imagenet", DML_STEM_IMAGENET, 1},
        {"depth: 20, input: [3, 64, 64]", DML_STEM_CIFAR, 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "model: {type: resnet, %s}\ndata: {format: synthetic}\n",
                 cases[i].model);
        family f;
        open_family(&f, text);
        DML_CHECK_EQ(cases[i].stem, f.spec.model.family.stem);
        DML_CHECK_EQ(cases[i].last, layer(&f, "avgpool1")->in.dim[0]);
        close_family(&f);
    }
}

static void zero_init_residual_zeroes_the_last_scale_of_each_block(void **state)
{
    (void)state;
    family f;
    open_family(&f, "model: {type: resnet, depth: 50, zero_init_residual: true}\n");
    int32_t zeros = 0;
    for (int32_t p = 0; p < f.model.n_params; p++) {
        const dml_param *param = &f.model.param[p];
        float value[2048];
        if (param->role != DML_PARAM_SCALE) continue;
        DML_CHECK(param->elems <= 2048);
        dml_param_init(&f.spec, param, value);
        const bool last = strstr(param->name, ".bn3.weight") != NULL;
        for (int64_t i = 0; i < param->elems; i++)
            DML_CHECK(value[i] == (last ? 0.0f : 1.0f));
        zeros += last;
    }
    DML_CHECK_EQ(3 + 4 + 6 + 3, zeros);
    close_family(&f);
}

static void vgg_counts_its_places_as_torchvision_does(void **state)
{
    (void)state;
    family f;
    open_family(&f, "model: {type: vgg, depth: 16, input: [3, 224, 224]}\n"
                    "data: {format: synthetic}\n");
    expect_shape(&f, "features.40", 14, 14, 512); /* vgg16_bn's last convolution */
    DML_CHECK(layer(&f, "features.40")->spec->kind == DML_LAYER_CONV2D);
    DML_CHECK(layer(&f, "features.41")->spec->kind == DML_LAYER_BATCH_NORM);
    DML_CHECK_EQ(25088, layer(&f, "classifier.0")->in.dim[0]);
    close_family(&f);
    open_family(&f, "model: {type: vgg, depth: 19, input: [3, 224, 224], "
                    "batch_norm: {enabled: false}}\ndata: {format: synthetic}\n");
    expect_shape(&f, "features.34", 14, 14, 512); /* vgg19's */
    DML_CHECK_EQ(10, layer(&f, "classifier.6")->out.dim[0]);
    close_family(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_and_work_are_torchvisions),
        cmocka_unit_test(resnet50_halves_in_its_3x3_convolutions),
        cmocka_unit_test(the_stem_follows_the_image_unless_it_is_written),
        cmocka_unit_test(zero_init_residual_zeroes_the_last_scale_of_each_block),
        cmocka_unit_test(vgg_counts_its_places_as_torchvision_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
