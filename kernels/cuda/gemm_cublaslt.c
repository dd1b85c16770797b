/* kernels/cuda/gemm_cublaslt.c - cuBLASLt behind gemm.h.
 *
 * cuBLASLt counts column-major, where a row-major matrix is its own transpose.  So the product is asked for as
 *
 *   c^T [n, m] = op(b)^T [n, k]  op(a)^T [k, m]
 *
 * and everything changes sides with it: the bias, one number a column of c, is one a row of c^T, as the library's
 * epilogue wants it; the sums of op(a) over k are those of its second matrix (BGRADB); a row of aux, with the bits
 * or values of one sample, is a column of the library's aux matrix.
 *
 * Plans are found again by shape in a small list; the shapes of a training step are few and known before step 0.
 * The algorithm is the heuristic's first for (shape, GPU, library version), a pure function of them, or the one
 * that `choose` brought.  Timing candidates is left out: which of them wins by a few percent differs from run to
 * run, and with it the bits.
 */
#include "kernels/cuda/gemm.h"

#include "kernels/cuda/device_cuda.h"
#include "kernels/kernels.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE_BYTES = 32 << 20 }; /* cuBLAS's own default on Hopper */

/* A choice as it travels.  The library allows an algorithm to be stored and used again as bytes, by the same
 * version of it. */
typedef struct choice {
    dml_gemm_shape shape;
    int64_t here; /* 0: the library has no such product */
    cublasLtMatmulAlgo_t algo;
} choice;

/* By whom and for what the `n` choices behind it were made. */
typedef struct maker {
    uint64_t version;
    int32_t major, minor, multiprocessors;
    int32_t deterministic, tf32; /* what was asked for */
    int32_t n;
} maker;

typedef struct plan {
    struct plan *next;
    choice chosen;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t first, second, result; /* column-major: b, a, c */
} plan;

struct dml_gemm {
    cublasLtHandle_t library;
    dml_gemm_config config;
    maker maker;      /* of this library on this GPU; n counts the plans */
    void *workspace;  /* owned; NULL under plan_only */
    plan *plans;      /* owned */
    choice *imported; /* [n_imported] owned */
    int32_t n_imported;
    bool sealed;
};

static dml_err check(cublasStatus_t status, int line, const char *call)
{
    if (status == CUBLAS_STATUS_SUCCESS) return DML_ERR_OK;
    dml_err err = DML_ERR_UNAVAILABLE; /* it cannot do that here, or the device is lost */
    if (status == CUBLAS_STATUS_ALLOC_FAILED) err = DML_ERR_NOMEM;
    if (status == CUBLAS_STATUS_INVALID_VALUE) err = DML_ERR_BUG;
    return dml_err_set(err, __FILE__, line, "%s: %s (%s)", call, cublasLtGetStatusString(status),
                       cublasLtGetStatusName(status));
}

#define CUBLAS(call, args) DML_TRY(check(call args, __LINE__, #call))

/* "a product of BF16 [64, 784] by [784, 512]" for the trail */
#define SHAPE_FORMAT "a product of %s [%lld, %lld] by [%lld, %lld]"
#define SHAPE_OF(s)                                                                                \
    dml_dtype_name((dml_dtype)(s)->type), (long long)(s)->m, (long long)(s)->k, (long long)(s)->k, \
        (long long)(s)->n

static dml_err gpu_of(maker *out)
{
    static const enum cudaDeviceAttr asked[] = {cudaDevAttrComputeCapabilityMajor,
                                                cudaDevAttrComputeCapabilityMinor,
                                                cudaDevAttrMultiProcessorCount};
    int device = 0, value[3];
    DML_TRY(DML_CUDA(cudaGetDevice, (&device), "this thread's device"));
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        DML_TRY(
            DML_CUDA(cudaDeviceGetAttribute, (&value[i], asked[i], device), "device %d", device));
    *out = (maker){.version = cublasLtGetVersion(),
                   .major = value[0],
                   .minor = value[1],
                   .multiprocessors = value[2]};
    return DML_ERR_OK;
}

