/* comm/host.c - opening, closing and waiting, for transports whose ranks see each other's memory.
 *
 * Open is two meetings.  A segment may have served an earlier epoch, and a rank that has joined this
 * epoch has left all earlier ones; so once all have joined, nobody writes into old segments any more:
 *
 *   joined = epoch + 1;  wait for all joined;  reset own segment;  ready = epoch + 1;  wait for all ready
 *
 * As the words only grow, a rank that meets a larger number is itself stale and is refused.
 */
#include "comm/host.h"

#include "comm/pair.h"
#include "engine/base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES = 4096, WHAT_BYTES = 160, SLEEP_SLICE_MS = 10 };

/* Every slot has two inline areas, in front of what alloc hands out. */
static const int64_t inline_bytes = (int64_t)DML_GROUP_SLOTS * 2 * DML_INLINE_BYTES;

int64_t dml_segment_bytes(int32_t world)
{
    const int64_t bytes = (int64_t)sizeof(dml_segment) + world * (int64_t)sizeof(dml_channel);
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* ---- waiting ---- */

dml_err dml_host_wait(const dml_transport *t, _Atomic uint32_t *word, uint32_t target,
                      const char *fmt, ...)
{
    if (dml_seq_reached(atomic_load_explicit(word, memory_order_acquire), target))
        return DML_ERR_OK;
    char what[WHAT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return dml_wait_reached(word, target, dml_clock_ns() + t->config.timeout_ns, t->config.abort,
                            what);
}

dml_err dml_host_sleep(const dml_transport *t, int64_t until_ns, const char *what)
{
    const dml_abort *abort = t->config.abort;
    for (;;) {
        const int64_t now_ns = dml_clock_ns(), slice_ns = SLEEP_SLICE_MS * DML_NS_PER_MS;
        if (now_ns >= until_ns) return DML_ERR_OK;
        if (dml_abort_raised(abort))
            DML_FAIL(DML_ERR_PEER, "the run is being stopped (in %s)", what);
        dml_sleep_until_ns(until_ns - now_ns < slice_ns ? until_ns : now_ns + slice_ns);
    }
}

/* ---- open and close ---- */

static dml_err meet(const dml_transport *t, int32_t rank, _Atomic uint32_t *word, const char *verb)
{
    const uint32_t epoch = t->config.epoch;
    DML_TRY(dml_host_wait(t, word, epoch + 1, "worker %d to %s epoch %u", rank, verb, epoch));
    const uint32_t theirs = atomic_load(word) - 1;
    if (theirs != epoch)
        DML_FAIL(DML_ERR_PEER, "refused: worker %d is at epoch %u, worker %d still at %u", rank,
                 theirs, t->config.rank, epoch);
    return DML_ERR_OK;
}

static bool is_there(const dml_transport_config *config, int32_t rank)
{
    return !config->absent || !config->absent[rank];
}

static dml_err map_headers(dml_transport *t, const dml_transport_config *config)
{
    for (int32_t r = 0; r < config->world; r++)
        if (is_there(config, r)) DML_TRY(t->mapper->header(config, r, &t->peer[r].segment));
    return DML_ERR_OK;
}

/* What an earlier epoch left in this rank's segment goes. */
static dml_err reset_own(dml_transport *t, const dml_transport_config *config)
{
    dml_peer *self = &t->peer[config->rank];
    dml_segment *s = self->segment;
    const int64_t bytes = inline_bytes + config->memory_bytes;
    DML_TRY(t->mapper->own(config, bytes, &self->memory));
    self->bytes = bytes;
    memset(s->slot, 0, sizeof s->slot);
    memset(s->pair, 0, (size_t)config->world * sizeof *s->pair);
    s->world = config->world;
    s->memory_bytes = bytes;
    return DML_ERR_OK;
}

static dml_err map_peers(dml_transport *t, const dml_transport_config *config)
{
    for (int32_t r = 0; r < config->world; r++) {
        dml_peer *p = &t->peer[r];
        if (!is_there(config, r)) continue;
        DML_TRY(meet(t, r, &p->segment->ready, "open"));
        if (p->segment->world != config->world)
            DML_FAIL(DML_ERR_BUG, "worker %d opens a world of %d, worker %d one of %d", r,
                     p->segment->world, config->rank, config->world);
        if (r == config->rank) continue;
        DML_TRY(t->mapper->peer(config, r, p->segment->memory_bytes, &p->memory));
        p->bytes = p->segment->memory_bytes;
    }
    return DML_ERR_OK;
}

static dml_err join(dml_transport *t, const dml_transport_config *config)
{
    DML_TRY(map_headers(t, config));
    dml_segment *own = t->peer[config->rank].segment;
    dml_wait_set(&own->joined, config->epoch + 1);
    for (int32_t r = 0; r < config->world; r++)
        if (is_there(config, r)) DML_TRY(meet(t, r, &t->peer[r].segment->joined, "join"));
    DML_TRY(reset_own(t, config));
    dml_wait_set(&own->ready, config->epoch + 1);
    return map_peers(t, config);
}

dml_err dml_host_open(const dml_transport_config *config, const dml_mapper *mapper,
                      dml_transport **out)
{
    if (config->world < 1 || config->rank < 0 || config->rank >= config->world ||
        config->memory_bytes < 0)
        DML_FAIL(DML_ERR_BUG, "rank %d of %d with %lld bytes", config->rank, config->world,
                 (long long)config->memory_bytes);
    dml_transport *t = calloc(1, sizeof *t);
    if (!t) DML_FAIL(DML_ERR_NOMEM, "no memory for a transport");
    t->mapper = mapper;
    t->config = *config;
    t->config.fds = NULL;
    t->config.hub = NULL;
    t->used_bytes = inline_bytes;
    t->emulates = !dml_links_are_free(&config->links);
    dml_err err;
    t->peer = calloc((size_t)config->world, sizeof *t->peer);
    if (!t->peer) {
        err =
            dml_err_set(DML_ERR_NOMEM, __FILE__, __LINE__, "no memory for %d peers", config->world);
        goto fail;
    }
    err = join(t, config);
    if (err != DML_ERR_OK) {
        dml_err_add(err, __func__, __FILE__, __LINE__);
        goto fail;
    }
    *out = t;
    return DML_ERR_OK;
fail:
    dml_host_close(t);
    return err;
}

dml_err dml_host_close(dml_transport *t)
{
    if (!t) return DML_ERR_OK;
    dml_host_groups_free(t);
    for (int32_t r = 0; t->peer && r < t->config.world; r++) {
        const dml_peer *p = &t->peer[r];
        if (p->memory) t->mapper->unmap(p->memory, p->bytes);
        if (p->segment) t->mapper->unmap(p->segment, dml_segment_bytes(t->config.world));
    }
    free(t->peer);
    free(t);
    return DML_ERR_OK;
}

/* ---- who sends to whom ---- */

/* Segments reach everyone, so there is nothing to make: this only remembers. */
dml_err dml_host_meet(dml_transport *t, const dml_pair *pairs, int32_t n)
{
    DML_TRY(dml_pairs_check(pairs, n, t->config.world));
    for (int32_t i = 0; i < n; i++) {
        const dml_pair *p = &pairs[i];
        const bool low = dml_pair_place(p->lower, p->n_lower, t->config.rank) >= 0;
        const bool high = dml_pair_place(p->upper, p->n_upper, t->config.rank) >= 0;
        for (int32_t k = 0; low && k < p->n_upper; k++)
            t->peer[p->upper[k]].met = true;
        for (int32_t k = 0; high && k < p->n_lower; k++)
            t->peer[p->lower[k]].met = true;
    }
    return DML_ERR_OK;
}

/* ---- memory ---- */

dml_err dml_host_alloc(dml_transport *t, int64_t bytes, void **out)
{
    const dml_peer *self = &t->peer[t->config.rank];
    const int64_t left = self->bytes - t->used_bytes;
    if (bytes < 0) DML_FAIL(DML_ERR_BUG, "an allocation of %lld bytes", (long long)bytes);
    if (bytes > left)
        DML_FAIL(DML_ERR_NOMEM, "%lld bytes do not fit into the %lld left of worker %d's %lld",
                 (long long)bytes, (long long)left, t->config.rank,
                 (long long)t->config.memory_bytes);
    *out = self->memory + t->used_bytes;
    t->used_bytes += (bytes + DML_LINE_BYTES - 1) / DML_LINE_BYTES * DML_LINE_BYTES;
    return DML_ERR_OK;
}

dml_err dml_host_offset(const dml_transport *t, const void *buffer, int64_t bytes, const char *what,
                        int64_t *out)
{
    const char *const memory = t->peer[t->config.rank].memory;
    const uintptr_t at = (uintptr_t)buffer, low = (uintptr_t)memory + (uintptr_t)inline_bytes,
                    high = (uintptr_t)memory + (uintptr_t)t->used_bytes;
    if (bytes < 0) DML_FAIL(DML_ERR_BUG, "%s of %lld bytes", what, (long long)bytes);
    *out = 0;
    if (bytes == 0) return DML_ERR_OK;
    if (at < low || at >= high || (uintptr_t)bytes > high - at)
        DML_FAIL(DML_ERR_BUG, "the %lld bytes of %s are not in memory from the transport's alloc",
                 (long long)bytes, what);
    *out = (int64_t)(at - (uintptr_t)memory);
    return DML_ERR_OK;
}
