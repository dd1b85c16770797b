/* tests/kernels/cuda/dnn_ops.c - the layers of ResNet on ImageNet and CIFAR, VGG and LeNet; then what is odd. */
#include "tests/kernels/cuda/dnn_ops.h"

/* clang-format off */
/*   name                        n    h    w    c    o    kernel  stride  pad     dilation groups */
const dml_cudnn_case dml_cudnn_cases[] = {
    {"ImageNet stem",            32, 224, 224,   3,   64, {{7, 7}, {2, 2}, {3, 3}, {1, 1},  1}},
    {"CIFAR stem",              128,  32,  32,   3,   16, {{3, 3}, {1, 1}, {1, 1}, {1, 1},  1}},
    {"bottleneck, narrow",       32,  56,  56,  64,   64, {{1, 1}, {1, 1}, {0, 0}, {1, 1},  1}},
    {"bottleneck, 3x3",          32,  56,  56,  64,   64, {{3, 3}, {1, 1}, {1, 1}, {1, 1},  1}},
    {"bottleneck, wide",         32,  56,  56,  64,  256, {{1, 1}, {1, 1}, {0, 0}, {1, 1},  1}},
    {"downsampling 3x3",         32,  56,  56, 128,  128, {{3, 3}, {2, 2}, {1, 1}, {1, 1},  1}},
    {"downsampling shortcut",    32,  56,  56, 256,  512, {{1, 1}, {2, 2}, {0, 0}, {1, 1},  1}},
    {"last stage, 3x3",          32,   7,   7, 512,  512, {{3, 3}, {1, 1}, {1, 1}, {1, 1},  1}},
    {"last stage, 1x1",          32,   7,   7, 512, 2048, {{1, 1}, {1, 1}, {0, 0}, {1, 1},  1}},
    {"ResNet-20",                64,  32,  32,  16,   16, {{3, 3}, {1, 1}, {1, 1}, {1, 1},  1}},
    {"VGG",                      64,  16,  16, 128,  256, {{3, 3}, {1, 1}, {1, 1}, {1, 1},  1}},
    {"LeNet",                    64,  28,  28,   1,    6, {{5, 5}, {1, 1}, {2, 2}, {1, 1},  1}},
    {"two groups",                4,   8,   9,  32,   64, {{3, 3}, {1, 1}, {1, 1}, {1, 1},  2}},
    {"depthwise",                 4,   8,   9,  32,   32, {{3, 3}, {1, 1}, {1, 1}, {1, 1}, 32}},
    {"dilated",                   2,  12,  11,  16,   24, {{3, 3}, {1, 1}, {2, 2}, {2, 2},  1}},
    {"odd in every axis",         5,  11,   7,   3,    5, {{2, 3}, {2, 1}, {1, 0}, {1, 2},  1}},
    {"one sample, one output",    1,   3,   5,   2,    1, {{3, 5}, {1, 1}, {0, 0}, {1, 1},  1}},
};
/* clang-format on */
const int32_t dml_cudnn_n_cases = sizeof dml_cudnn_cases / sizeof *dml_cudnn_cases;

static int64_t cells(int64_t in, const dml_conv2d *c, int axis)
{
    return (in + 2 * c->pad[axis] - c->dilation[axis] * (c->kernel[axis] - 1) - 1) /
               c->stride[axis] +
           1;
}

dml_cudnn_op dml_cudnn_case_op(int32_t i, dml_cudnn_kind kind, dml_dtype dtype)
{
    const dml_cudnn_case *c = &dml_cudnn_cases[i];
    return (dml_cudnn_op){.n = c->n,
                          .h = c->h,
                          .w = c->w,
                          .c = c->c,
                          .p = cells(c->h, &c->conv, 0),
                          .q = cells(c->w, &c->conv, 1),
                          .o = c->o,
                          .conv = c->conv,
                          .kind = (int32_t)kind,
                          .dtype = (int32_t)dtype,
                          .bias = kind == DML_CUDNN_CONV_FWD};
}

dml_cudnn_op dml_cudnn_norm_op(dml_cudnn_kind kind, dml_dtype dtype, int64_t n, int64_t h,
                               int64_t w, int64_t c)
{
    return (dml_cudnn_op){
        .n = n, .h = h, .w = w, .c = c, .kind = (int32_t)kind, .dtype = (int32_t)dtype};
}