dml_err dml_gemm_open(const dml_gemm_config *config, dml_gemm **out)
{
    dml_gemm *g = calloc(1, sizeof *g);
    if (!g) DML_FAIL(DML_ERR_NOMEM, "no memory for a handle of cuBLASLt");
    g->config = *config;
    dml_err err = check(cublasLtCreate(&g->library), __LINE__, "cublasLtCreate");
    if (err != DML_ERR_OK) goto fail_create;
    err = gpu_of(&g->maker);
    g->maker.deterministic = config->deterministic;
    g->maker.tf32 = config->tf32;
    if (err == DML_ERR_OK && !config->plan_only)
        err = DML_CUDA(cudaMalloc, (&g->workspace, WORKSPACE_BYTES),
                       "%d bytes of cuBLASLt workspace", WORKSPACE_BYTES);
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
    free(g->imported);
    free(g);
}

void dml_gemm_seal(dml_gemm *g)
{
    g->sealed = true;
}

/* ---- describing a product ---- */

static cudaDataType_t cuda_type(int32_t dtype)
{
    return dtype == DML_BF16 ? CUDA_R_16BF : dtype == DML_F16 ? CUDA_R_16F : CUDA_R_32F;
}

static cublasComputeType_t compute_type(const dml_gemm *g, const dml_gemm_shape *s)
{
    if (s->type != DML_F32) return CUBLAS_COMPUTE_32F; /* exact products of halves, F32 sums */
    if (g->config.tf32) return CUBLAS_COMPUTE_32F_FAST_TF32;
    return g->config.deterministic ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
}

