/* tests/emulated/contract_cublaslt.c - what we count on of each cuBLASLt call.
 *
 * Built twice: against the stand-in (kernels/cuda/emulation/cublaslt.c), where it runs in CI, and against the real
 * library, where descriptors are tested on every machine and products when there is a GPU.  A stand-in that
 * differs fails on one side.
 *
 * All products are column-major: D[m, n] = op(A) op(B), as the library counts.
 */
#include "tests/support/test.h"

#include "kernels/half.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#define OK(call)           DML_CHECK_EQ(CUBLAS_STATUS_SUCCESS, call)
#define SAYS(status, call) DML_CHECK_EQ(status, call)

enum { M = 24, N = 16, K = 40, AUX_LD = 128, ROOM = 64 << 10, WORKSPACE = 32 << 20 };

static cublasLtHandle_t library;
static cudaStream_t stream;
static void *workspace;

/* One tensor on both sides. */
typedef struct buffer {
    void *host, *device;
} buffer;
static buffer a, b, d, bias, aux;

static void finish(void)
{
    cudaError_t status;
    while ((status = cudaStreamQuery(stream)) == cudaErrorNotReady) {
    }
    DML_CHECK_EQ(cudaSuccess, status);
}

static void move(void *to, const void *from)
{
    DML_CHECK_EQ(cudaSuccess, cudaMemcpyAsync(to, from, ROOM, cudaMemcpyDefault, stream));
    finish();
}

static void put(void *at, cudaDataType_t type, int64_t i, float v)
{
    if (type == CUDA_R_16BF)
        ((dml_bf16 *)at)[i] = dml_bf16_of_float(v);
    else if (type == CUDA_R_16F)
        ((dml_f16 *)at)[i] = dml_f16_of_float(v);
    else
        ((float *)at)[i] = v;
}

static float get(const void *at, cudaDataType_t type, int64_t i)
{
    if (type == CUDA_R_16BF) return dml_bf16_to_float(((const dml_bf16 *)at)[i]);
    if (type == CUDA_R_16F) return dml_f16_to_float(((const dml_f16 *)at)[i]);
    return ((const float *)at)[i];
}

/* Small multiples of 1/8, which every type holds and whose products all sums hold. */
static void fill(buffer *x, cudaDataType_t type, int64_t n, uint32_t seed)
{
    memset(x->host, 0, ROOM);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * UINT32_C(1664525) + UINT32_C(1013904223);
        put(x->host, type, i, (float)((int)(seed >> 28) - 8) / 8.0f);
    }
    move(x->device, x->host);
}

static int set_up(void **state)
{
    (void)state;
    buffer *all[] = {&a, &b, &d, &bias, &aux};
    DML_CHECK_EQ(cudaSuccess, cudaSetDevice(0));
    DML_CHECK_EQ(cudaSuccess, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    DML_CHECK_EQ(cudaSuccess, cudaMalloc(&workspace, WORKSPACE));
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        DML_CHECK_EQ(cudaSuccess, cudaHostAlloc(&all[i]->host, ROOM, cudaHostAllocDefault));
        DML_CHECK_EQ(cudaSuccess, cudaMalloc(&all[i]->device, ROOM));
    }
    OK(cublasLtCreate(&library));
    return 0;
}

static int take_down(void **state)
{
    (void)state;
    buffer *all[] = {&a, &b, &d, &bias, &aux};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        DML_CHECK_EQ(cudaSuccess, cudaFreeHost(all[i]->host));
        DML_CHECK_EQ(cudaSuccess, cudaFree(all[i]->device));
    }
    DML_CHECK_EQ(cudaSuccess, cudaFree(workspace));
    DML_CHECK_EQ(cudaSuccess, cudaStreamDestroy(stream));
    OK(cublasLtDestroy(library));
    return 0;
}

/* ---- one product ---- */

typedef struct product {
    cublasComputeType_t compute;
    cudaDataType_t in, out;
    cublasOperation_t opa, opb;
    cublasLtEpilogue_t epilogue;
    float beta;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t la, lb, ld;
    cublasLtMatmulHeuristicResult_t best;
} product;

