/* kernels/cuda/dnn_cudnn.c - cuDNN behind dnn.h: a handle on the queue's stream, and a plan an operation. */
#include "kernels/cuda/dnn_plan.h"

#include "kernels/cuda/device_cuda.h"

#include <stdio.h>
#include <stdlib.h>

struct dml_cudnn {
    cudnnHandle_t handle;
    dml_cudnn_book book; /* of dml_cudnn_ready */
};

static dml_err start(dml_cudnn *d, const dml_cudnn_config *config)
{
    int device = 0;
    struct cudaDeviceProp properties;
    char library[32];
    snprintf(library, sizeof library, "cuDNN %zu", cudnnGetVersion());
    DML_TRY(DML_CUDA(cudaGetDevice, (&device), "for cuDNN"));
    DML_TRY(DML_CUDA(cudaGetDeviceProperties, (&properties, device), "device %d", device));
    DML_TRY(DML_CUDNN(cudnnCreate, (&d->handle)));
    dml_cudnn_book_init(&d->book, library, properties.name, config);
    const dml_err err = DML_CUDNN(cudnnSetStream, (d->handle, config->stream));
    if (err != DML_ERR_OK) cudnnDestroy(d->handle);
    return err;
}

dml_err dml_cudnn_open(const dml_cudnn_config *config, dml_cudnn **out)
{
    dml_cudnn *d = calloc(1, sizeof *d);
    if (!d) DML_FAIL(DML_ERR_NOMEM, "no memory for a handle of cuDNN");
    const dml_err err = start(d, config);
    if (err != DML_ERR_OK) {
        free(d);
        return err;
    }
    *out = d;
    return DML_ERR_OK;
}

static void free_ready(void *plan)
{
    dml_cudnn_ready_free(plan);
    free(plan);
}

void dml_cudnn_close(dml_cudnn *d)
{
    if (!d) return;
    dml_cudnn_book_free(&d->book, free_ready);
    cudnnDestroy(d->handle);
    free(d);
}

void dml_cudnn_seal(dml_cudnn *d)
{
    d->book.sealed = true;
}

static dml_err make(void *owner, dml_cudnn_page *page, const dml_cudnn_choice *wanted)
{
    const dml_cudnn *d = owner;
    const dml_cudnn_target target = {.handle = d->handle};
    const dml_cudnn_rules rules = {d->book.origin.tf32, DML_CUDNN_WORKSPACE};
    dml_cudnn_ready *r = malloc(sizeof *r);
    if (!r) DML_FAIL(DML_ERR_NOMEM, "no memory for a plan of cuDNN");
    const dml_err err = dml_cudnn_ready_init(r, &target, &rules, &page->op, wanted);
    if (err != DML_ERR_OK) {
        free(r);
        return err;
    }
    page->plan = r;
    page->choice = r->choice;
    page->workspace_bytes = r->workspace_bytes;
    return DML_ERR_OK;
}

dml_err dml_cudnn_plan(dml_cudnn *d, const dml_cudnn_op *op, int64_t *workspace_bytes)
{
    dml_cudnn_page *page;
    DML_TRY(dml_cudnn_book_plan(&d->book, op, make, d, &page));
    *workspace_bytes = page->workspace_bytes;
    return DML_ERR_OK;
}

dml_err dml_cudnn_run(dml_cudnn *d, const dml_cudnn_op *op, void *const memory[DML_CUDNN_SLOTS],
                      void *workspace)
{
    dml_cudnn_page *page;
    DML_TRY(dml_cudnn_book_plan(&d->book, op, make, d, &page));
    return dml_cudnn_ready_run(page->plan, d->handle, memory, workspace);
}

dml_err dml_cudnn_choices(const dml_cudnn *d, void *out, int64_t *bytes)
{
    return dml_cudnn_book_choices(&d->book, out, bytes);
}

dml_err dml_cudnn_choose(dml_cudnn *d, const void *choices, int64_t bytes)
{
    return dml_cudnn_book_choose(&d->book, choices, bytes);
}
