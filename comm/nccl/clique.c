/* comm/nccl/clique.c - joining, waiting, leaving.
 *
 * Leaving runs on a thread of its own, since some NCCL calls block, and have been seen to for ever; the caller
 * waits for it until a deadline.
 *
 *   all went well   finalize all -> wait until they are quiescent -> destroy all
 *   else            revoke all -> wait for the peers that live to have stopped too -> abort all
 *                   (who is finalizing sees on a peer's page that it has stopped, and aborts as well)
 *   abandoned       revoke all ....... the run sees to it that all who live have ....... abort all
 *
 * After a failure everything of the device is revoked or aborted together, none is finalized or destroyed: a
 * kernel of one communicator may stand in the way of another's, and destroy waits for ranks that will never
 * come.  Revoking first, where the version has it, stops the transfers and keeps their memory, so that no rank
 * frees what another's kernels still read.  (Not used: ncclCommShrink.  It only cuts ranks out of a communicator,
 * while a new plan changes who is in which, and it needs the same waits; a new communicator costs the exchange
 * of an id more.  As no communicator is made from another, splitShare and shrinkShare do not matter.)
 */
#include "comm/nccl/clique.h"

#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SPIN_NS = 100000, /* an enqueue takes about this long */
    NAP_NS = 20000,
    ABORT_LEAST_S = 1, /* for the device to let go; the transport's timeout, when that is between */
    ABORT_MOST_S = 5,
    STOPPING_MS = 200, /* of it, for the peers that live to stop too */
    SLICE_MS = 10,
    WORDS = 256,
};

/* ---- waiting ---- */

static bool stopped(const dml_transport *t)
{
    return dml_abort_raised(t->abort);
}

/* Polls `comm`, whose last call gave `status`.  ncclInProgress: the deadline passed, or the run is being
 * stopped. */
static ncclResult_t await(ncclComm_t comm, ncclResult_t status, int64_t deadline_ns,
                          const dml_transport *stops)
{
    const int64_t begin_ns = dml_clock_ns();
    while (status == ncclInProgress) {
        const int64_t now_ns = dml_clock_ns();
        if (now_ns >= deadline_ns || (stops && stopped(stops))) break;
        if (now_ns - begin_ns > SPIN_NS) dml_sleep_until_ns(now_ns + NAP_NS);
        const ncclResult_t asked = ncclCommGetAsyncError(comm, &status);
        if (asked != ncclSuccess) return asked;
    }
    return status;
}

static dml_err meaning(ncclResult_t status)
{
    if (status == ncclInvalidArgument || status == ncclInvalidUsage) return DML_ERR_BUG;
    if (status == ncclUnhandledCudaError) return DML_ERR_UNAVAILABLE;
    return DML_ERR_PEER; /* system errors too: a connection that breaks is one */
}

/* "ncclSend with worker 3, call 12 (after 4096 bytes) of pair 0 up (2 and 2 workers), epoch 4, device 1" */
static void describe(const dml_clique *c, const char *call, int32_t peer, char *out, size_t bytes)
{
    char with[32] = "";
    if (peer >= 0) snprintf(with, sizeof with, " with worker %d", peer);
    snprintf(out, bytes, "%s%s, call %lld (after %lld bytes) of %s, epoch %u, device %d", call,
             with, (long long)c->calls + 1, (long long)c->bytes, c->name, c->t->epoch, c->t->index);
}

dml_err dml_clique_settle(dml_clique *c, ncclResult_t status, const char *file, int line,
                          const char *call, int32_t peer)
{
    dml_transport *t = c->t;
    if (status == ncclInProgress)
        status = await(c->comm, status, dml_clock_ns() + t->timeout_ns, t);
    if (status == ncclSuccess) return DML_ERR_OK;
    t->failed = true;
    char what[WORDS];
    describe(c, call, peer, what, sizeof what);
    if (status != ncclInProgress)
        return dml_err_set(meaning(status), file, line, "%s: %s: %s", what,
                           ncclGetErrorString(status), ncclGetLastError(NULL));
    if (stopped(t))
        return dml_err_set(DML_ERR_PEER, file, line, "%s: the run is being stopped", what);
    return dml_err_set(DML_ERR_PEER, file, line, "%s: not all peers came in %.1f s", what,
                       (double)t->timeout_ns * 1e-9);
}

