/* engine/data_loader.c - one mutex over three counters; the buffers themselves need no lock.
 *
 *   released <= taken <= filled <= released + depth
 *
 * A buffer is written by the thread only while it is outside [released, filled), and read by the worker only
 * while it is inside [released, taken).  `seek` sets all three to zero and raises `generation`; a fill that was
 * under way then is not counted.  Waits are on two sequence words (base/wait.h): `ready` moves with
 * filled, `wake` with everything that could give the thread work.
 */
#include "engine/data_loader.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* A place in the line. */
typedef struct cursor {
    int64_t step; /* the segment's first */
    int32_t i;    /* into mbs */
} cursor;

struct dml_loader {
    dml_loader_config config;
    int32_t *mbs; /* [n_mbs], owned; config.mbs points here */
    int64_t slot_bytes, labels_at;

    pthread_t thread;
    pthread_mutex_t mutex;
    int64_t filled, taken, released; /* under the mutex, like all below */
    uint64_t generation;
    bool stop;
    cursor next_fill, next_take;
    _Atomic uint32_t ready, wake;
};

static int64_t align64(int64_t bytes)
{
    return (bytes + 63) & ~INT64_C(63);
}

static int64_t image_bytes(const dml_data *data, dml_data_parts parts)
{
    const int64_t elems = dml_data_mb_samples(data) * dml_data_sample_elems(data);
    return parts & DML_DATA_IMAGES ? align64(elems * (int64_t)sizeof(float)) : 0;
}

static int64_t slot_bytes(const dml_data *data, dml_data_parts parts)
{
    const int64_t labels = dml_data_mb_samples(data) * (int64_t)sizeof(int32_t);
    return image_bytes(data, parts) + (parts & DML_DATA_LABELS ? align64(labels) : 0);
}

int64_t dml_loader_bytes(const dml_data *data, dml_data_parts parts, int32_t depth)
{
    return slot_bytes(data, parts) * depth;
}

/* ---- the line ---- */

static int32_t segment_steps(const dml_loader *l, int64_t step)
{
    return dml_segment_steps(&l->config.segments, step, l->config.end_step);
}

static int32_t rows_of(const dml_loader *l, int64_t step, int32_t mb)
{
    return dml_segment_rows(&l->config.segments, l->config.data, step, segment_steps(l, step), mb);
}

/* Moves on from micro-batches without samples. */
static cursor settle(const dml_loader *l, cursor c)
{
    while (c.step < l->config.end_step) {
        if (c.i == l->config.n_mbs) {
            c.step += segment_steps(l, c.step);
            c.i = 0;
        } else if (rows_of(l, c.step, l->mbs[c.i]) == 0) {
            c.i++;
        } else {
            break;
        }
    }
    return c;
}

static cursor after(const dml_loader *l, cursor c)
{
    c.i++;
    return settle(l, c);
}

static void start_line(dml_loader *l, int64_t step)
{
    l->filled = l->taken = l->released = 0;
    l->next_fill = l->next_take = settle(l, (cursor){.step = step});
}

/* Buffer number `k` of the line, as what `c` holds. */
static dml_batch buffer(const dml_loader *l, int64_t k, cursor c)
{
    char *slot = (char *)l->config.memory + k % l->config.depth * l->slot_bytes;
    return (dml_batch){
        .images = l->config.parts & DML_DATA_IMAGES ? (float *)slot : NULL,
        .labels = l->config.parts & DML_DATA_LABELS ? (int32_t *)(slot + l->labels_at) : NULL,
        .rows = rows_of(l, c.step, l->mbs[c.i]),
    };
}

/* ---- the thread ---- */

static void fill(dml_loader *l, int64_t k, cursor c)
{
    char *slot = (char *)l->config.memory + k % l->config.depth * l->slot_bytes;
    const dml_segments *s = &l->config.segments;
    const int64_t step = c.step + dml_segment_step_of(s, l->mbs[c.i]);
    const int32_t mb = dml_segment_mb_of(s, l->mbs[c.i]);
    if (l->config.parts & DML_DATA_IMAGES)
        dml_data_fill_images(l->config.data, step, mb, (float *)slot);
    if (l->config.parts & DML_DATA_LABELS)
        dml_data_fill_labels(l->config.data, step, mb, (int32_t *)(slot + l->labels_at));
}

static bool has_work(const dml_loader *l)
{
    return l->next_fill.step < l->config.end_step && l->filled - l->released < l->config.depth;
}

