/* kernels/cuda/context.c - a kernel context: opened and closed, its scratch, its step, its choices.
 *
 * A status from a launcher is that launch's alone, or the device's sticky error.
 */
#include "kernels/cuda/context.h"

#include "kernels/cuda/conv_cuda.h"
#include "kernels/cuda/entries.h"
#include "kernels/cuda/norm_cuda.h"

#include <stdlib.h>
#include <string.h>

struct dml_cuda_scratch_block {
    dml_cuda_scratch_block *older;
    void *memory; /* owned */
    int64_t bytes;
};

dml_err dml_cuda_launched(const dml_kctx *k, cudaError_t status, const char *file, int line,
                          const char *kernel)
{
    return dml_cuda_status(status, file, line, kernel, "queue '%s' of device %d",
                           dml_cuda_queue_name(k->queue), dml_cuda_index(k->device));
}

/* ---- scratch ---- */

dml_err dml_cuda_scratch(dml_kctx *k, const char *kernel, int64_t bytes, void **out)
{
    *out = NULL;
    if (k->config.plan_only) return DML_ERR_OK;
    if (!k->scratch || k->scratch->bytes < bytes) {
        if (k->sealed)
            DML_FAIL(DML_ERR_BUG, "%s: %lld bytes of scratch were not planned", kernel,
                     (long long)bytes);
        dml_cuda_scratch_block *block = calloc(1, sizeof *block);
        if (!block) DML_FAIL(DML_ERR_NOMEM, "no memory for a block of scratch");
        const dml_err err = DML_CUDA(cudaMalloc, (&block->memory, (size_t)bytes),
                                     "%lld bytes of scratch for %s", (long long)bytes, kernel);
        if (err != DML_ERR_OK) {
            cudaGetLastError(); /* out of memory is for the planner; later calls must not see it */
            free(block);
            return err;
        }
        block->bytes = bytes;
        block->older = k->scratch;
        k->scratch = block;
    }
    *out = k->scratch->memory;
    return DML_ERR_OK;
}

static void free_scratch(dml_cuda_scratch_block *block)
{
    while (block) {
        dml_cuda_scratch_block *older = block->older;
        cudaFree(block->memory);
        free(block);
        block = older;
    }
}

/* ---- the context ---- */

dml_err dml_cuda_begin_step(dml_kctx *k, const dml_step_words *words)
{
    const dml_cu_step step = {words->step, words->loss_scale, words->pace};
    DML_LAUNCHED(k, dml_cu_set_step(k->step, step, k->stream));
}

dml_err dml_cuda_open_context(dml_device *device, dml_queue *queue, const dml_kctx_config *config,
                              dml_kctx **out)
{
    const dml_gemm_config gemm = {config->deterministic, config->tf32, config->plan_only};
    const dml_step_words fresh = {.step = 0, .loss_scale = 1.0f};
    DML_TRY(DML_CUDA(cudaSetDevice, (dml_cuda_index(device)), "device %d", dml_cuda_index(device)));
    dml_kctx *k = calloc(1, sizeof *k);
    if (!k) DML_FAIL(DML_ERR_NOMEM, "no memory for a kernel context");
    k->device = device;
    k->queue = queue;
    k->stream = dml_cuda_stream(queue);
    k->config = *config;
    k->library_norm = dml_cuda_norm_by_library();
    dml_err err = dml_gemm_open(&gemm, &k->gemm);
    if (err == DML_ERR_OK)
        err = DML_CUDA(cudaMalloc, ((void **)&k->step, sizeof *k->step), "the words of a step");
    if (err == DML_ERR_OK) err = dml_cuda_begin_step(k, &fresh);
    if (err != DML_ERR_OK) {
        dml_cuda_close_context(k);
        return err;
    }
    *out = k;
    return DML_ERR_OK;
}

void dml_cuda_close_context(dml_kctx *k)
{
    if (!k) return;
    cudaSetDevice(dml_cuda_index(k->device));
    free_scratch(k->scratch);
    cudaFree(k->step);
    dml_cudnn_close(k->dnn);
    dml_gemm_close(k->gemm);
    free(k);
}

void dml_cuda_seal(dml_kctx *k)
{
    k->sealed = true;
    dml_gemm_seal(k->gemm);
    if (k->dnn) dml_cudnn_seal(k->dnn);
}

/* ---- choices: those of each library, one after another ---- */

typedef struct choices_head {
    int64_t gemm_bytes, dnn_bytes; /* a context without convolutions has 0 of the latter */
} choices_head;

dml_err dml_cuda_choices(dml_kctx *k, void *out, int64_t *bytes)
{
    choices_head head = {0};
    DML_TRY(dml_gemm_choices(k->gemm, NULL, &head.gemm_bytes));
    if (k->dnn) DML_TRY(dml_cudnn_choices(k->dnn, NULL, &head.dnn_bytes));
    const int64_t room = *bytes;
    *bytes = (int64_t)sizeof head + head.gemm_bytes + head.dnn_bytes;
    if (room < *bytes) return DML_ERR_OK;
    char *at = out;
    memcpy(at, &head, sizeof head);
    at += sizeof head;
    DML_TRY(dml_gemm_choices(k->gemm, at, &head.gemm_bytes));
    return k->dnn ? dml_cudnn_choices(k->dnn, at + head.gemm_bytes, &head.dnn_bytes) : DML_ERR_OK;
}

dml_err dml_cuda_choose(dml_kctx *k, const void *choices, int64_t bytes)
{
    choices_head head = {0};
    if (bytes >= (int64_t)sizeof head) memcpy(&head, choices, sizeof head);
    const int64_t behind = bytes - (int64_t)sizeof head;
    if (behind < 0 || head.gemm_bytes < 0 || head.gemm_bytes > behind ||
        head.dnn_bytes != behind - head.gemm_bytes)
        DML_FAIL(DML_ERR_UNAVAILABLE, "%lld bytes are not a list of chosen algorithms",
                 (long long)bytes);
    const char *at = (const char *)choices + sizeof head;
    DML_TRY(dml_gemm_choose(k->gemm, at, head.gemm_bytes));
    if (head.dnn_bytes == 0) return DML_ERR_OK;
    dml_cudnn *dnn = NULL;
    DML_TRY(dml_cuda_cudnn(k, &dnn));
    return dml_cudnn_choose(dnn, at + head.gemm_bytes, head.dnn_bytes);
}