static cublasLtEpilogue_t epilogue_of(const dml_gemm_shape *s)
{
    if (s->bias_gradient) return CUBLASLT_EPILOGUE_BGRADB;
    switch ((dml_gemm_after)s->after) {
    case DML_GEMM_RELU:
        return s->bias ? CUBLASLT_EPILOGUE_RELU_AUX_BIAS : CUBLASLT_EPILOGUE_RELU_AUX;
    case DML_GEMM_GELU:
        return s->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case DML_GEMM_DRELU: return CUBLASLT_EPILOGUE_DRELU;
    case DML_GEMM_DGELU: return CUBLASLT_EPILOGUE_DGELU;
    case DML_GEMM_PLAIN: break;
    }
    return s->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* The stored matrix [rows, cols] row-major, seen column-major: cols x rows, leading dimension cols. */
static dml_err layout(cublasLtMatrixLayout_t *out, int32_t dtype, int64_t rows, int64_t cols)
{
    CUBLAS(cublasLtMatrixLayoutCreate,
           (out, cuda_type(dtype), (uint64_t)cols, (uint64_t)rows, cols));
    return DML_ERR_OK;
}

static dml_err set(plan *p, cublasLtMatmulDescAttributes_t attribute, const void *value,
                   size_t bytes)
{
    CUBLAS(cublasLtMatmulDescSetAttribute, (p->product, attribute, value, bytes));
    return DML_ERR_OK;
}

static dml_err set_pointers(plan *p, const void *bias, const void *aux)
{
    const dml_gemm_shape *s = &p->chosen.shape;
    if (s->bias || s->bias_gradient)
        DML_TRY(set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    if (s->after != DML_GEMM_PLAIN)
        DML_TRY(set(p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux));
    return DML_ERR_OK;
}

/* Elements from one row of aux to the next: bits of the relu's mask, or values. */
static int64_t aux_stride(const dml_gemm_shape *s)
{
    if (s->after == DML_GEMM_RELU || s->after == DML_GEMM_DRELU)
        return 8 * dml_act_aux_bytes(DML_ACT_RELU, (dml_dtype)s->result, s->n);
    return dml_act_aux_bytes(DML_ACT_GELU_TANH, (dml_dtype)s->result, s->n) /
           dml_dtype_bytes((dml_dtype)s->result);
}

/* The heuristic reads alignment off pointers it does not follow: ours stand for any that is a multiple of
 * DML_GEMM_ALIGN and no more. */
static dml_err describe(const dml_gemm *g, plan *p)
{
    const dml_gemm_shape *s = &p->chosen.shape;
    const cublasOperation_t first = s->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = s->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = epilogue_of(s);
    const int64_t stride = aux_stride(s);
    const void *anywhere = (const void *)(uintptr_t)DML_GEMM_ALIGN;
    CUBLAS(cublasLtMatmulDescCreate, (&p->product, compute_type(g, s), CUDA_R_32F));
    DML_TRY(set(p, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
    DML_TRY(set(p, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
    DML_TRY(set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    if (s->after != DML_GEMM_PLAIN)
        DML_TRY(set(p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &stride, sizeof stride));
    DML_TRY(set_pointers(p, anywhere, anywhere));
    DML_TRY(
        layout(&p->first, s->type, s->b_transposed ? s->n : s->k, s->b_transposed ? s->k : s->n));
    DML_TRY(
        layout(&p->second, s->type, s->a_transposed ? s->k : s->m, s->a_transposed ? s->m : s->k));
    return layout(&p->result, s->result, s->m, s->n);
}

/* ---- choosing an algorithm ---- */

static dml_err wishes(const dml_gemm *g, cublasLtMatmulPreference_t wish)
{
    static const cublasLtMatmulPreferenceAttributes_t align[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint64_t workspace = WORKSPACE_BYTES;
    const uint32_t whole_k = CUBLASLT_REDUCTION_SCHEME_NONE, align_bytes = DML_GEMM_ALIGN;
    CUBLAS(cublasLtMatmulPreferenceSetAttribute,
           (wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    if (g->config.deterministic)
        CUBLAS(cublasLtMatmulPreferenceSetAttribute,
               (wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole_k, sizeof whole_k));
    for (size_t i = 0; i < sizeof align / sizeof *align; i++)
        CUBLAS(cublasLtMatmulPreferenceSetAttribute,
               (wish, align[i], &align_bytes, sizeof align_bytes));
    return DML_ERR_OK;
}

static bool is_fused(const dml_gemm_shape *s)
{
    return s->after != DML_GEMM_PLAIN || s->bias || s->bias_gradient;
}

static dml_err ask_heuristic(const dml_gemm *g, plan *p)
{
    const dml_gemm_shape *s = &p->chosen.shape;
    cublasLtMatmulHeuristicResult_t best;
    cublasLtMatmulPreference_t wish;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    int found = 0;
    CUBLAS(cublasLtMatmulPreferenceCreate, (&wish));
    const dml_err err = wishes(g, wish);
    if (err == DML_ERR_OK)
        status = cublasLtMatmulAlgoGetHeuristic(g->library, p->product, p->first, p->second,
                                                p->result, p->result, wish, 1, &best, &found);
    cublasLtMatmulPreferenceDestroy(wish);
    DML_TRY(err);
    /* Which of the two a refused epilogue gives is not documented; a plain product's INVALID_VALUE is our bug. */
    if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
        (status == CUBLAS_STATUS_INVALID_VALUE && is_fused(s))) {
        status = CUBLAS_STATUS_SUCCESS;
        found = 0;
    }
    DML_TRY(check(status, __LINE__, "cublasLtMatmulAlgoGetHeuristic"));
    p->chosen.here = found > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    if (p->chosen.here) p->chosen.algo = best.algo;
    if (!p->chosen.here && !is_fused(s))
        DML_FAIL(DML_ERR_UNAVAILABLE, "cuBLASLt has no algorithm for " SHAPE_FORMAT, SHAPE_OF(s));
    return DML_ERR_OK;
}

/* An algorithm that came from elsewhere must run here as it is. */
static dml_err take(const dml_gemm *g, plan *p, const choice *given)
{
    cublasLtMatmulHeuristicResult_t result;
    p->chosen = *given;
    if (!given->here) return DML_ERR_OK;
    CUBLAS(cublasLtMatmulAlgoCheck, (g->library, p->product, p->first, p->second, p->result,
                                     p->result, &given->algo, &result));
    if (result.workspaceSize > WORKSPACE_BYTES)
        DML_FAIL(DML_ERR_UNAVAILABLE, "the algorithm chosen for " SHAPE_FORMAT " needs %lld bytes",
                 SHAPE_OF(&given->shape), (long long)result.workspaceSize);
    return DML_ERR_OK;
}

static dml_err choose(const dml_gemm *g, plan *p)
{
    for (int32_t i = 0; i < g->n_imported; i++)
        if (memcmp(&g->imported[i].shape, &p->chosen.shape, sizeof p->chosen.shape) == 0)
            return take(g, p, &g->imported[i]);
    return ask_heuristic(g, p);
}

static dml_err find_plan(dml_gemm *g, const dml_gemm_shape *shape, plan **out)
{
    for (plan *p = g->plans; p; p = p->next)
        if (memcmp(&p->chosen.shape, shape, sizeof *shape) == 0) {
            *out = p;
            return DML_ERR_OK;
        }
    if (g->sealed) DML_FAIL(DML_ERR_BUG, SHAPE_FORMAT " was not planned", SHAPE_OF(shape));
    plan *p = calloc(1, sizeof *p);
    if (!p) DML_FAIL(DML_ERR_NOMEM, "no memory for a plan of cuBLASLt");
    p->chosen.shape = *shape;
    dml_err err = describe(g, p);
    if (err == DML_ERR_OK) err = choose(g, p);
    if (err != DML_ERR_OK) {
        free_plan(p);
        return err;
    }
    p->next = g->plans;
    g->plans = *out = p;
    g->maker.n++;
    return DML_ERR_OK;
}

/* ---- running ---- */

dml_err dml_gemm_plan(dml_gemm *g, const dml_gemm_shape *shape, bool *here)
{
    plan *p = NULL;
    DML_TRY(find_plan(g, shape, &p));
    *here = p->chosen.here != 0;
    return DML_ERR_OK;
}

static bool aligned(const void *p)
{
    return (uintptr_t)p % DML_GEMM_ALIGN == 0;
}

dml_err dml_gemm_run(dml_gemm *g, const dml_gemm_shape *shape, const dml_gemm_data *data,
                     cudaStream_t stream)
{
    static const float one = 1.0f, zero = 0.0f;
    plan *p = NULL;
    DML_TRY(find_plan(g, shape, &p));
    if (!p->chosen.here)
        DML_FAIL(DML_ERR_BUG, SHAPE_FORMAT " has no fused form here", SHAPE_OF(shape));
    if (!aligned(data->a) || !aligned(data->b) || !aligned(data->c) || !aligned(data->bias) ||
        !aligned(data->sums) || !aligned(data->aux))
        DML_FAIL(DML_ERR_BUG, SHAPE_FORMAT ": a tensor is not aligned to %d bytes", SHAPE_OF(shape),
                 DML_GEMM_ALIGN);
    if (g->config.plan_only) return DML_ERR_OK;
    DML_TRY(set_pointers(p, shape->bias_gradient ? data->sums : data->bias, data->aux));
    CUBLAS(cublasLtMatmul, (g->library, p->product, &one, data->b, p->first, data->a, p->second,
                            shape->add ? &one : &zero, data->c, p->result, data->c, p->result,
                            &p->chosen.algo, g->workspace, WORKSPACE_BYTES, stream));
    return DML_ERR_OK;
}

/* ---- choices ---- */

dml_err dml_gemm_choices(const dml_gemm *g, void *out, int64_t *bytes)
{
    const int64_t room = *bytes;
    *bytes = (int64_t)sizeof(maker) + g->maker.n * (int64_t)sizeof(choice);
    if (room < *bytes) return DML_ERR_OK;
    char *at = out;
    memcpy(at, &g->maker, sizeof g->maker);
    at += sizeof g->maker;
    for (const plan *p = g->plans; p; p = p->next, at += sizeof p->chosen)
        memcpy(at, &p->chosen, sizeof p->chosen);
    return DML_ERR_OK;
}

dml_err dml_gemm_choose(dml_gemm *g, const void *choices, int64_t bytes)
{
    const maker *own = &g->maker;
    maker other = {0};
    if (bytes >= (int64_t)sizeof other) memcpy(&other, choices, sizeof other);
    if (other.n < 0 || bytes != (int64_t)sizeof other + other.n * (int64_t)sizeof(choice))
        DML_FAIL(DML_ERR_UNAVAILABLE, "%lld bytes of cuBLASLt algorithms are not a list of them",
                 (long long)bytes);
    if (other.version != own->version || other.major != own->major || other.minor != own->minor ||
        other.multiprocessors != own->multiprocessors)
        DML_FAIL(DML_ERR_UNAVAILABLE,
                 "algorithms of cuBLASLt %llu on a GPU of compute capability %d.%d with %d "
                 "multiprocessors cannot be used with %llu, %d.%d, %d",
                 (unsigned long long)other.version, other.major, other.minor, other.multiprocessors,
                 (unsigned long long)own->version, own->major, own->minor, own->multiprocessors);
    if (other.deterministic != own->deterministic || other.tf32 != own->tf32)
        DML_FAIL(DML_ERR_UNAVAILABLE,
                 "algorithms of cuBLASLt were chosen for another precision or mode");
    choice *list = malloc((size_t)(other.n + 1) * sizeof *list);
    if (!list) DML_FAIL(DML_ERR_NOMEM, "no memory for %d algorithms", other.n);
    memcpy(list, (const char *)choices + sizeof other, (size_t)other.n * sizeof *list);
    free(g->imported);
    g->imported = list;
    g->n_imported = other.n;
    return DML_ERR_OK;
}
