/* kernels/tensor.c - element types and tensor views. */
#include "kernels/tensor.h"

#include "engine/base/err.h"

int64_t dml_dtype_bytes(dml_dtype dtype)
{
    static const int8_t bytes_of[] = {
#define X(name, bytes) bytes,
        DML_DTYPE_LIST(X)
#undef X
    };
    DML_ASSERT((size_t)dtype < sizeof bytes_of);
    return bytes_of[dtype];
}

const char *dml_dtype_name(dml_dtype dtype)
{
    static const char *const name_of[] = {
#define X(name, bytes) #name,
        DML_DTYPE_LIST(X)
#undef X
    };
    DML_ASSERT((size_t)dtype < sizeof name_of / sizeof *name_of);
    return name_of[dtype];
}

dml_tensor dml_tensor_of(void *data, dml_dtype dtype, int32_t rank, const int64_t dim[])
{
    DML_ASSERT_OP(rank, >=, 1);
    DML_ASSERT_OP(rank, <=, DML_MAX_RANK);
    dml_tensor t = {.data = data, .dtype = dtype, .rank = rank};
    for (int32_t i = 0; i < DML_MAX_RANK; i++)
        t.dim[i] = i < rank ? dim[i] : 1;
    return t;
}
