/* tests/kernels/cuda/dnn_ops.h - the operations that training builds, and odd ones, for the tests of dnn.h. */
#ifndef DML_TESTS_KERNELS_CUDA_DNN_OPS_H
#define DML_TESTS_KERNELS_CUDA_DNN_OPS_H

#include "kernels/cuda/dnn.h"

/* A convolution as the list has it; every kind and type of it is tested. */
typedef struct dml_cudnn_case {
    const char *name;
    int64_t n, h, w, c, o;
    dml_conv2d conv;
} dml_cudnn_case;

extern const dml_cudnn_case dml_cudnn_cases[];
extern const int32_t dml_cudnn_n_cases;
enum { DML_CUDNN_FIRST_SMALL = 12 }; /* from here on, so small that loops compute them at once */

/* Case `i` as an operation of `kind` and `dtype`.  CONV_FWD with bias. */
dml_cudnn_op dml_cudnn_case_op(int32_t i, dml_cudnn_kind kind, dml_dtype dtype);

/* Batch norm over [n, h, w, c]. */
dml_cudnn_op dml_cudnn_norm_op(dml_cudnn_kind kind, dml_dtype dtype, int64_t n, int64_t h,
                               int64_t w, int64_t c);

#endif
