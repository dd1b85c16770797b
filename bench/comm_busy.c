/* bench/comm_busy.c - products that run beside a transfer, as a stage's do. */
#include "bench/comm_busy.h"

#include "engine/base/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 512, PATIENCE_S = 60 };

struct comm_busy {
    const dml_backend *backend;
    dml_queue *queue; /* NULL on a host */
    dml_kctx *k;
    float *memory; /* [3][SIDE][SIDE] on the device */
    dml_tensor y, x, w;
    pthread_t thread;
    atomic_bool stop;
    int64_t products;
    dml_err err;
    char trail[512];
};

static dml_err multiply(void *arg)
{
    const comm_busy *b = arg;
    return b->backend->kernels->linear_fwd(b->k, &b->y, &b->x, &b->w, NULL);
}

static dml_err one_product(comm_busy *b)
{
    const dml_device_api *d = b->backend->device;
    if (!b->queue) return multiply(b);
    DML_TRY(d->submit(b->queue, multiply, b));
    return d->sync(b->queue, dml_clock_ns() + PATIENCE_S * DML_NS_PER_S);
}

static void *keep_busy(void *arg)
{
    comm_busy *b = arg;
    for (; b->err == DML_ERR_OK && !atomic_load(&b->stop); b->products++)
        b->err = one_product(b);
    snprintf(b->trail, sizeof b->trail, "%s", dml_err_trail());
    return NULL;
}

static dml_err open_memory(comm_busy *b, dml_device *device)
{
    const int64_t dim[] = {SIDE, SIDE}, elems = SIDE * SIDE, bytes = 3 * elems * 4;
    if (!b->queue) {
        b->memory = calloc(1, (size_t)bytes);
        if (!b->memory) DML_FAIL(DML_ERR_NOMEM, "no memory for products");
    } else {
        void *memory; /* what is multiplied does not matter */
        DML_TRY(b->backend->device->alloc(device, bytes, &memory));
        b->memory = memory;
    }
    b->y = dml_tensor_of(b->memory, DML_F32, 2, dim);
    b->x = dml_tensor_of(b->memory + elems, DML_F32, 2, dim);
    b->w = dml_tensor_of(b->memory + 2 * elems, DML_F32, 2, dim);
    return DML_ERR_OK;
}

dml_err comm_busy_begin(const dml_backend *backend, dml_device *device, comm_busy **out)
{
    comm_busy *b = calloc(1, sizeof *b);
    if (!b) DML_FAIL(DML_ERR_NOMEM, "no memory for a thread");
    *out = b;
    b->backend = backend;
    if (device) DML_TRY(backend->device->queue_open(device, "compute", &b->queue));
    const dml_kctx_config config = {.threads = 1};
    DML_TRY(backend->kernels->open(device, b->queue, &config, &b->k));
    DML_TRY(open_memory(b, device));
    DML_TRY(one_product(b)); /* makes its plan */
    if (pthread_create(&b->thread, NULL, keep_busy, b) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot start the computing thread");
    return DML_ERR_OK;
}

dml_err comm_busy_end(comm_busy *b, dml_device *device, int64_t *products)
{
    atomic_store(&b->stop, true);
    pthread_join(b->thread, NULL);
    const dml_err err = b->err;
    if (err != DML_ERR_OK) dml_err_trail_put(b->trail);
    *products = b->products;
    b->backend->kernels->close(b->k);
    if (b->queue) {
        b->backend->device->free(device, b->memory);
        b->backend->device->queue_close(b->queue);
    } else {
        free(b->memory);
    }
    free(b);
    return err;
}
