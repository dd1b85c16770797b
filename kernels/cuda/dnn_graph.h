/* kernels/cuda/dnn_graph.h - an operation as descriptors of cuDNN's graph API.
 *
 * Needs neither a handle nor a GPU: the library checks shapes, strides and types when it finalises these, so
 * a test proves every graph anywhere.
 */
#ifndef DML_KERNELS_CUDA_DNN_GRAPH_H
#define DML_KERNELS_CUDA_DNN_GRAPH_H

#include "kernels/cuda/dnn.h"

#include <cudnn.h>

enum { DML_CUDNN_MAX_DESCRIPTORS = 32 };

typedef struct dml_cudnn_graph {
    cudnnBackendDescriptor_t made[DML_CUDNN_MAX_DESCRIPTORS]; /* owned, each after those it names */
    int32_t n_made;
    cudnnBackendDescriptor_t operation[2]; /* among them: what is computed, in order */
    int32_t n_operations;
    dml_cudnn_slot
        slot[DML_CUDNN_SLOTS]; /* the tensors that a run binds to memory, by uid slot + 1 */
    int32_t n_slots;
} dml_cudnn_graph;

/* DML_ERR_BUG  the library refuses a shape, in its own words */
dml_err dml_cudnn_graph_init(dml_cudnn_graph *g, const dml_cudnn_op *op);
void dml_cudnn_graph_free(dml_cudnn_graph *g);

/* One descriptor with all its attributes, finalised; owned by the caller. */
typedef struct dml_cudnn_attribute {
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t n;
    const void *values; /* [n] */
} dml_cudnn_attribute;

dml_err dml_cudnn_describe(cudnnBackendDescriptorType_t type, const dml_cudnn_attribute *attributes,
                           int32_t n, cudnnBackendDescriptor_t *out);

/* DML_ERR_OK, or a trail of the call, the status and the library's newest message:
 * UNAVAILABLE what it does not support, NOMEM, BUG what it calls a bad parameter, PEER the rest. */
dml_err dml_cudnn_status(cudnnStatus_t status, const char *file, int line, const char *call);

#define DML_CUDNN(call, args) dml_cudnn_status(call args, __FILE__, __LINE__, #call)

#endif
