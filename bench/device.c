/* bench/device.c - memory and queues of a device for the rows that ceilings, gemm and conv measure.
 *
 * All rows are measured in turn, round after round, each round with a ceiling of its own, so that a row's share compares
 * neighbours in time.  Time is the device's, between two events.
 */
#include "bench/ceilings.h"

#include "engine/base/clock.h"

#include <string.h>

/* Of a sample: enough calls to last that long, but no more than that many. */
enum { SAMPLE_US = 5000, MOST_REPEATS = 200 };

/* ---- memory ---- */

/* A word whose upper half is a BF16 of -1 .. 1, whose lower half is another, and which so is a float too. */
static uint32_t noise(uint32_t i)
{
    const float value[2] = {(float)(int32_t)(i * UINT32_C(2654435761)) * 0x1p-31f,
                            (float)(int32_t)(i * UINT32_C(2246822519)) * 0x1p-31f};
    uint32_t bits[2];
    memcpy(bits, value, sizeof bits);
    return (bits[0] & UINT32_C(0xffff0000)) | bits[1] >> 16;
}

static dml_err fill_with_noise(const bench_device *b, char *to, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += b->host_bytes)
        DML_TRY(b->backend->device->copy(b->queue, to + at, b->host,
                                         bytes - at < b->host_bytes ? bytes - at : b->host_bytes));
    return DML_ERR_OK;
}

static dml_err wait_for(const bench_device *b)
{
    return b->backend->device->sync(b->queue, dml_clock_ns() + 120 * DML_NS_PER_S);
}

static dml_err open_memory(bench_device *b)
{
    const dml_device_api *d = b->backend->device;
    char **const buffers[] = {&b->a, &b->b, &b->c, &b->wide};
    b->host_bytes = b->elems * 4 < INT64_C(64) << 20 ? b->elems * 4 : INT64_C(64) << 20;
    DML_TRY(d->host_alloc(b->device, b->host_bytes, &b->host));
    for (int64_t i = 0; i < b->host_bytes / 4; i++)
        ((uint32_t *)b->host)[i] = noise((uint32_t)i);
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        const int64_t bytes = b->elems * (buffers[i] == &b->wide ? 8 : 4);
        DML_TRY(d->alloc(b->device, bytes, (void **)buffers[i]));
        if (i < 3) DML_TRY(fill_with_noise(b, *buffers[i], bytes));
    }
    for (size_t i = 0; i < sizeof b->small / sizeof *b->small; i++)
        DML_TRY(d->alloc(b->device, BENCH_SMALL_BYTES, (void **)&b->small[i]));
    DML_TRY(wait_for(b));
    for (int i = 0; i < BENCH_CHANNELS; i++)
        ((float *)b->host)[i] = 1.0f;
    DML_TRY(d->copy(b->queue, b->small[0], b->host, BENCH_CHANNELS * (int64_t)sizeof(float)));
    return wait_for(b);
}

dml_err bench_device_open(const bench_device_config *c, bench_device *b)
{
    *b = (bench_device){.elems = c->elems};
    DML_TRY(dml_backend_find(c->backend, &b->backend));
    const dml_device_api *d = b->backend->device;
    const dml_device_config device = {
        .index = c->index, .threads = c->threads, .queue_capacity = MOST_REPEATS + 8};
    DML_TRY(d->open(&device, &b->device));
    DML_TRY(d->queue_open(b->device, "bench", &b->queue));
    DML_TRY(d->event_open(b->device, &b->begin));
    DML_TRY(d->event_open(b->device, &b->end));
    for (int tf32 = 0; tf32 < 2; tf32++) {
        const dml_kctx_config config = {.threads = c->threads, .tf32 = tf32};
        DML_TRY(b->backend->kernels->open(b->device, b->queue, &config, &b->k[tf32]));
    }
    return open_memory(b);
}

