/* kernels/cuda/emulation/cublaslt.c - stands in for cuBLASLt: the calls of gemm_cublaslt.c, strictly.
 *
 *   D = epilogue(op(A) op(B) + beta C), all column-major        alpha is 1, beta 0 or 1, both in host memory
 *
 * What the library has and we do not use is CUBLAS_STATUS_NOT_SUPPORTED here, so that a new use shows.  An algorithm
 * is bytes that name a problem (types, sizes, transposes, epilogue), the alignment it counts on, and whether it
 * splits k; cublasLtMatmul refuses another problem's, a too small workspace, a pointer off the border.
 * Where the wish allows split k the best algorithm has it: two halves added in F32, so that the modes differ in their
 * bits here as there.  Pedantic products have no fused activation (NOT_SUPPORTED), nor a bias of odd length
 * (INVALID_VALUE), so that callers do without.  The workspace is spoilt, and D too before a product with beta 0.
 */
#include "kernels/cuda/emulation/host_step.h"
#include "kernels/half.h"

#include <cublasLt.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 130100, SPLIT_WORKSPACE = 1024, DEFAULT_ALIGN = 256 };
static const uint64_t MAGIC = 0x6c65696e65206d64; /* of an algorithm */

struct cublasLtContext {
    int open;
};

struct cublasLtMatmulDescOpaque_t {
    cublasComputeType_t compute;
    int32_t transa, transb;
    uint32_t epilogue;
    const void *bias;
    const void *aux;
    int64_t aux_ld;
};

struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType type;
    int64_t rows, cols, ld;
};

struct cublasLtMatmulPreferenceOpaque_t {
    uint64_t workspace;
    uint32_t reduction, align[4];
};

/* What a product is, for the algorithm's bytes and for the step that computes it. */
typedef struct problem {
    int32_t compute, type, result;
    int32_t transa, transb;
    uint32_t epilogue;
    int64_t m, n, k, lda, ldb, ldd, aux_ld;
} problem;

typedef struct product {
    problem p;
    const void *a, *b;
    void *d;
    float beta;
    const void *bias; /* or where its gradient goes */
    const void *aux;
    bool split;
    void *workspace;
} product;

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
#define X(name, value, text) \
    case name: return #name;
        DML_EMU_CUBLAS_STATUS_LIST(X)
#undef X
    }
    return "an unknown status";
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    switch (status) {
#define X(name, value, text) \
    case name: return text;
        DML_EMU_CUBLAS_STATUS_LIST(X)
#undef X
    }
    return "an unknown status";
}

size_t cublasLtGetVersion(void)
{
    return VERSION;
}