dml_err dml_clique_finish(dml_clique *c)
{
    dml_transport *t = c->t;
    const dml_err err = dml_cuda_device.sync(t->queue, dml_clock_ns() + t->timeout_ns);
    if (err == DML_ERR_OK) return err;
    t->failed = true;
    char why[WORDS];
    snprintf(why, sizeof why, "%s", dml_err_trail());
    return dml_err_set(err, __FILE__, __LINE__,
                       "the first transfers of %s, epoch %u, device %d: %s", c->name, t->epoch,
                       t->index, why);
}

/* ---- joining ---- */

static dml_err learn_id(dml_transport *t, const dml_clique_plan *plan, ncclUniqueId *id)
{
    if (plan->member > 0)
        return dml_id_await(t->pages[plan->maker], plan->maker, t->epoch, plan->key,
                            dml_clock_ns() + t->timeout_ns, t->abort, id->internal);
    const ncclResult_t made = ncclGetUniqueId(id);
    if (made != ncclSuccess)
        DML_FAIL(meaning(made), "ncclGetUniqueId, device %d: %s: %s", t->index,
                 ncclGetErrorString(made), ncclGetLastError(NULL));
    dml_id_publish(t->pages[t->rank], t->epoch, plan->key, id->internal);
    return DML_ERR_OK;
}

dml_err dml_clique_join(dml_transport *t, const dml_clique_plan *plan, dml_clique **out,
                        const char *name, ...)
{
    ncclUniqueId id;
    dml_clique *c = calloc(1, sizeof *c);
    if (!c) DML_FAIL(DML_ERR_NOMEM, "no memory for a communicator");
    c->t = t;
    va_list ap;
    va_start(ap, name);
    vsnprintf(c->name, sizeof c->name, name, ap);
    va_end(ap);
    dml_err err = learn_id(t, plan, &id);
    if (err != DML_ERR_OK) {
        t->failed = true;
        free(c);
        return dml_err_add(err, __func__, __FILE__, __LINE__);
    }
    c->next = t->cliques;
    t->cliques = c;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (plan->blocks > 0) config.maxCTAs = plan->blocks;
    err = DML_NCCL(c, -1, ncclCommInitRankConfig, (&c->comm, plan->n, id, plan->member, &config));
    if (plan->member == 0) dml_id_withdraw(t->pages[t->rank]);
    c->joined = err == DML_ERR_OK;
    *out = c;
    return err;
}

/* ---- leaving ---- */

/* What the leaving thread works on; it and the transport outlive a caller that gives up. */
typedef struct leaving {
    dml_transport *t;
    bool orderly;
    bool revokes, waits,
        aborts; /* when not orderly; what cannot be revoked is aborted all the same */
    int64_t orderly_ns, revoke_ns, deadline_ns;
    ncclResult_t result; /* the first that is not fine, of */
    const char *call;
    _Atomic uint32_t done;
} leaving;

#define EACH(c, l) (dml_clique *c = (l)->t->cliques; c; c = c->next)

/* Waits until `c` is quiescent, unless another rank has failed: then it never will be. */
static bool is_final(const leaving *l, const dml_clique *c)
{
    const dml_transport *t = l->t;
    for (;;) {
        const int64_t slice_ns = dml_clock_ns() + SLICE_MS * DML_NS_PER_MS;
        const ncclResult_t status =
            await(c->comm, ncclInProgress, slice_ns < l->orderly_ns ? slice_ns : l->orderly_ns, t);
        if (status != ncclInProgress) return status == ncclSuccess;
        if (slice_ns >= l->orderly_ns || stopped(t) ||
            dml_id_is_stopped(t->pages, t->n_ranks, t->epoch))
            return false;
    }
}

/* All are told before the first is waited for: each may need the others to end. */
static bool finalize_all(const leaving *l)
{
    bool all = true;
    for
        EACH(c, l)
        {
            const ncclResult_t told = ncclCommFinalize(c->comm);
            all = all && (told == ncclSuccess || told == ncclInProgress);
        }
    for
        EACH(c, l)
    all = all && is_final(l, c);
    return all;
}

/* False: some go on. */
static bool revoke_all(const leaving *l)
{
    bool all = true;
    ncclGroupStart();
    for
        EACH(c, l)
    if (c->joined) l->t->library.revoke(c->comm, 0);
    ncclGroupEnd();
    for
        EACH(c, l)
    if (c->joined) all = await(c->comm, ncclInProgress, l->revoke_ns, NULL) == ncclSuccess && all;
    return all;
}