static void describe(product *p)
{
    const int64_t aux_ld = AUX_LD;
    const bool ta = p->opa == CUBLAS_OP_T, tb = p->opb == CUBLAS_OP_T;
    OK(cublasLtMatmulDescCreate(&p->desc, p->compute, CUDA_R_32F));
    OK(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &p->opa,
                                      sizeof p->opa));
    OK(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &p->opb,
                                      sizeof p->opb));
    OK(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &p->epilogue,
                                      sizeof p->epilogue));
    if (p->epilogue & 128) {
        OK(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
                                          &aux.device, sizeof aux.device));
        OK(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &aux_ld,
                                          sizeof aux_ld));
    }
    if (p->epilogue != CUBLASLT_EPILOGUE_DEFAULT)
        OK(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.device,
                                          sizeof bias.device));
    OK(cublasLtMatrixLayoutCreate(&p->la, p->in, ta ? K : M, ta ? M : K, ta ? K : M));
    OK(cublasLtMatrixLayoutCreate(&p->lb, p->in, tb ? N : K, tb ? K : N, tb ? N : K));
    OK(cublasLtMatrixLayoutCreate(&p->ld, p->out, M, N, M));
}

static void forget(product *p)
{
    OK(cublasLtMatmulDescDestroy(p->desc));
    OK(cublasLtMatrixLayoutDestroy(p->la));
    OK(cublasLtMatrixLayoutDestroy(p->lb));
    OK(cublasLtMatrixLayoutDestroy(p->ld));
}

/* False: the library has no such product. */
static bool find(product *p, uint32_t reduction)
{
    const uint64_t room = WORKSPACE;
    const uint32_t align = 16;
    cublasLtMatmulPreference_t wish;
    int found = 0;
    OK(cublasLtMatmulPreferenceCreate(&wish));
    OK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
                                            sizeof room));
    OK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                            &reduction, sizeof reduction));
    OK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                            &align, sizeof align));
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        library, p->desc, p->la, p->lb, p->ld, p->ld, wish, 1, &p->best, &found);
    OK(cublasLtMatmulPreferenceDestroy(wish));
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return false;
    OK(status);
    return found == 1;
}

static cublasStatus_t run(const product *p, const cublasLtMatmulAlgo_t *algo,
                          size_t workspace_bytes)
{
    static const float one = 1.0f;
    return cublasLtMatmul(library, p->desc, &one, a.device, p->la, b.device, p->lb, &p->beta,
                          d.device, p->ld, d.device, p->ld, algo, workspace, workspace_bytes,
                          stream);
}

/* op(A) op(B) at [i, j]. */
static float exact(const product *p, int i, int j)
{
    float sum = 0.0f;
    for (int k = 0; k < K; k++)
        sum += get(a.host, p->in, p->opa == CUBLAS_OP_T ? i * K + k : k * M + i) *
               get(b.host, p->in, p->opb == CUBLAS_OP_T ? k * N + j : j * K + k);
    return sum;
}

static void fill_all(const product *p)
{
    fill(&a, p->in, M * K, 1);
    fill(&b, p->in, K * N, 2);
    fill(&d, p->out, M * N, 3);
    fill(&bias, p->out, M + N, 4);
}

static void near(float want, float got, cudaDataType_t type)
{
    const float unit = type == CUDA_R_16BF ? 0x1p-7f : type == CUDA_R_16F ? 0x1p-10f : 0x1p-18f;
    if (!(fabsf(want - got) <= unit * (1.0f + fabsf(want))))
        fail_msg("%.9g, not %.9g", (double)got, (double)want);
}

/* ---- tests ---- */

static void a_status_has_a_name_and_a_text(void **state)
{
    (void)state;
    assert_string_equal("CUBLAS_STATUS_NOT_SUPPORTED",
                        cublasLtGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED));
    assert_string_equal("the requested functionality is not supported",
                        cublasLtGetStatusString(CUBLAS_STATUS_NOT_SUPPORTED));
    DML_CHECK(cublasLtGetVersion() >= 120000);
}

