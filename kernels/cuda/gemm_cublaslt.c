/* kernels/cuda/gemm_cublaslt.c - cuBLASLt behind gemm.h.
 *
 * cuBLASLt counts column-major, where a row-major matrix is its own transpose.  So the product is asked for as
 *
 *   c^T [n, m] = op(b)^T [n, k]  op(a)^T [k, m]
 *
 * and the bias, one number a row of c^T, is its epilogue.  Plans are found again by shape in a small list; the
 * shapes of a training step are few and known before step 0.
 *
 * The algorithm is the heuristic's first for (shape, device, library version): a pure function of them, the
 * same on every equal worker.
 */
#include "kernels/cuda/gemm.h"

#include "kernels/cuda/device_cuda.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE_BYTES = 32 << 20 }; /* cuBLAS's own default on Hopper */

typedef struct plan {
    struct plan *next;
    dml_gemm_shape shape;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t first, second, result; /* column-major: b, a, c */
    cublasLtMatmulAlgo_t algo;
} plan;

struct dml_gemm {
    cublasLtHandle_t library;
    void *workspace;
    plan *plans; /* owned */
    bool deterministic, sealed;
};

static dml_err check(cublasStatus_t status, int line, const char *call)
{
    if (status == CUBLAS_STATUS_SUCCESS) return DML_ERR_OK;
    dml_err err = DML_ERR_PEER;
    if (status == CUBLAS_STATUS_NOT_INITIALIZED || status == CUBLAS_STATUS_NOT_SUPPORTED ||
        status == CUBLAS_STATUS_ARCH_MISMATCH)
        err = DML_ERR_UNAVAILABLE;
    if (status == CUBLAS_STATUS_ALLOC_FAILED) err = DML_ERR_NOMEM;
    if (status == CUBLAS_STATUS_INVALID_VALUE) err = DML_ERR_BUG;
    return dml_err_set(err, __FILE__, line, "%s: %s (%s)", call, cublasLtGetStatusString(status),
                       cublasLtGetStatusName(status));
}

#define CUBLAS(call, args) DML_TRY(check(call args, __LINE__, #call))

dml_err dml_gemm_open(bool deterministic, dml_gemm **out)
{
    dml_gemm *g = calloc(1, sizeof *g);
    if (!g) DML_FAIL(DML_ERR_NOMEM, "no memory for a handle of cuBLASLt");
    g->deterministic = deterministic;
    dml_err err = check(cublasLtCreate(&g->library), __LINE__, "cublasLtCreate");
    if (err != DML_ERR_OK) goto fail_create;
    err = DML_CUDA(cudaMalloc, (&g->workspace, WORKSPACE_BYTES), "%d bytes of cuBLASLt workspace",
                   WORKSPACE_BYTES);
    if (err != DML_ERR_OK) goto fail_workspace;
    *out = g;
    return DML_ERR_OK;
fail_workspace:
    cublasLtDestroy(g->library);
fail_create:
    free(g);
    return err;
}

static void free_plan(plan *p)
{
    if (p->product) cublasLtMatmulDescDestroy(p->product);
    if (p->first) cublasLtMatrixLayoutDestroy(p->first);
    if (p->second) cublasLtMatrixLayoutDestroy(p->second);
    if (p->result) cublasLtMatrixLayoutDestroy(p->result);
    free(p);
}

void dml_gemm_close(dml_gemm *g)
{
    if (!g) return;
    while (g->plans) {
        plan *next = g->plans->next;
        free_plan(g->plans);
        g->plans = next;
    }
    cudaFree(g->workspace);
    cublasLtDestroy(g->library);
    free(g);
}

void dml_gemm_seal(dml_gemm *g)
{
    g->sealed = true;
}

/* The stored matrix [rows, cols] row-major, seen column-major: cols x rows, leading dimension cols. */
static dml_err layout(cublasLtMatrixLayout_t *out, int64_t rows, int64_t cols)
{
    CUBLAS(cublasLtMatrixLayoutCreate, (out, CUDA_R_32F, (uint64_t)cols, (uint64_t)rows, cols));
    return DML_ERR_OK;
}

