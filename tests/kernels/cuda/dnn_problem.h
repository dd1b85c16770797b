/* tests/kernels/cuda/dnn_problem.h - one operation of dnn.h with its tensors on the host and on the device. */
#ifndef DML_TESTS_KERNELS_CUDA_DNN_PROBLEM_H
#define DML_TESTS_KERNELS_CUDA_DNN_PROBLEM_H

#include "tests/kernels/cuda/dnn_ops.h"

extern cudaStream_t dml_dnn_stream; /* made by the program, used by all of these */

#define DML_DNN_CUDA(call) DML_CHECK_EQ(cudaSuccess, call)

typedef struct dml_dnn_problem {
    dml_cudnn_op op;
    int64_t elems[DML_CUDNN_SLOTS]; /* 0: no such tensor */
    float *host[DML_CUDNN_SLOTS];   /* values as its type has them; of outputs, what came back */
    void *device[DML_CUDNN_SLOTS];
    void *workspace;
    float eps;
} dml_dnn_problem;

/* Tensors with data, and the plan by `d` with its workspace.  A failure ends the test. */
void dml_dnn_problem_make(dml_dnn_problem *p, const dml_cudnn_op *op, dml_cudnn *d);
void dml_dnn_problem_unmake(dml_dnn_problem *p);

void dml_dnn_problem_wait(void); /* for all that was enqueued */
void dml_dnn_problem_copy(dml_dnn_problem *p, int slot, bool in);
int64_t dml_dnn_problem_bytes(const dml_dnn_problem *p, int slot);
bool dml_dnn_problem_is_half(const dml_dnn_problem *p, int slot);

/* The slot that the operation writes, the first of them for batch norm. */
dml_cudnn_slot dml_dnn_problem_result(const dml_cudnn_op *op);
/* Half a unit in the last place of 1, in the type of the samples. */
double dml_dnn_problem_rounding(const dml_cudnn_op *op);
/* Brings a convolution's result back and compares it with the definition. */
void dml_dnn_problem_check(dml_dnn_problem *p);

#endif
