/* bench/comm_rank.c - the operations: what is moved, how it is checked, how long it takes. */
#include "bench/comm_rank.h"

#include "bench/comm_busy.h"
#include "engine/base/clock.h"
#include "kernels/backend.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { PATIENCE_S = 60 };

typedef struct rank {
    const comm_options *o;
    const dml_backend *backend;
    const dml_transport_api *api;
    const dml_device_api *dev; /* NULL: memory of the transport is the host's, and calls block */
    dml_device *device;
    dml_queue *send, *recv; /* NULL on the host */
    dml_transport *t;
    dml_group *g;
    float *buffer; /* as large as the largest size */
    float *source; /* what sendrecv sends, as large */
    float *host;   /* as large: the host's view of one of them */
    int32_t me, n;
} rank;

static dml_err settle(rank *r)
{
    if (!r->dev) return DML_ERR_OK;
    const int64_t deadline_ns = dml_clock_ns() + PATIENCE_S * DML_NS_PER_S;
    DML_TRY(r->dev->sync(r->send, deadline_ns));
    return r->dev->sync(r->recv, deadline_ns);
}

/* The first `bytes` of r->host into `to`, or of `from` into r->host. */
static dml_err put(rank *r, float *to, int64_t bytes)
{
    if (!r->dev) {
        memcpy(to, r->host, (size_t)bytes);
        return DML_ERR_OK;
    }
    DML_TRY(r->dev->copy(r->send, to, r->host, bytes));
    return settle(r);
}

static dml_err get(rank *r, const float *from, int64_t bytes)
{
    if (!r->dev) {
        memcpy(r->host, from, (size_t)bytes);
        return DML_ERR_OK;
    }
    DML_TRY(r->dev->copy(r->send, r->host, from, bytes));
    return settle(r);
}

/* Member m's element i: sums over members stay exact in float. */
static float value(int32_t m, int64_t i)
{
    return (float)((m + 1) * (int32_t)(i % 1021));
}

static void fill(const rank *r, float *out, int64_t elems)
{
    for (int64_t i = 0; i < elems; i++)
        out[i] = value(r->me, i);
}

static int64_t differ(const float *got, int64_t from, int64_t to, int32_t m, int32_t times)
{
    int64_t wrong = 0;
    for (int64_t i = from; i < to; i++)
        wrong += got[i - from] != value(m, i) * (float)times;
    return wrong;
}

/* All ranks are here; what lies in source[0] is zero before and after. */
static dml_err together(rank *r)
{
    DML_TRY(r->api->all_reduce(r->g, r->send, r->source, 1, DML_F32, DML_SUM));
    return settle(r);
}

/* ---- the operations ---- */

/* `run` makes `times` iterations; `prepare` fills r->host with what they start from, `wrong` counts in r->host
 * what differs after one. */
typedef struct op {
    const char *name, *reduction;
    bool parts; /* the buffer is n parts of `count` elements each */
    bool busy;  /* timed while products run */
    double factor;
    dml_err (*run)(rank *r, int64_t count, int times);
    void (*prepare)(rank *r, int64_t count);
    int64_t (*wrong)(const rank *r, int64_t count);
} op;

static dml_err run_all_reduce(rank *r, int64_t count, int times)
{
    for (int k = 0; k < times; k++)
        DML_TRY(r->api->all_reduce(r->g, r->send, r->buffer, count, DML_F32, DML_SUM));
    return settle(r);
}

static void prepare_all_reduce(rank *r, int64_t count)
{
    fill(r, r->host, count);
}

static int64_t wrong_all_reduce(const rank *r, int64_t count)
{
    return differ(r->host, 0, count, 0, r->n * (r->n + 1) / 2);
}

static dml_err run_all_gather(rank *r, int64_t count, int times)
{
    for (int k = 0; k < times; k++)
        DML_TRY(r->api->all_gather(r->g, r->send, r->buffer, r->buffer + r->me * count,
                                   count * (int64_t)sizeof(float)));
    return settle(r);
}

