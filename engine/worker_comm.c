/* engine/worker_comm.c - meeting the others: tensors between neighbours, sums among replicas, votes of all.
 *
 * Two transports.  The data transport is the backend's and moves tensors; the vote transport is always through
 * host memory, since every worker reads the verdict on the host.
 */
#include "engine/worker_state.h"

#include "engine/pairs.h"

static dml_err meet_neighbours(dml_worker *w)
{
    const dml_program *const programs[] = {&w->plan->train, &w->plan->eval};
    int32_t n;
    const dml_pair *pairs = dml_pairs_of(programs, 2, &w->arena, &n);
    return w->comm->meet(w->transport, pairs, n);
}

static dml_err open_votes(dml_worker *w, dml_transport_config *t, int64_t ballot_bytes)
{
    t->memory_bytes = ballot_bytes;
    t->links = (dml_links){0};
    t->fds = w->config->vote_fds;
    t->hub = w->config->vote_hub;
    DML_TRY(w->vote_comm->open(t, w->device, &w->vote_transport));
    void *ballot;
    DML_TRY(w->vote_comm->alloc(w->vote_transport, ballot_bytes, &ballot));
    w->ballot = ballot;
    int32_t *all = DML_NEW_N(&w->arena, int32_t, w->processes), n = 0;
    for (int32_t r = 0; r < w->processes; r++)
        if (!w->absent[r]) all[n++] = r;
    return w->vote_comm->group_open(w->vote_transport, all, n, 0, &w->world);
}

dml_err dml_worker_meet(dml_worker *w, int64_t memory_bytes, int64_t ballot_bytes)
{
    const dml_worker_config *c = w->config;
    DML_TRY(dml_transport_find(c->data_hub ? "local" : w->backend->transport, &w->comm));
    DML_TRY(dml_transport_find(c->vote_hub ? "local" : "shm", &w->vote_comm));
    dml_transport_config t = {
        .rank = c->rank,
        .world = w->processes,
        .epoch = w->tenure.generation,
        .memory_bytes = memory_bytes,
        .timeout_ns = w->spec->parallelism.timeout_ns,
        .abort = &w->abort,
        .links = dml_spec_links(w->spec),
        .nvls = w->spec->comm.nvls,
        .ranks_per_device = w->spec->parallelism.workers_per_device,
        .absent = w->absent,
        .fds = c->data_fds,
        .hub = c->data_hub,
    };
    DML_TRY(w->comm->open(&t, w->device, &w->transport));
    DML_TRY(meet_neighbours(w));
    return open_votes(w, &t, ballot_bytes);
}

/* The replicas of a chunk are the workers that its routes name, ascending. */
dml_err dml_worker_meet_replicas(dml_worker *w, int32_t chunk)
{
    const dml_program *p = &w->plan->train;
    int32_t *ranks = DML_NEW_N(&w->arena, int32_t, w->plan->workers), n = 0;
    for (int32_t r = 0; r < w->plan->workers; r++)
        for (int32_t mb = 0; mb < p->mbs; mb++)
            if (*dml_program_route(p, chunk, mb) == r) {
                ranks[n++] = r;
                break;
            }
    w->held[chunk].n_replicas = n;
    return w->comm->group_open(w->transport, ranks, n, (uint32_t)chunk, &w->held[chunk].replicas);
}