static void an_attribute_of_the_wrong_size_is_refused(void **state)
{
    (void)state;
    cublasLtMatmulDesc_t desc;
    cublasLtMatmulPreference_t wish;
    const char value[16] = {0};
    OK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    SAYS(CUBLAS_STATUS_INVALID_VALUE,
         cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, value, 3));
    SAYS(CUBLAS_STATUS_INVALID_VALUE,
         cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, NULL,
                                        sizeof(void *)));
    OK(cublasLtMatmulDescDestroy(desc));
    OK(cublasLtMatmulPreferenceCreate(&wish));
    SAYS(CUBLAS_STATUS_INVALID_VALUE,
         cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, value,
                                              4));
    OK(cublasLtMatmulPreferenceDestroy(wish));
}

static void sizes_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    product p = {.compute = CUBLAS_COMPUTE_32F, .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
    describe(&p);
    OK(cublasLtMatrixLayoutDestroy(p.lb));
    OK(cublasLtMatrixLayoutCreate(&p.lb, CUDA_R_32F, K + 1, N, K + 1));
    int found = 0;
    cublasLtMatmulPreference_t wish;
    OK(cublasLtMatmulPreferenceCreate(&wish));
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(library, p.desc, p.la, p.lb, p.ld,
                                                                 p.ld, wish, 1, &p.best, &found);
    DML_CHECK(status != CUBLAS_STATUS_SUCCESS || found == 0);
    OK(cublasLtMatmulPreferenceDestroy(wish));
    forget(&p);
}

static void products_of_all_our_types_and_transposes_are_right(void **state)
{
    (void)state;
    static const struct {
        cublasComputeType_t compute;
        cudaDataType_t in, out;
    } kind[] = {{CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_32F},
                {CUBLAS_COMPUTE_32F_PEDANTIC, CUDA_R_32F, CUDA_R_32F},
                {CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F, CUDA_R_32F},
                {CUBLAS_COMPUTE_32F, CUDA_R_16BF, CUDA_R_16BF},
                {CUBLAS_COMPUTE_32F, CUDA_R_16BF, CUDA_R_32F},
                {CUBLAS_COMPUTE_32F, CUDA_R_16F, CUDA_R_16F},
                {CUBLAS_COMPUTE_32F, CUDA_R_16F, CUDA_R_32F}};
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++)
        for (int way = 0; way < 8; way++) {
            product p = {.compute = kind[i].compute,
                         .in = kind[i].in,
                         .out = kind[i].out,
                         .opa = way & 1 ? CUBLAS_OP_T : CUBLAS_OP_N,
                         .opb = way & 2 ? CUBLAS_OP_T : CUBLAS_OP_N,
                         .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                         .beta = way & 4 ? 1.0f : 0.0f};
            describe(&p);
            fill_all(&p);
            DML_CHECK(find(&p, way & 4 ? CUBLASLT_REDUCTION_SCHEME_NONE
                                       : CUBLASLT_REDUCTION_SCHEME_MASK));
            if (p.beta == 0.0f) memset(d.host, 0xff, ROOM); /* NaN: not read */
            move(d.device, d.host);
            const float was = p.beta == 0.0f ? 0.0f : get(d.host, p.out, M * 3 + 5);
            OK(run(&p, &p.best.algo, WORKSPACE));
            finish();
            move(d.host, d.device);
            near(exact(&p, 5, 3) + was, get(d.host, p.out, M * 3 + 5), p.out);
            for (int e = 0; e < M * N && p.beta == 0.0f; e++)
                near(exact(&p, e % M, e / M), get(d.host, p.out, e), p.out);
            forget(&p);
        }
}