static void prepare_all_gather(rank *r, int64_t count)
{
    memset(r->host, 0, (size_t)(r->n * count) * sizeof(float));
    fill(r, r->host + r->me * count, count);
}

static int64_t wrong_all_gather(const rank *r, int64_t count)
{
    int64_t wrong = 0;
    for (int32_t m = 0; m < r->n; m++)
        wrong += differ(r->host + m * count, 0, count, m, 1);
    return wrong;
}

static dml_err run_reduce_scatter(rank *r, int64_t count, int times)
{
    for (int k = 0; k < times; k++)
        DML_TRY(r->api->reduce_scatter(r->g, r->send, r->buffer, count, DML_F32, DML_SUM));
    return settle(r);
}

static void prepare_reduce_scatter(rank *r, int64_t count)
{
    fill(r, r->host, r->n * count);
}

static int64_t wrong_reduce_scatter(const rank *r, int64_t count)
{
    const int64_t from = r->me * count;
    return differ(r->host + from, from, from + count, 0, r->n * (r->n + 1) / 2);
}

static dml_err send_once(const rank *r, int64_t bytes)
{
    return r->api->send(r->t, r->send, (r->me + 1) % r->n, r->source, bytes, 0);
}

static dml_err receive_once(const rank *r, int64_t bytes)
{
    return r->api->recv(r->t, r->recv, (r->me + r->n - 1) % r->n, r->buffer, bytes, 0);
}

/* On the host sends block, so they have a thread of their own, as a worker's send lane. */
typedef struct sender {
    const rank *r;
    int64_t bytes;
    int times;
    dml_err err;
    char trail[COMM_TRAIL_BYTES];
} sender;

static void *send_all(void *arg)
{
    sender *s = arg;
    for (int k = 0; k < s->times && s->err == DML_ERR_OK; k++)
        s->err = send_once(s->r, s->bytes);
    snprintf(s->trail, sizeof s->trail, "%s", dml_err_trail());
    return NULL;
}

static dml_err receive_all(const sender *s)
{
    for (int k = 0; k < s->times; k++)
        DML_TRY(receive_once(s->r, s->bytes));
    return DML_ERR_OK;
}

static dml_err exchange_blocking(rank *r, int64_t bytes, int times)
{
    sender s = {.r = r, .bytes = bytes, .times = times};
    pthread_t thread;
    if (pthread_create(&thread, NULL, send_all, &s) != 0)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot start the sending thread");
    const dml_err err = receive_all(&s);
    pthread_join(thread, NULL);
    DML_TRY(err);
    if (s.err != DML_ERR_OK) dml_err_trail_put(s.trail);
    return s.err;
}

static dml_err run_sendrecv(rank *r, int64_t count, int times)
{
    const int64_t bytes = count * (int64_t)sizeof(float);
    if (!r->dev) return exchange_blocking(r, bytes, times);
    for (int k = 0; k < times; k++) {
        DML_TRY(send_once(r, bytes));
        DML_TRY(receive_once(r, bytes));
    }
    return settle(r);
}

static int64_t wrong_sendrecv(const rank *r, int64_t count)
{
    return differ(r->host, 0, count, (r->me + r->n - 1) % r->n, 1);
}

/* What one copy costs while the other ranks wait: the measure of the rest. */
static dml_err run_memcpy(rank *r, int64_t count, int times)
{
    const int64_t bytes = count * (int64_t)sizeof(float);
    for (int k = 0; k < times && r->me == 0; k++) {
        if (r->dev)
            DML_TRY(r->dev->copy(r->send, r->buffer, r->source, bytes));
        else
            memcpy(r->buffer, r->source, (size_t)bytes);
    }
    DML_TRY(settle(r));
    return together(r);
}

static int64_t wrong_memcpy(const rank *r, int64_t count)
{
    return differ(r->host, 0, count, r->me, 1);
}

