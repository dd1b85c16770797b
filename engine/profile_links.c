/* engine/profile_links.c - transfers between two ranks, sums among the first 2, 3, ..., and votes of all, through the
 * transports that workers use.
 *
 *   transfer  half of a round trip between ranks 0 and 1
 *   sum       an all-reduce in place of float
 *
 * Each is the median of a few, by rank 0's clock.  On the host a transport call blocks; on a device it enqueues, and a time
 * ends when the queue is idle.
 */
#include "engine/profile_board.h"

#include "comm/transport.h"
#include "engine/base/clock.h"
#include "engine/update.h"

#include <string.h>

enum { SMALLEST = 64, LARGEST = 16 << 20, STEP = 4, WARM_UP = 3 };

typedef struct party {
    const dml_profile_job *j;
    int32_t me;
    const dml_transport_api *api;
    const dml_device_api *dev; /* NULL: calls block */
    dml_device *device;
    dml_queue *queue;
    dml_transport *t;
    void *buffer; /* [LARGEST] */
} party;

/* Fewer of what takes longer: the same on all ranks, since by size alone. */
static int32_t times_of(const party *p, int64_t bytes)
{
    const bool emulated =
        p->j->spec->parallelism.link_latency_ns > 0 || p->j->spec->parallelism.link_bytes_per_s > 0;
    if (emulated) return bytes > 1 << 20 ? 2 : 5;
    return bytes > 1 << 20 ? 9 : bytes > 1 << 16 ? 31 : 101;
}

/* The largest that is moved: over a slow emulated link what takes a fifth of a second. */
static int64_t most_of(const party *p)
{
    const dml_links links = dml_spec_links(p->j->spec);
    int64_t bytes = LARGEST;
    while (bytes > SMALLEST &&
           dml_link_ns(dml_links_between(&links, 0, 1), (double)bytes) > DML_NS_PER_S / 5)
        bytes /= STEP;
    return bytes;
}

static dml_err settle(const party *p)
{
    if (!p->dev) return DML_ERR_OK;
    return p->dev->sync(p->queue, dml_clock_ns() + p->j->spec->parallelism.timeout_ns);
}

/* ---- transfers --------------------------------------------------------------------------------------- */

static dml_err send(const party *p, int64_t bytes)
{
    DML_TRY(p->api->send(p->t, p->queue, 1 - p->me, p->buffer, bytes, 0));
    return settle(p);
}

static dml_err receive(const party *p, int64_t bytes)
{
    DML_TRY(p->api->recv(p->t, p->queue, 1 - p->me, p->buffer, bytes, 0));
    return settle(p);
}

static dml_err round_trip(const party *p, int64_t bytes)
{
    if (p->me == 0) DML_TRY(send(p, bytes));
    DML_TRY(receive(p, bytes));
    return p->me == 0 ? DML_ERR_OK : send(p, bytes);
}

static dml_err time_transfers(const party *p)
{
    dml_profile_board *b = p->j->board;
    const int64_t most = most_of(p);
    int32_t n = 0;
    for (int64_t bytes = SMALLEST; bytes <= most && p->me < 2; bytes *= STEP) {
        int64_t ns[128];
        const int32_t times = times_of(p, bytes);
        for (int32_t i = -WARM_UP; i < times; i++) {
            const int64_t begin_ns = dml_clock_ns();
            DML_TRY(round_trip(p, bytes));
            if (i >= 0) ns[i] = (dml_clock_ns() - begin_ns) / 2;
        }
        if (p->me == 0)
            b->transfer[n++] = (dml_profile_transfer){2, bytes, dml_spread_of(ns, times).median_ns};
    }
    if (p->me == 0) b->n_transfers = n;
    return DML_ERR_OK;
}

/* ---- sums -------------------------------------------------------------------------------------------- */

/* One group of ranks 0 .. members - 1 at all sizes. */
static dml_err time_group(const party *p, dml_group *g, int32_t members)
{
    dml_profile_board *b = p->j->board;
    const int64_t most = most_of(p);
    for (int64_t bytes = SMALLEST; bytes <= most; bytes *= STEP) {
        int64_t ns[128];
        const int32_t times = times_of(p, bytes);
        for (int32_t i = -WARM_UP; i < times; i++) {
            const int64_t begin_ns = dml_clock_ns();
            DML_TRY(p->api->all_reduce(g, p->queue, p->buffer, bytes / (int64_t)sizeof(float),
                                       DML_F32, DML_SUM));
            DML_TRY(settle(p));
            if (i >= 0) ns[i] = dml_clock_ns() - begin_ns;
        }
        if (p->me == 0)
            b->sum[b->n_sums++] =
                (dml_profile_transfer){members, bytes, dml_spread_of(ns, times).median_ns};
    }
    return DML_ERR_OK;
}