/* Head of every call: fails where a test says so. */
#define CALL(name)                                              \
    if (dml_emu_judge(#name, __builtin_return_address(0)) != 0) \
    return CUBLAS_STATUS_EXECUTION_FAILED

/* ---- handles and descriptors ---- */

#define CREATE(out, ...)                                \
    do {                                                \
        if (!(out)) return CUBLAS_STATUS_INVALID_VALUE; \
        *(out) = malloc(sizeof **(out));                \
        if (!*(out)) return CUBLAS_STATUS_ALLOC_FAILED; \
        memcpy(*(out), &__VA_ARGS__, sizeof **(out));   \
    } while (0)

static cublasStatus_t destroy(void *handle)
{
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    CALL(cublasLtCreate);
    CREATE(handle, (struct cublasLtContext){1});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return destroy(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    CALL(cublasLtMatmulDescCreate);
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    CREATE(desc, (struct cublasLtMatmulDescOpaque_t){.compute = compute,
                                                     .epilogue = CUBLASLT_EPILOGUE_DEFAULT});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return destroy(desc);
}

/* Stores an attribute of the right size. */
static cublasStatus_t put(void *field, size_t field_bytes, const void *value, size_t bytes)
{
    if (!value || bytes != field_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

#define PUT(field) return put(&(field), sizeof(field), value, bytes)

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    CALL(cublasLtMatmulDescSetAttribute);
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: PUT(desc->transa);
    case CUBLASLT_MATMUL_DESC_TRANSB: PUT(desc->transb);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: PUT(desc->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: PUT(desc->bias);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: PUT(desc->aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: PUT(desc->aux_ld);
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET: break;
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    CALL(cublasLtMatrixLayoutCreate);
    if (rows < 1 || cols < 1 || ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
    CREATE(layout, (struct cublasLtMatrixLayoutOpaque_t){type, (int64_t)rows, (int64_t)cols, ld});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    CALL(cublasLtMatmulPreferenceCreate);
    CREATE(preference, (struct cublasLtMatmulPreferenceOpaque_t){
                           .reduction = CUBLASLT_REDUCTION_SCHEME_MASK,
                           .align = {DEFAULT_ALIGN, DEFAULT_ALIGN, DEFAULT_ALIGN, DEFAULT_ALIGN}});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return destroy(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    CALL(cublasLtMatmulPreferenceSetAttribute);
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: PUT(preference->workspace);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: PUT(preference->reduction);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: PUT(preference->align[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: PUT(preference->align[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: PUT(preference->align[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: PUT(preference->align[3]);
    case CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT: break;
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

/* ---- problems ---- */

static bool has_bias(uint32_t epilogue)
{
    return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_RELU_AUX_BIAS ||
           epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
}

static bool is_relu(uint32_t epilogue)
{
    return epilogue == CUBLASLT_EPILOGUE_RELU_AUX || epilogue == CUBLASLT_EPILOGUE_RELU_AUX_BIAS ||
           epilogue == CUBLASLT_EPILOGUE_DRELU;
}

static bool is_gelu(uint32_t epilogue)
{
    return epilogue == CUBLASLT_EPILOGUE_GELU_AUX || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
           epilogue == CUBLASLT_EPILOGUE_DGELU;
}

static bool on_border(const void *at, uint32_t align)
{
    return (uintptr_t)at % align == 0;
}

/* Sizes must agree; types, transposes and epilogue must be of those we use. */
static cublasStatus_t read_problem(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                   cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                   cublasLtMatrixLayout_t d, problem *out)
{
    if (!desc || !a || !b || !c || !d) return CUBLAS_STATUS_INVALID_VALUE;
    memset(out, 0, sizeof *out);
    out->compute = (int32_t)desc->compute;
    out->type = (int32_t)a->type;
    out->result = (int32_t)d->type;
    out->transa = desc->transa;
    out->transb = desc->transb;
    out->epilogue = desc->epilogue;
    out->m = desc->transa ? a->cols : a->rows;
    out->k = desc->transa ? a->rows : a->cols;
    out->n = desc->transb ? b->rows : b->cols;
    out->lda = a->ld;
    out->ldb = b->ld;
    out->ldd = d->ld;
    out->aux_ld = desc->aux_ld;
    if ((desc->transb ? b->cols : b->rows) != out->k || d->rows != out->m || d->cols != out->n ||
        c->rows != d->rows || c->cols != d->cols || c->type != d->type || a->type != b->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (d->type != a->type && d->type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a->type != CUDA_R_32F && desc->compute != CUBLAS_COMPUTE_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool act = is_relu(desc->epilogue) || is_gelu(desc->epilogue);
    if (act && desc->compute == CUBLAS_COMPUTE_32F_PEDANTIC) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (has_bias(desc->epilogue) && out->m % 2 != 0 && desc->compute == CUBLAS_COMPUTE_32F_PEDANTIC)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (act && (desc->aux_ld < out->m || desc->aux_ld % (is_relu(desc->epilogue) ? 128 : 8) != 0))
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

static uint64_t hash(const problem *p)
{
    uint64_t h = MAGIC;
    const unsigned char *byte = (const unsigned char *)p;
    for (size_t i = 0; i < sizeof *p; i++)
        h = (h ^ byte[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* data: magic, problem, split, alignment, then 0 */
static cublasLtMatmulAlgo_t algorithm(const problem *p, bool split, uint32_t align)
{
    return (cublasLtMatmulAlgo_t){{MAGIC, hash(p), split, align}};
}

static cublasStatus_t read_algorithm(const cublasLtMatmulAlgo_t *algo, const problem *p,
                                     bool *split)
{
    if (!algo || algo->data[0] != MAGIC) return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[1] != hash(p)) return CUBLAS_STATUS_NOT_SUPPORTED;
    *split = algo->data[2] != 0;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *found)
{
    CALL(cublasLtMatmulAlgoGetHeuristic);
    problem p;
    if (!handle || !preference || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    *found = 0;
    const cublasStatus_t status = read_problem(desc, a, b, c, d, &p);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    uint32_t align = DEFAULT_ALIGN;
    for (int i = 0; i < 4; i++)
        align = preference->align[i] < align ? preference->align[i] : align;
    const bool act = is_relu(p.epilogue) || is_gelu(p.epilogue);
    if ((has_bias(p.epilogue) && !on_border(desc->bias, align)) ||
        (act && !on_border(desc->aux, align)))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool split = (preference->reduction & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) != 0 &&
                       preference->workspace >= SPLIT_WORKSPACE;
    results[0] = (cublasLtMatmulHeuristicResult_t){.algo = algorithm(&p, split, align),
                                                   .workspaceSize = split ? SPLIT_WORKSPACE : 0,
                                                   .state = CUBLAS_STATUS_SUCCESS,
                                                   .wavesCount = 1.0f};
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    CALL(cublasLtMatmulAlgoCheck);
    problem p;
    bool split = false;
    if (!handle || !result) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = read_problem(desc, a, b, c, d, &p);
    if (status == CUBLAS_STATUS_SUCCESS) status = read_algorithm(algo, &p, &split);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    memset(result, 0, sizeof *result);
    result->workspaceSize = split ? SPLIT_WORKSPACE : 0;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the product ---- */

static size_t type_bytes(int32_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static float get(const void *at, int32_t type, int64_t i)
{
    if (type == CUDA_R_16BF) return dml_bf16_to_float(((const dml_bf16 *)at)[i]);
    if (type == CUDA_R_16F) return dml_f16_to_float(((const dml_f16 *)at)[i]);
    return ((const float *)at)[i];
}

static void store(void *at, int32_t type, int64_t i, float value)
{
    if (type == CUDA_R_16BF)
        ((dml_bf16 *)at)[i] = dml_bf16_of_float(value);
    else if (type == CUDA_R_16F)
        ((dml_f16 *)at)[i] = dml_f16_of_float(value);
    else
        ((float *)at)[i] = value;
}

/* A factor as the arithmetic sees it: TF32 has 10 bits behind the point, rounded to nearest. */
static float factor(const problem *p, const void *at, int64_t i)
{
    const float x = get(at, p->type, i);
    if (p->compute != CUBLAS_COMPUTE_32F_FAST_TF32 || !isfinite(x)) return x;
    return dml_float_of_bits((dml_float_bits(x) + 0x1000) & ~UINT32_C(0x1fff));
}

static float slope_of_gelu(float x)
{
    const double k = 0.7978845608028654, u = k * (x + 0.044715 * (double)x * x * x), t = tanh(u);
    return (float)(0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 0.134145 * (double)x * x));
}

static float gelu(float x)
{
    const double u = 0.7978845608028654 * (x + 0.044715 * (double)x * x * x);
    return (float)(0.5 * x * (1 + tanh(u)));
}

/* The value of D[i, j] from the product's; writes or reads aux on the way. */
static float finish(const product *s, float value, int64_t i, int64_t j)
{
    const problem *p = &s->p;
    unsigned char *bits = (unsigned char *)(uintptr_t)s->aux + (j * p->aux_ld + i) / 8;
    void *before = (void *)(uintptr_t)s->aux;
    const int64_t at = j * p->aux_ld + i;
    const unsigned bit = 1u << (i % 8);
    if (has_bias(p->epilogue)) value += get(s->bias, p->result, i);
    switch (p->epilogue) {
    case CUBLASLT_EPILOGUE_RELU_AUX:
    case CUBLASLT_EPILOGUE_RELU_AUX_BIAS:
        *bits = (unsigned char)(value > 0.0f ? *bits | bit : *bits & ~bit);
        return value <= 0.0f ? 0.0f : value;
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS: store(before, p->result, at, value); return gelu(value);
    case CUBLASLT_EPILOGUE_DRELU: return *bits & bit ? value : 0.0f;
    case CUBLASLT_EPILOGUE_DGELU: return value * slope_of_gelu(get(before, p->result, at));
    default: return value;
    }
}

/* Sum over [begin, end) of k of op(A)[i, k] op(B)[k, j]. */
static float dot(const product *s, int64_t i, int64_t j, int64_t begin, int64_t end)
{
    const problem *p = &s->p;
    const int64_t a_row = p->transa ? p->lda : 1, a_col = p->transa ? 1 : p->lda;
    const int64_t b_row = p->transb ? p->ldb : 1, b_col = p->transb ? 1 : p->ldb;
    float sum = 0.0f;
    for (int64_t k = begin; k < end; k++)
        sum += factor(p, s->a, i * a_row + k * a_col) * factor(p, s->b, k * b_row + j * b_col);
    return sum;
}

/* BGRADB: of each column of op(B) its sum over k. */
static void sum_second(const product *s)
{
    const problem *p = &s->p;
    const int64_t row = p->transb ? p->ldb : 1, col = p->transb ? 1 : p->ldb;
    void *out = (void *)(uintptr_t)s->bias;
    for (int64_t j = 0; j < p->n; j++) {
        float sum = 0.0f;
        for (int64_t k = 0; k < p->k; k++)
            sum += get(s->b, p->type, k * row + j * col);
        store(out, p->result, j, sum);
    }
}

static int64_t stored(int64_t ld, int64_t rows, int64_t cols, int32_t transposed)
{
    return ld * ((transposed ? rows : cols) - 1) + (transposed ? cols : rows);
}

/* Tells the clocks what the product reads and writes. */
static void touch(const product *s)
{
    const problem *p = &s->p;
    const size_t in = type_bytes(p->type), out = type_bytes(p->result);
    const bool relu = is_relu(p->epilogue), gradient = p->epilogue == CUBLASLT_EPILOGUE_BGRADB;
    const bool reads_aux =
        p->epilogue == CUBLASLT_EPILOGUE_DRELU || p->epilogue == CUBLASLT_EPILOGUE_DGELU;
    const size_t aux = (size_t)(p->aux_ld * (p->n - 1)) + (size_t)p->m;
    dml_emu_touch(s->a, (size_t)stored(p->lda, p->m, p->k, p->transa) * in, false);
    dml_emu_touch(s->b, (size_t)stored(p->ldb, p->k, p->n, p->transb) * in, false);
    dml_emu_touch(s->d, (size_t)stored(p->ldd, p->m, p->n, 0) * out, true);
    if (has_bias(p->epilogue)) dml_emu_touch(s->bias, (size_t)p->m * out, false);
    if (gradient) dml_emu_touch(s->bias, (size_t)p->n * out, true);
    if (relu || is_gelu(p->epilogue))
        dml_emu_touch(s->aux, relu ? (aux + 7) / 8 : aux * out, !reads_aux);
    if (s->split) dml_emu_touch(s->workspace, SPLIT_WORKSPACE, true);
}

static void multiply(void *arg)
{
    const product *s = arg;
    const problem *p = &s->p;
    touch(s);
    if (s->split) memset(s->workspace, 0xa5, SPLIT_WORKSPACE);
    for (int64_t j = 0; j < p->n && s->beta == 0.0f; j++)
        for (int64_t i = 0; i < p->m; i++)
            store(s->d, p->result, j * p->ldd + i, NAN);
    for (int64_t j = 0; j < p->n; j++)
        for (int64_t i = 0; i < p->m; i++) {
            const int64_t at = j * p->ldd + i, half = s->split ? p->k / 2 : p->k;
            float value = dot(s, i, j, 0, half);
            if (half < p->k) value += dot(s, i, j, half, p->k);
            if (s->beta != 0.0f) value += s->beta * get(s->d, p->result, at);
            store(s->d, p->result, at, finish(s, value, i, j));
        }
    if (p->epilogue == CUBLASLT_EPILOGUE_BGRADB) sum_second(s);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    CALL(cublasLtMatmul);
    product s = {.a = a, .b = b, .d = d, .workspace = workspace};
    if (!handle || !a || !b || !d || c != d) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = read_problem(desc, a_layout, b_layout, c_layout, d_layout, &s.p);
    if (status == CUBLAS_STATUS_SUCCESS) status = read_algorithm(algo, &s.p, &s.split);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    s.bias = desc->bias;
    s.aux = desc->aux;
    s.beta = *(const float *)beta;
    const uint32_t align = (uint32_t)algo->data[3];
    const bool act = is_relu(s.p.epilogue) || is_gelu(s.p.epilogue);
    const bool bias = has_bias(s.p.epilogue) || s.p.epilogue == CUBLASLT_EPILOGUE_BGRADB;
    if (*(const float *)alpha != 1.0f || !on_border(a, align) || !on_border(b, align) ||
        !on_border(d, align) || (bias && !s.bias) ||
        (act && (!s.aux || !on_border(s.aux, align))) ||
        (s.split && (!workspace || workspace_bytes < SPLIT_WORKSPACE)))
        return CUBLAS_STATUS_INVALID_VALUE;
    return dml_emu_host_call(stream, multiply, &s, sizeof s) == cudaSuccess
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}