/* clang-format off */
static const op ops[] = {
    /* name            reduction parts busy   factor */
    {"all_reduce",     "sum",  false, false, 2.0, run_all_reduce,     prepare_all_reduce,     wrong_all_reduce},
    {"all_gather",     "none", true,  false, 1.0, run_all_gather,     prepare_all_gather,     wrong_all_gather},
    {"reduce_scatter", "sum",  true,  false, 1.0, run_reduce_scatter, prepare_reduce_scatter, wrong_reduce_scatter},
    {"sendrecv",       "none", false, false, 0.0, run_sendrecv,       prepare_all_reduce,     wrong_sendrecv},
    {"sendrecv_busy",  "none", false, true,  0.0, run_sendrecv,       prepare_all_reduce,     wrong_sendrecv},
    {"memcpy",         "none", false, false, 0.0, run_memcpy,         prepare_all_reduce,     wrong_memcpy},
};
/* clang-format on */
enum { OPS = sizeof ops / sizeof *ops };

const char *comm_op_name(int32_t k)
{
    return k < OPS ? ops[k].name : NULL;
}

const char *comm_op_reduction(int32_t k)
{
    return ops[k].reduction;
}

/* Factor 0: a transfer, which each link carries whole. */
double comm_op_bus_factor(int32_t k, int32_t n)
{
    return ops[k].factor > 0.0 ? ops[k].factor * (n - 1) / n : 1.0;
}

/* ---- measuring ---- */

/* One call of its own. */
static dml_err check(rank *r, const op *p, comm_line *out)
{
    p->prepare(r, out->count);
    DML_TRY(put(r, r->buffer, out->bytes));
    DML_TRY(put(r, r->source, out->bytes));
    DML_TRY(p->run(r, out->count, 1));
    DML_TRY(get(r, r->buffer, out->bytes));
    out->wrong[r->me] = p->wrong(r, out->count);
    return DML_ERR_OK;
}

static dml_err time_iterations(rank *r, const op *p, comm_line *out)
{
    const int64_t begin_ns = dml_clock_ns();
    DML_TRY(p->run(r, out->count, r->o->iterations));
    out->time_us[r->me] = (double)(dml_clock_ns() - begin_ns) * 1e-3 / r->o->iterations;
    return DML_ERR_OK;
}

/* All ranks multiply before the first begins to send, and until the last has received. */
static dml_err time_beside_products(rank *r, const op *p, comm_line *out)
{
    comm_busy *busy;
    int64_t products;
    DML_TRY(comm_busy_begin(r->backend, r->device, &busy));
    const int64_t begin_ns = dml_clock_ns();
    dml_err err = together(r);
    if (err == DML_ERR_OK) err = time_iterations(r, p, out);
    if (err == DML_ERR_OK) err = together(r);
    const double ns = (double)(dml_clock_ns() - begin_ns);
    const dml_err ended = comm_busy_end(busy, r->device, &products);
    out->beside_gflop_s[r->me] = (double)products * COMM_BUSY_FLOPS / ns;
    return err != DML_ERR_OK ? err : ended;
}

static dml_err measure(rank *r, const op *p, comm_line *out)
{
    if (r->o->check) DML_TRY(check(r, p, out));
    memset(r->host, 0, (size_t)out->bytes); /* repeated sums of zeros stay zeros */
    DML_TRY(put(r, r->buffer, out->bytes));
    DML_TRY(p->run(r, out->count, r->o->warmups));
    DML_TRY(together(r));
    DML_TRY(p->busy ? time_beside_products(r, p, out) : time_iterations(r, p, out));
    return together(r);
}