/* 2, 3, 4, then doubled, and all: as many groups as fit. */
static int32_t next_members(int32_t members, int32_t all)
{
    const int32_t next = members < 4 ? members + 1 : 2 * members;
    return members < all && next > all ? all : next;
}

static dml_err time_sums(const party *p)
{
    const int32_t all = p->j->ranks;
    int32_t rank[DML_PROFILE_RANKS], groups = 0;
    for (int32_t r = 0; r < all; r++)
        rank[r] = r;
    for (int32_t n = 2; n <= all && groups < DML_PROFILE_GROUPS; n = next_members(n, all)) {
        dml_group *g = NULL;
        groups++;
        if (p->me >= n) continue;
        DML_TRY(p->api->group_open(p->t, rank, n, (uint32_t)n, &g));
        const dml_err err = time_group(p, g, n);
        p->api->group_close(g);
        DML_TRY(err);
    }
    return DML_ERR_OK;
}

/* The vote is always through the host's memory. */
static dml_err time_votes(const party *p)
{
    enum { VOTES = 51 };
    const dml_profile_job *j = p->j;
    const dml_transport_api *api;
    dml_transport *t = NULL;
    dml_group *g = NULL;
    void *ballot;
    int32_t rank[DML_PROFILE_RANKS];
    int64_t ns[VOTES];
    const dml_transport_config config = {.rank = p->me,
                                         .world = j->ranks,
                                         .memory_bytes = 4096,
                                         .timeout_ns = j->spec->parallelism.timeout_ns,
                                         .abort = &j->board->abort,
                                         .fds = j->vote_fd};
    for (int32_t r = 0; r < j->ranks; r++)
        rank[r] = r;
    DML_TRY(dml_transport_find("shm", &api));
    DML_TRY(api->open(&config, NULL, &t));
    DML_TRY(api->alloc(t, DML_VOTE_WORDS * (int64_t)sizeof(int64_t), &ballot));
    DML_TRY(api->group_open(t, rank, j->ranks, 0, &g));
    for (int32_t i = 0; i < VOTES; i++) {
        const int64_t begin_ns = dml_clock_ns();
        DML_TRY(api->all_reduce(g, NULL, ballot, DML_VOTE_WORDS, DML_I64, DML_SUM));
        ns[i] = dml_clock_ns() - begin_ns;
    }
    if (p->me == 0) j->board->vote_ns = dml_spread_of(ns, VOTES).median_ns;
    api->group_close(g);
    return api->close(t);
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static dml_err open_device(party *p, const dml_backend *backend)
{
    const dml_profile_job *j = p->j;
    if (backend->on_host) return DML_ERR_OK;
    const dml_device_config config = {.index = p->me / j->spec->parallelism.workers_per_device,
                                      .threads = 1,
                                      .queue_capacity = 8,
                                      .abort = &j->board->abort};
    p->dev = backend->device;
    DML_TRY(p->dev->open(&config, &p->device));
    return p->dev->queue_open(p->device, "profile", &p->queue);
}

static dml_err open_transport(party *p, const dml_backend *backend)
{
    static const int32_t ends[] = {0, 1};
    const dml_profile_job *j = p->j;
    const dml_spec *spec = j->spec;
    const dml_pair pair = {&ends[0], &ends[1], 1, 1};
    const dml_transport_config config = {.rank = p->me,
                                         .world = j->ranks,
                                         .memory_bytes = LARGEST + 4096,
                                         .timeout_ns = spec->parallelism.timeout_ns,
                                         .abort = &j->board->abort,
                                         .links = dml_spec_links(spec),
                                         .nvls = spec->comm.nvls,
                                         .ranks_per_device = spec->parallelism.workers_per_device,
                                         .fds = j->data_fd};
    DML_TRY(dml_transport_find(backend->transport, &p->api));
    DML_TRY(p->api->open(&config, p->device, &p->t));
    DML_TRY(p->api->alloc(p->t, LARGEST, &p->buffer));
    return p->api->meet(p->t, &pair, 1);
}

dml_err dml_profile_links(const dml_profile_job *j, int32_t rank)
{
    party p = {.j = j, .me = rank};
    const dml_backend *backend = NULL;
    DML_TRY(dml_backend_find(j->board->backend, &backend));
    DML_TRY(open_device(&p, backend));
    DML_TRY(open_transport(&p, backend));
    DML_TRY(time_transfers(&p));
    DML_TRY(time_sums(&p));
    DML_TRY(time_votes(&p));
    DML_TRY(p.api->close(p.t));
    if (p.dev) {
        p.dev->queue_close(p.queue);
        p.dev->close(p.device);
    }
    return DML_ERR_OK;
}