static void note(leaving *l, const char *call, ncclResult_t result)
{
    if (l->result != ncclSuccess || result == ncclSuccess) return;
    l->result = result;
    l->call = call;
}

/* In one group where that is allowed: each then has a thread, and none waits for the one before.  Once. */
static void end_all(leaving *l, const char *call, ncclResult_t (*end)(ncclComm_t))
{
    const bool together = l->t->library.ends_in_group;
    if (together) note(l, "ncclGroupStart", ncclGroupStart());
    for
        EACH(c, l)
        {
            if (c->comm) note(l, call, end(c->comm));
            c->comm = NULL;
        }
    if (together) note(l, "ncclGroupEnd", ncclGroupEnd());
}

/* NCCL's own threads set the device. */
static void *leave(void *arg)
{
    leaving *l = arg;
    if (l->orderly && finalize_all(l)) {
        end_all(l, "ncclCommDestroy", ncclCommDestroy);
    } else {
        const dml_transport *t = l->t;
        const bool quiet = l->revokes && revoke_all(l);
        dml_id_stop(t->pages, t->n_ranks, t->rank, t->epoch,
                    dml_clock_ns() + (l->waits ? STOPPING_MS * DML_NS_PER_MS : 0));
        if (l->aborts || !quiet) end_all(l, "ncclCommAbort", ncclCommAbort);
    }
    dml_wait_set(&l->done, 1);
    return NULL;
}

static dml_err run(leaving *l)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, leave, l) != 0)
        DML_FAIL(DML_ERR_PEER, "no thread to end communicators with: this process must end");
    const dml_err err = dml_wait_reached(&l->done, 1, l->deadline_ns, NULL, "NCCL");
    if (err != DML_ERR_OK)
        pthread_detach(thread);
    else
        pthread_join(thread, NULL);
    if (err == DML_ERR_OK && l->result == ncclSuccess) return DML_ERR_OK;
    char why[WORDS] = "it does not come back";
    if (err == DML_ERR_OK)
        snprintf(why, sizeof why, "%s: %s", l->call, ncclGetErrorString(l->result));
    DML_FAIL(
        DML_ERR_PEER,
        "NCCL does not let go of device %d, epoch %u (%s and others): %s; this process must end",
        l->t->index, l->t->epoch, l->t->cliques->name, why);
}

static int64_t abort_ns(const dml_transport *t)
{
    const int64_t least_ns = ABORT_LEAST_S * DML_NS_PER_S, most_ns = ABORT_MOST_S * DML_NS_PER_S;
    const int64_t ns = t->timeout_ns < most_ns ? t->timeout_ns : most_ns;
    return ns > least_ns ? ns : least_ns;
}

static dml_err end(dml_transport *t, const leaving *how)
{
    leaving *l = calloc(1, sizeof *l);
    if (!l) DML_FAIL(DML_ERR_PEER, "no memory to end communicators: this process must end");
    *l = *how;
    l->t = t;
    l->orderly_ns = dml_clock_ns() + (l->orderly ? t->timeout_ns : 0);
    l->revoke_ns = l->orderly_ns + abort_ns(t) / 2;
    l->deadline_ns = l->orderly_ns + abort_ns(t);
    DML_TRY(run(l));
    free(l);
    return DML_ERR_OK;
}

static void forget_all(dml_transport *t)
{
    for (dml_clique *c = t->cliques, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    t->cliques = NULL;
}

/* Where NCCL cannot revoke, or does not come to an end of it, they are aborted: that may pull memory away from under
 * the kernels of others who live, but nothing else ends our own. */
dml_err dml_cliques_abandon(dml_transport *t)
{
    if (t->abandoned || !t->cliques) return DML_ERR_OK;
    t->failed = t->abandoned = true;
    return end(t, &(leaving){.revokes = t->library.revoke != NULL});
}

dml_err dml_cliques_leave(dml_transport *t)
{
    if (!t->cliques) return DML_ERR_OK;
    const bool revokes = t->library.revoke != NULL && !t->abandoned;
    DML_TRY(end(t, &(leaving){.orderly = !t->failed && !stopped(t),
                              .revokes = revokes,
                              .waits = revokes,
                              .aborts = true}));
    forget_all(t);
    return DML_ERR_OK;
}
