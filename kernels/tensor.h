/* kernels/tensor.h - a dense row-major view of device memory.  Never owns.
 *
 * Images are [n, height, width, channels] (NHWC): as fast as a library's blocked format on CPU, what
 * tensor cores want on GPU.  Weights are as PyTorch stores them: linear [out, in], convolution
 * [out, in / groups, kernel_h, kernel_w].
 */
#ifndef DML_KERNELS_TENSOR_H
#define DML_KERNELS_TENSOR_H

#include <stdint.h>

/* clang-format off */
/*    name  bytes                                       */
#define DML_DTYPE_LIST(X)                                  \
    X(F32,  4)                                             \
    X(F64,  8) /* loss sums, partial norms              */ \
    X(I64,  8) /* exact accumulators                    */ \
    X(I32,  4) /* labels, counts, indices               */ \
    X(U32,  4) /* float bit patterns under max          */ \
    X(U8,   1)                                             \
    X(BF16, 2) /* activations under precision bf16      */ \
    X(F16,  2) /* activations under precision fp16      */
/* clang-format on */
typedef enum dml_dtype {
#define X(name, bytes) DML_##name,
    DML_DTYPE_LIST(X)
#undef X
} dml_dtype;

enum { DML_MAX_RANK = 4 };

typedef struct dml_tensor {
    void *data; /* device memory, borrowed */
    dml_dtype dtype;
    int32_t rank;              /* 1 .. DML_MAX_RANK */
    int64_t dim[DML_MAX_RANK]; /* unused dims are 1 */
} dml_tensor;

int64_t dml_dtype_bytes(dml_dtype dtype);
const char *dml_dtype_name(dml_dtype dtype);

static inline int64_t dml_tensor_elems(const dml_tensor *t)
{
    int64_t n = 1;
    for (int32_t i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

static inline int64_t dml_tensor_bytes(const dml_tensor *t)
{
    return dml_tensor_elems(t) * dml_dtype_bytes(t->dtype);
}

/* Elements of one row: all dims but the first. */
static inline int64_t dml_tensor_row_elems(const dml_tensor *t)
{
    int64_t n = 1;
    for (int32_t i = 1; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

dml_tensor dml_tensor_of(void *data, dml_dtype dtype, int32_t rank, const int64_t dim[]);

#endif