static dml_err measure_all(rank *r, comm_board *b)
{
    const comm_options *o = r->o;
    int32_t lines = 0;
    for (int32_t k = 0; k < OPS; k++) {
        if (o->op && strcmp(o->op, ops[k].name) != 0) continue;
        for (int64_t bytes = o->min_bytes; bytes <= o->max_bytes; bytes *= o->factor) {
            const int64_t elems = bytes / (int64_t)sizeof(float);
            const int64_t count = ops[k].parts ? elems / r->n : elems;
            if (count < 1 || lines == COMM_LINES) continue;
            comm_line *out = &b->line[lines++];
            if (r->me == 0) {
                out->op = k;
                out->count = count;
                out->bytes = count * (ops[k].parts ? r->n : 1) * (int64_t)sizeof(float);
            }
            DML_TRY(together(r)); /* rank 0 has written the line */
            DML_TRY(measure(r, &ops[k], out));
        }
    }
    b->lines = lines;
    return DML_ERR_OK;
}

/* ---- opening ---- */

/* More ranks than GPUs share them, as few as possible on each. */
static dml_err open_device(rank *r, const dml_backend *backend, const dml_abort *abort,
                           int32_t devices, int32_t per_device)
{
    const dml_device_config config = {
        .index = r->me / per_device, .threads = 1, .queue_capacity = 8, .abort = abort};
    if (devices == 0) return DML_ERR_OK;
    r->dev = backend->device;
    DML_TRY(r->dev->open(&config, &r->device));
    DML_TRY(r->dev->queue_open(r->device, "send", &r->send));
    return r->dev->queue_open(r->device, "recv", &r->recv);
}

static dml_err open_memory(rank *r)
{
    void *buffer, *source, *host;
    DML_TRY(r->api->alloc(r->t, r->o->max_bytes, &buffer));
    DML_TRY(r->api->alloc(r->t, r->o->max_bytes, &source));
    if (r->dev)
        DML_TRY(r->dev->host_alloc(r->device, r->o->max_bytes, &host));
    else
        DML_TRY(r->api->alloc(r->t, r->o->max_bytes, &host));
    r->buffer = buffer;
    r->source = source;
    r->host = host;
    return DML_ERR_OK;
}

static dml_err meet(rank *r)
{
    int32_t all[COMM_RANKS];
    dml_pair ring[COMM_RANKS];
    for (int32_t i = 0; i < r->n; i++)
        all[i] = i;
    for (int32_t i = 0; i < r->n; i++)
        ring[i] = (dml_pair){&all[i], &all[(i + 1) % r->n], 1, 1};
    DML_TRY(r->api->meet(r->t, ring, r->n));
    return r->api->group_open(r->t, all, r->n, 0, &r->g);
}

dml_err comm_rank_run(const comm_options *o, int32_t me, const int *fds, comm_board *b)
{
    rank r = {.o = o, .me = me, .n = o->ranks};
    const dml_backend *backend = NULL;
    DML_TRY(dml_backend_find(o->backend, &backend));
    r.backend = backend;
    char why[64];
    const int32_t devices = backend->on_host ? 0 : backend->device->count(why, sizeof why);
    const int32_t per_device = devices > 0 ? (o->ranks + devices - 1) / devices : 1;
    const dml_transport_config config = {
        .rank = me,
        .world = o->ranks,
        .memory_bytes = 3 * (o->max_bytes + 256),
        .timeout_ns = PATIENCE_S * DML_NS_PER_S,
        .abort = &b->abort,
        .ranks_per_device = per_device,
        .fds = fds,
    };
    DML_TRY(open_device(&r, backend, &b->abort, devices, per_device));
    DML_TRY(dml_transport_find(backend->transport, &r.api));
    DML_TRY(r.api->open(&config, r.device, &r.t));
    if (me == 0) {
        b->devices = devices;
        snprintf(b->backend, sizeof b->backend, "%s", backend->label);
        snprintf(b->transport, sizeof b->transport, "%s", r.api->name);
        if (r.api->library) snprintf(b->library, sizeof b->library, "%s", r.api->library());
    }
    DML_TRY(open_memory(&r));
    DML_TRY(meet(&r));
    DML_TRY(measure_all(&r, b));
    r.api->group_close(r.g);
    return r.api->close(r.t);
}