static dml_err describe(const dml_gemm *g, plan *p)
{
    const dml_gemm_shape *s = &p->shape;
    const cublasComputeType_t compute =
        g->deterministic ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
    const cublasOperation_t first = s->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = s->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue =
        s->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    CUBLAS(cublasLtMatmulDescCreate, (&p->product, compute, CUDA_R_32F));
    CUBLAS(cublasLtMatmulDescSetAttribute,
           (p->product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
    CUBLAS(cublasLtMatmulDescSetAttribute,
           (p->product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
    CUBLAS(cublasLtMatmulDescSetAttribute,
           (p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    DML_TRY(layout(&p->first, s->b_transposed ? s->n : s->k, s->b_transposed ? s->k : s->n));
    DML_TRY(layout(&p->second, s->a_transposed ? s->k : s->m, s->a_transposed ? s->m : s->k));
    return layout(&p->result, s->m, s->n);
}

static dml_err choose(const dml_gemm *g, plan *p)
{
    static const cublasLtMatmulPreferenceAttributes_t align[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint64_t workspace = WORKSPACE_BYTES;
    const uint32_t whole_k = CUBLASLT_REDUCTION_SCHEME_NONE, align_bytes = DML_GEMM_ALIGN;
    cublasLtMatmulPreference_t wish;
    CUBLAS(cublasLtMatmulPreferenceCreate, (&wish));
    cublasStatus_t status = cublasLtMatmulPreferenceSetAttribute(
        wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    if (status == CUBLAS_STATUS_SUCCESS && g->deterministic)
        status = cublasLtMatmulPreferenceSetAttribute(
            wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole_k, sizeof whole_k);
    for (size_t i = 0; i < sizeof align / sizeof *align && status == CUBLAS_STATUS_SUCCESS; i++)
        status =
            cublasLtMatmulPreferenceSetAttribute(wish, align[i], &align_bytes, sizeof align_bytes);
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulAlgoGetHeuristic(g->library, p->product, p->first, p->second,
                                                p->result, p->result, wish, 1, &best, &found);
    cublasLtMatmulPreferenceDestroy(wish);
    DML_TRY(check(status, __LINE__, "cublasLtMatmulAlgoGetHeuristic"));
    if (found < 1)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cuBLASLt has no product of [%lld, %lld] by [%lld, %lld]",
                 (long long)p->shape.m, (long long)p->shape.k, (long long)p->shape.k,
                 (long long)p->shape.n);
    p->algo = best.algo;
    return DML_ERR_OK;
}

static bool same(const dml_gemm_shape *a, const dml_gemm_shape *b)
{
    return a->m == b->m && a->n == b->n && a->k == b->k && a->a_transposed == b->a_transposed &&
           a->b_transposed == b->b_transposed && a->bias == b->bias;
}

static dml_err find_plan(dml_gemm *g, const dml_gemm_shape *shape, plan **out)
{
    for (plan *p = g->plans; p; p = p->next)
        if (same(&p->shape, shape)) {
            *out = p;
            return DML_ERR_OK;
        }
    if (g->sealed)
        DML_FAIL(DML_ERR_BUG, "a product of [%lld, %lld] by [%lld, %lld] was not planned",
                 (long long)shape->m, (long long)shape->k, (long long)shape->k,
                 (long long)shape->n);
    plan *p = calloc(1, sizeof *p);
    if (!p) DML_FAIL(DML_ERR_NOMEM, "no memory for a plan of cuBLASLt");
    p->shape = *shape;
    dml_err err = describe(g, p);
    if (err == DML_ERR_OK) err = choose(g, p);
    if (err != DML_ERR_OK) {
        free_plan(p);
        return err;
    }
    p->next = g->plans;
    g->plans = *out = p;
    return DML_ERR_OK;
}

dml_err dml_gemm_run(dml_gemm *g, const dml_gemm_shape *shape, float *c, const float *a,
                     const float *b, const float *bias, cudaStream_t stream)
{
    static const float one = 1.0f, zero = 0.0f;
    plan *p = NULL;
    DML_TRY(find_plan(g, shape, &p));
    if (shape->bias)
        CUBLAS(cublasLtMatmulDescSetAttribute,
               (p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    CUBLAS(cublasLtMatmul,
           (g->library, p->product, &one, b, p->first, a, p->second, &zero, c, p->result, c,
            p->result, &p->algo, g->workspace, WORKSPACE_BYTES, stream));
    return DML_ERR_OK;
}
