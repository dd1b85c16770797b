/* kernels/cpu/dnn_api.h - what differs between oneDNN 2 and 3, behind a few functions.
 *
 * Version 3 removed the operation descriptors and made memory descriptors opaque.  dnn_v2.c and
 * dnn_v3.c each implement this header; CMake takes the one that the library's header asks for.
 */
#ifndef DML_KERNELS_CPU_DNN_API_H
#define DML_KERNELS_CPU_DNN_API_H

#include "kernels/cpu/dnn.h"

/* A tensor by oneDNN's logical dims: [rows, columns], or [n, c, h, w] whatever lies in memory. */
typedef struct dml_dnn_desc {
    int ndims; /* 0: takes no part */
    dnnl_dims_t dims, strides;
    dnnl_data_type_t type;
    bool any; /* the primitive chooses the format */
} dml_dnn_desc;

/* The window of a convolution in oneDNN's terms: dilation counts from 0. */
typedef struct dml_dnn_window {
    dnnl_dims_t strides, dilates, pad;
} dml_dnn_window;

/* A primitive descriptor for the tensors `desc` by role.  `w_like`: the memory whose format w has,
 * or NULL.  Statuses are the library's. */
dnnl_status_t dml_dnn_describe(const dml_dnn *dnn, dml_dnn_kind kind,
                               const dml_dnn_desc desc[DML_DNN_ROLES], const dml_dnn_window *window,
                               dnnl_memory_t w_like, dnnl_primitive_desc_t *out);

/* dst = result + dst, as the next of `ops`. */
dnnl_status_t dml_dnn_append_sum(dnnl_post_ops_t ops);

/* Memory objects without data: of argument `arg` of a primitive, and of a described tensor. */
dnnl_status_t dml_dnn_memory_of(const dml_dnn *dnn, const_dnnl_primitive_desc_t of, int arg,
                                dnnl_memory_t *out);
dnnl_status_t dml_dnn_memory(const dml_dnn *dnn, const dml_dnn_desc *desc, dnnl_memory_t *out);

int64_t dml_dnn_memory_bytes(dnnl_memory_t memory);
bool dml_dnn_memory_equal(dnnl_memory_t a, dnnl_memory_t b);

/* A primitive descriptor that copies `from` to `to`. */
dnnl_status_t dml_dnn_describe_reorder(const dml_dnn *dnn, dnnl_memory_t from, dnnl_memory_t to,
                                       dnnl_primitive_desc_t *out);

#endif
