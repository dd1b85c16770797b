/* kernels/kernels.c - the kernel table, entry by entry. */
#include "kernels/kernels.h"

const char *dml_kernel_name(int32_t kernel)
{
    static const char *const name_of[] = {
#define X(name, args) #name,
        DML_KERNEL_LIST(X)
#undef X
    };
    return kernel >= 0 && kernel < DML_KERNELS ? name_of[kernel] : "unknown kernel";
}

int64_t dml_act_aux_bytes(dml_act act, dml_dtype dtype, int64_t out)
{
    return act == DML_ACT_RELU ? (out + 127) / 128 * 16
                               : (out + 7) / 8 * 8 * dml_dtype_bytes(dtype);
}

bool dml_kernel_here(const dml_kernel_table *table, int32_t kernel)
{
    const bool here[] = {
#define X(name, args) table->name != NULL,
        DML_KERNEL_LIST(X)
#undef X
    };
    return kernel >= 0 && kernel < DML_KERNELS && here[kernel];
}
