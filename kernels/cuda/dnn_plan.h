/* kernels/cuda/dnn_plan.h - which of cuDNN's engines computes an operation.
 *
 * The library lists engines for a graph, the one it expects to be fastest first.  A plan is the first of the
 * list that the rules allow, that the library can build, and whose workspace fits: a function of operation,
 * library version and kind of GPU.  Its engine and knobs are a choice, from which another process makes the
 * same plan without asking.
 *
 * For what GPU: the one of a handle, or one that is described by its properties alone (cuDNN >= 9.8), so that a test
 * plans without a GPU.
 */
#ifndef DML_KERNELS_CUDA_DNN_PLAN_H
#define DML_KERNELS_CUDA_DNN_PLAN_H

#include "kernels/cuda/dnn_book.h"
#include "kernels/cuda/dnn_graph.h"

/* One of the two. */
typedef struct dml_cudnn_target {
    cudnnHandle_t handle;            /* borrowed while plans are made and run */
    cudnnBackendDescriptor_t device; /* CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, borrowed */
} dml_cudnn_target;

typedef struct dml_cudnn_rules {
    bool tf32;               /* dml_cudnn_config */
    int64_t workspace_bytes; /* no engine that wants more */
} dml_cudnn_rules;

/* The largest workspace of a run.  Most tensor-core engines want little; that for the TF32 dw of ResNet-50's stem wants
 * 1 GiB at 256 samples, and under 512 MiB the library has none but FMA kernels.  Engines for F32 without TF32 may
 * want copies of the tensors in another layout. */
static const int64_t DML_CUDNN_WORKSPACE = INT64_C(2) << 30;

typedef struct dml_cudnn_ready {
    dml_cudnn_graph graph; /* owned, as the next two */
    cudnnBackendDescriptor_t operation_graph,
        plan; /* plan: CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR */
    int64_t workspace_bytes;
    dml_cudnn_choice choice;
} dml_cudnn_ready;

/* Whether the rules let an engine with these notes compute an operation of `dtype`.  Never: bits that may
 * differ from run to run, rounding sums or factors to less than the tensors' type, and FFT or Winograd, whose errors
 * are of another kind.  ResNet-50 in BF16 loses nothing by it: cuDNN 9.19 lists deterministic engines first for all of
 * its convolutions on an H200, at 64 to 256 samples. */
bool dml_cudnn_allowed(const dml_cudnn_rules *rules, int32_t dtype,
                       const cudnnBackendNumericalNote_t *notes, int64_t n);

/* wanted: NULL asks the library.
 * DML_ERR_UNAVAILABLE  no engine does it; or the wanted one does not, here */
dml_err dml_cudnn_ready_init(dml_cudnn_ready *r, const dml_cudnn_target *target,
                             const dml_cudnn_rules *rules, const dml_cudnn_op *op,
                             const dml_cudnn_choice *wanted);
void dml_cudnn_ready_free(dml_cudnn_ready *r);

/* Enqueues it on the handle's stream. */
dml_err dml_cudnn_ready_run(const dml_cudnn_ready *r, cudnnHandle_t handle,
                            void *const memory[DML_CUDNN_SLOTS], void *workspace);

#endif