static void *run(void *arg)
{
    dml_loader *l = arg;
    pthread_mutex_lock(&l->mutex);
    while (!l->stop) {
        if (!has_work(l)) {
            const uint32_t seen = atomic_load(&l->wake);
            pthread_mutex_unlock(&l->mutex);
            dml_wait_reached(&l->wake, seen + 1, INT64_MAX, NULL, "work for the loader");
            pthread_mutex_lock(&l->mutex);
            continue;
        }
        const uint64_t generation = l->generation;
        const int64_t k = l->filled;
        const cursor c = l->next_fill;
        pthread_mutex_unlock(&l->mutex);
        fill(l, k, c);
        pthread_mutex_lock(&l->mutex);
        if (l->generation != generation) continue;
        l->filled++;
        l->next_fill = after(l, c);
        dml_wait_advance(&l->ready);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

/* Signals are for the program's other threads. */
static dml_err start_thread(dml_loader *l)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int code = pthread_create(&l->thread, NULL, run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "no thread for the data loader: %s", strerror(code));
    pthread_setname_np(l->thread, "dml-loader");
    return DML_ERR_OK;
}

dml_err dml_loader_open(const dml_loader_config *config, dml_loader **out)
{
    DML_ASSERT_OP(config->depth, >=, 1);
    DML_ASSERT(config->parts != DML_DATA_COUNTS && config->memory);
    dml_err err;
    dml_loader *l = calloc(1, sizeof *l);
    if (!l) DML_FAIL(DML_ERR_NOMEM, "no memory for a data loader");
    l->config = *config;
    l->mbs = malloc((size_t)config->n_mbs * sizeof *l->mbs + 1);
    if (!l->mbs) {
        err = dml_err_set(DML_ERR_NOMEM, __FILE__, __LINE__, "no memory for a data loader");
        goto fail_mbs;
    }
    memcpy(l->mbs, config->mbs, (size_t)config->n_mbs * sizeof *l->mbs);
    l->config.mbs = l->mbs;
    l->slot_bytes = slot_bytes(config->data, config->parts);
    l->labels_at = image_bytes(config->data, config->parts);
    pthread_mutex_init(&l->mutex, NULL);
    start_line(l, config->first_step);
    err = start_thread(l);
    if (err != DML_ERR_OK) goto fail_thread;
    *out = l;
    return DML_ERR_OK;
fail_thread:
    pthread_mutex_destroy(&l->mutex);
    free(l->mbs);
fail_mbs:
    free(l);
    return err;
}

void dml_loader_close(dml_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->mutex);
    l->stop = true;
    dml_wait_advance(&l->wake);
    pthread_mutex_unlock(&l->mutex);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->mutex);
    free(l->mbs);
    free(l);
}

/* ---- the worker's side ---- */

/* Takes the next buffer if it is ready; else *seen is what `ready` must move beyond. */
static bool take(dml_loader *l, dml_batch *out, uint32_t *seen)
{
    pthread_mutex_lock(&l->mutex);
    const bool ready = l->taken < l->filled;
    if (ready) {
        *out = buffer(l, l->taken++, l->next_take);
        l->next_take = after(l, l->next_take);
    }
    *seen = atomic_load(&l->ready);
    pthread_mutex_unlock(&l->mutex);
    return ready;
}

dml_err dml_loader_get(dml_loader *l, int64_t step, int32_t mb, int64_t deadline_ns, dml_batch *out)
{
    if (rows_of(l, step, mb) == 0) {
        *out = (dml_batch){0};
        return DML_ERR_OK;
    }
    const cursor next = l->next_take; /* only this thread moves it */
    if (next.step >= l->config.end_step)
        DML_FAIL(DML_ERR_BUG, "micro-batch %d of step %" PRId64 " is beyond the loader's last step",
                 mb, step);
    if (next.step != step || l->mbs[next.i] != mb)
        DML_FAIL(DML_ERR_BUG,
                 "micro-batch %d of step %" PRId64 " was asked for, but %d of step %" PRId64
                 " is next in line",
                 mb, step, l->mbs[next.i], next.step);
    uint32_t seen;
    while (!take(l, out, &seen))
        DML_TRY(
            dml_wait_reached(&l->ready, seen + 1, deadline_ns, l->config.abort, "the data loader"));
    return DML_ERR_OK;
}

void dml_loader_release(dml_loader *l)
{
    pthread_mutex_lock(&l->mutex);
    DML_ASSERT_OP(l->released, <, l->taken);
    l->released++;
    dml_wait_advance(&l->wake);
    pthread_mutex_unlock(&l->mutex);
}

int32_t dml_loader_depth(const dml_loader *l)
{
    return l->config.depth;
}

void dml_loader_seek(dml_loader *l, int64_t step)
{
    pthread_mutex_lock(&l->mutex);
    l->generation++;
    start_line(l, step);
    dml_wait_advance(&l->wake);
    pthread_mutex_unlock(&l->mutex);
}