void bench_device_close(bench_device *b)
{
    if (!b->device) return;
    const dml_device_api *d = b->backend->device;
    for (int i = 0; i < 2; i++)
        b->backend->kernels->close(b->k[i]);
    d->event_close(b->begin);
    d->event_close(b->end);
    d->queue_close(b->queue);
    void *const memory[] = {b->a, b->b, b->c, b->wide};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i]) d->free(b->device, memory[i]);
    for (size_t i = 0; i < sizeof b->small / sizeof *b->small; i++)
        if (b->small[i]) d->free(b->device, b->small[i]);
    if (b->host) d->host_free(b->device, b->host);
    d->close(b->device);
}

/* ---- measuring ---- */

typedef struct call {
    const bench_device *b;
    const bench_row *r;
    int32_t repeats;
} call;

static dml_err run_job(void *arg)
{
    const call *c = arg;
    for (int32_t i = 0; i < c->repeats; i++)
        DML_TRY(c->r->run(c->b, c->r));
    return DML_ERR_OK;
}

/* Rows without a kernel: within the device, to it, from it. */
static dml_err run_copies(const bench_device *b, const bench_row *r, int32_t repeats)
{
    void *const host = b->host, *const device = b->b;
    for (int32_t i = 0; i < repeats; i++)
        DML_TRY(b->backend->device->copy(b->queue, r == &b->rows[2] ? host : device,
                                         r == &b->rows[0]   ? b->a
                                         : r == &b->rows[1] ? host
                                                            : device,
                                         r == &b->rows[0] ? b->elems * 4 : b->host_bytes));
    return DML_ERR_OK;
}

/* Microseconds of a call, from `repeats` of them. */
static dml_err sample(const bench_device *b, const bench_row *r, int32_t repeats, double *us)
{
    const dml_device_api *d = b->backend->device;
    call c = {b, r, repeats};
    int64_t ns;
    DML_TRY(d->record(b->queue, b->begin));
    if (r->run)
        DML_TRY(d->submit(b->queue, run_job, &c));
    else
        DML_TRY(run_copies(b, r, repeats));
    DML_TRY(d->record(b->queue, b->end));
    DML_TRY(wait_for(b)); /* `c` is borrowed until then */
    DML_TRY(d->elapsed(b->begin, b->end, &ns));
    *us = (double)(ns > 0 ? ns : 1) * 1e-3 / repeats;
    return DML_ERR_OK;
}

/* A row that others are compared with is always measured. */
bool bench_row_wanted(const bench_device *b, const bench_row *r, const char *filter)
{
    return !filter || r == &b->rows[r->ceiling > 0 ? r->ceiling : 0] || strstr(r->name, filter);
}

bool bench_row_here(const bench_device *b, const bench_row *r)
{
    return r->kernel < 0 || dml_kernel_here(b->backend->kernels, r->kernel);
}

dml_err bench_rows_measure(bench_device *b, int32_t rounds, const char *filter)
{
    int32_t repeats[BENCH_ROWS];
    for (int32_t i = 0; i < b->n_rows; i++) {
        double us;
        if (!bench_row_wanted(b, &b->rows[i], filter) || !bench_row_here(b, &b->rows[i])) continue;
        DML_TRY(sample(b, &b->rows[i], 1, &us)); /* makes plans */
        DML_TRY(sample(b, &b->rows[i], 1, &us));
        const double n = SAMPLE_US / us;
        repeats[i] = n < 1 ? 1 : n > MOST_REPEATS ? MOST_REPEATS : (int32_t)n;
    }
    for (int round = 0; round < rounds; round++)
        for (int32_t i = 0; i < b->n_rows; i++) {
            bench_row *r = &b->rows[i];
            if (!bench_row_wanted(b, r, filter) || !bench_row_here(b, r)) continue;
            DML_TRY(sample(b, r, repeats[i], &r->us[round]));
            r->rate[round] = r->work / r->us[round] * (r->product ? 1e-6 : 1e-3);
            if (r->ceiling >= 0) r->share[round] = r->rate[round] / b->rows[r->ceiling].rate[round];
        }
    return DML_ERR_OK;
}
