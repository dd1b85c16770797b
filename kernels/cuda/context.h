/* kernels/cuda/context.h - inside the CUDA module: what a kernel context holds, and how entries launch.
 *
 * A context belongs to one queue, so everything in it is used in the order of one stream.
 */
#ifndef DML_KERNELS_CUDA_CONTEXT_H
#define DML_KERNELS_CUDA_CONTEXT_H

#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/dnn.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launchers.h"
#include "kernels/kernels.h"

typedef struct dml_cuda_scratch_block dml_cuda_scratch_block;

struct dml_kctx {
    dml_device *device;
    dml_queue *queue;
    cudaStream_t stream;
    dml_kctx_config config;
    dml_gemm *gemm;                  /* owned */
    dml_cudnn *dnn;                  /* owned; NULL until the first convolution */
    bool library_norm;               /* batch norm by it (norm_cuda.h) */
    dml_cu_step *step;               /* owned device memory: what kernels read of the step */
    dml_cuda_scratch_block *scratch; /* owned, newest and largest first */
    bool sealed;
};

/* `bytes` of device memory, 256-byte aligned, that the next kernels of this context's queue may use until the
 * next entry is called: all entries share it.  Grown at the first call that asks for more; a block that was
 * too small stays until the context is closed, since a captured kernel may name it.  NULL under plan_only.
 *
 * DML_ERR_BUG  the context is sealed and has less; DML_ERR_NOMEM */
dml_err dml_cuda_scratch(dml_kctx *k, const char *kernel, int64_t bytes, void **out);

/* A launcher's status as our error, naming the kernel and the queue. */
dml_err dml_cuda_launched(const dml_kctx *k, cudaError_t status, const char *file, int line,
                          const char *kernel);

/* What an entry ends with: the launch, unless the context only plans. */
#define DML_LAUNCHED(k, launch)               \
    return (k)->config.plan_only ? DML_ERR_OK \
                                 : dml_cuda_launched((k), (launch), __FILE__, __LINE__, __func__)

/* The same in the middle of an entry. */
#define DML_LAUNCH(k, launch)                                                        \
    do {                                                                             \
        if (!(k)->config.plan_only)                                                  \
            DML_TRY(dml_cuda_launched((k), (launch), __FILE__, __LINE__, __func__)); \
    } while (0)

#endif