static void an_algorithm_can_be_kept_as_bytes(void **state)
{
    (void)state;
    product p = {.compute = CUBLAS_COMPUTE_32F,
                 .in = CUDA_R_16BF,
                 .out = CUDA_R_16BF,
                 .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
    unsigned char kept[sizeof(cublasLtMatmulAlgo_t)];
    cublasLtMatmulAlgo_t again;
    cublasLtMatmulHeuristicResult_t result;
    describe(&p);
    fill_all(&p);
    DML_CHECK(find(&p, CUBLASLT_REDUCTION_SCHEME_MASK));
    memcpy(kept, &p.best.algo, sizeof kept);
    memcpy(&again, kept, sizeof again);
    OK(cublasLtMatmulAlgoCheck(library, p.desc, p.la, p.lb, p.ld, p.ld, &again, &result));
    DML_CHECK_EQ(p.best.workspaceSize, result.workspaceSize);
    OK(run(&p, &again, WORKSPACE));
    finish();
    move(d.host, d.device);
    near(exact(&p, 1, 2), get(d.host, p.out, 2 * M + 1), p.out);
    if (p.best.workspaceSize > 0) SAYS(CUBLAS_STATUS_INVALID_VALUE, run(&p, &again, 0));
    forget(&p);
}

/* Runs one epilogue in BF16 and F32; false: the library lacks it there. */
static bool with_epilogue(product *p, cublasLtEpilogue_t epilogue, cudaDataType_t type)
{
    *p = (product){.compute = CUBLAS_COMPUTE_32F, .in = type, .out = type, .epilogue = epilogue};
    describe(p);
    fill_all(p);
    if (!find(p, CUBLASLT_REDUCTION_SCHEME_MASK)) {
        print_message("epilogue %d is not here\n", (int)epilogue);
        forget(p);
        return false;
    }
    OK(run(p, &p->best.algo, WORKSPACE));
    finish();
    move(d.host, d.device);
    move(aux.host, aux.device);
    return true;
}

static void a_bias_is_one_number_a_row(void **state)
{
    (void)state;
    product p;
    for (int i = 0;
         i < 2 && with_epilogue(&p, CUBLASLT_EPILOGUE_BIAS, i ? CUDA_R_16BF : CUDA_R_32F); i++) {
        for (int e = 0; e < M * N; e++)
            near(exact(&p, e % M, e / M) + get(bias.host, p.out, e % M), get(d.host, p.out, e),
                 p.out);
        forget(&p);
    }
}

static void relu_leaves_a_bit_where_it_let_through(void **state)
{
    (void)state;
    product p;
    fill(&aux, CUDA_R_32F, 0, 0);
    if (!with_epilogue(&p, CUBLASLT_EPILOGUE_RELU_AUX_BIAS, CUDA_R_16BF)) return;
    for (int e = 0; e < M * N; e++) {
        const float value = exact(&p, e % M, e / M) + get(bias.host, p.out, e % M);
        const unsigned char *column = (const unsigned char *)aux.host + e / M * AUX_LD / 8;
        near(value > 0.0f ? value : 0.0f, get(d.host, p.out, e), p.out);
        DML_CHECK_EQ(value > 0.0f, column[e % M / 8] >> (e % M % 8) & 1);
    }
    forget(&p);
    if (!with_epilogue(&p, CUBLASLT_EPILOGUE_DRELU, CUDA_R_16BF)) return;
    for (int e = 0; e < M * N; e++) {
        const unsigned char *column = (const unsigned char *)aux.host + e / M * AUX_LD / 8;
        const bool passed = column[e % M / 8] >> (e % M % 8) & 1;
        near(passed ? exact(&p, e % M, e / M) : 0.0f, get(d.host, p.out, e), p.out);
    }
    forget(&p);
}

/* kernels.h: a diverged run must show. */
static void a_nan_goes_through_relu(void **state)
{
    (void)state;
    product p = {.compute = CUBLAS_COMPUTE_32F,
                 .in = CUDA_R_16BF,
                 .out = CUDA_R_16BF,
                 .epilogue = CUBLASLT_EPILOGUE_RELU_AUX_BIAS};
    describe(&p);
    fill_all(&p);
    put(bias.host, p.out, 3, NAN);
    move(bias.device, bias.host);
    if (find(&p, CUBLASLT_REDUCTION_SCHEME_MASK)) {
        OK(run(&p, &p.best.algo, WORKSPACE));
        finish();
        move(d.host, d.device);
        DML_CHECK(isnan(get(d.host, p.out, 3)) && !isnan(get(d.host, p.out, 4)));
    }
    forget(&p);
}

static void gelu_is_the_tanh_form_and_leaves_its_input(void **state)
{
    (void)state;
    product p;
    if (!with_epilogue(&p, CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUDA_R_16BF)) return;
    for (int e = 0; e < M * N; e++) {
        const float x = exact(&p, e % M, e / M) + get(bias.host, p.out, e % M);
        const float u = 0.79788456f * (x + 0.044715f * x * x * x);
        near(x, get(aux.host, p.out, e / M * AUX_LD + e % M), p.out);
        near(0.5f * x * (1.0f + tanhf(u)), get(d.host, p.out, e), p.out);
    }
    forget(&p);
    if (!with_epilogue(&p, CUBLASLT_EPILOGUE_DGELU, CUDA_R_16BF)) return;
    for (int e = 0; e < M * N; e++) {
        const float x = get(aux.host, p.out, e / M * AUX_LD + e % M);
        const float t = tanhf(0.79788456f * (x + 0.044715f * x * x * x));
        const float inner = 0.79788456f * (1.0f + 0.134145f * x * x);
        const float slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
        near(exact(&p, e % M, e / M) * slope, get(d.host, p.out, e), p.out);
    }
    forget(&p);
}

static void bgradb_sums_the_second_matrix_over_k(void **state)
{
    (void)state;
    product p;
    for (int i = 0; i < 2; i++) {
        if (!with_epilogue(&p, CUBLASLT_EPILOGUE_BGRADB, i ? CUDA_R_16BF : CUDA_R_32F)) continue;
        move(bias.host, bias.device);
        for (int j = 0; j < N; j++) {
            float sum = 0.0f;
            for (int k = 0; k < K; k++)
                sum += get(b.host, p.in, j * K + k);
            near(sum, get(bias.host, p.out, j), p.out);
        }
        forget(&p);
    }
}

/* ---- */

/* Names, values and sizes of all attributes that gemm_cublaslt.c sets. */
static void all_our_attributes_are_known(void **state)
{
    (void)state;
    static const cublasLtMatmulPreferenceAttributes_t align[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t word = 16, mask = CUBLASLT_REDUCTION_SCHEME_NONE;
    product p = {.compute = CUBLAS_COMPUTE_32F_FAST_TF32,
                 .epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS};
    cublasLtMatmulPreference_t wish;
    describe(&p);
    forget(&p);
    OK(cublasLtMatmulPreferenceCreate(&wish));
    for (size_t i = 0; i < sizeof align / sizeof *align; i++)
        OK(cublasLtMatmulPreferenceSetAttribute(wish, align[i], &word, sizeof word));
    OK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &mask,
                                            sizeof mask));
    OK(cublasLtMatmulPreferenceDestroy(wish));
}

int main(void)
{
    int n = 0;
    const struct CMUnitTest everywhere[] = {
        cmocka_unit_test(a_status_has_a_name_and_a_text),
        cmocka_unit_test(an_attribute_of_the_wrong_size_is_refused),
        cmocka_unit_test(all_our_attributes_are_known),
    };
    const struct CMUnitTest with_gpu[] = {
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
        cmocka_unit_test(products_of_all_our_types_and_transposes_are_right),
        cmocka_unit_test(an_algorithm_can_be_kept_as_bytes),
        cmocka_unit_test(a_bias_is_one_number_a_row),
        cmocka_unit_test(relu_leaves_a_bit_where_it_let_through),
        cmocka_unit_test(a_nan_goes_through_relu),
        cmocka_unit_test(gelu_is_the_tanh_form_and_leaves_its_input),
        cmocka_unit_test(bgradb_sums_the_second_matrix_over_k),
    };
    const int failures = cmocka_run_group_tests(everywhere, NULL, NULL);
    if (cudaGetDeviceCount(&n) == cudaSuccess && n > 0)
        return failures + cmocka_run_group_tests(with_gpu, set_up, take_down);
    printf("no GPU: products are not tested\n");
    return failures;
}
