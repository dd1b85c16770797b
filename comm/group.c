/* comm/group.c - opening groups and the barrier.
 *
 * Any two ranks open the groups they share in the same order, so an invitation is a rendezvous between
 * each pair, like a message: "for our k-th common group I use slot 5, whose count stands at 117".
 *
 * Barrier: each member counts up the word of its own slot, then waits until every other member's word has
 * reached its base plus the number of barriers of this group.  One writer a word, no reset, no root.
 *
 * A closed group's slot is free once all its members have closed too: before that one of them may still
 * be reading from it.  Closing does not wait; the next open looks.  Who closes because it was stopped may have left a call
 * in which others still wait for it: that is not counted, or they would take it for an arrival.
 */
#include "comm/group.h"

#include "engine/base/hash.h"

#include <stdlib.h>

static dml_slot *own_slot(const dml_transport *t, uint32_t index)
{
    return &t->peer[t->config.rank].segment->slot[index];
}

/* ---- slots ---- */

/* All members have reached the count that `close` adds. */
static bool left_by_all(const dml_group *g)
{
    for (int32_t m = 0; m < g->n; m++)
        if (!dml_seq_reached(
                atomic_load_explicit(&g->member[m].slot->arrived, memory_order_acquire),
                g->member[m].base + g->barriers))
            return false;
    return true;
}

static void free_left_groups(dml_transport *t)
{
    for (dml_group **at = &t->groups; *at;) {
        dml_group *g = *at;
        if (g->closed && left_by_all(g)) {
            *at = g->next;
            free(g);
        } else {
            at = &g->next;
        }
    }
}

static dml_err find_slot(dml_transport *t, uint32_t *out)
{
    free_left_groups(t);
    bool taken[DML_GROUP_SLOTS] = {false};
    for (const dml_group *g = t->groups; g; g = g->next)
        taken[g->member[g->me].index] = true;
    for (uint32_t i = 0; i < DML_GROUP_SLOTS; i++)
        if (!taken[i]) {
            *out = i;
            return DML_ERR_OK;
        }
    DML_FAIL(DML_ERR_NOMEM, "worker %d is in %d groups already", t->config.rank, DML_GROUP_SLOTS);
}

/* ---- open ---- */

static dml_err check_ranks(const dml_transport *t, const int32_t *ranks, int32_t n, uint32_t id,
                           int32_t *me)
{
    *me = -1;
    for (int32_t i = 0; i < n; i++) {
        if (ranks[i] < 0 || ranks[i] >= t->config.world || (i > 0 && ranks[i] <= ranks[i - 1]))
            DML_FAIL(DML_ERR_BUG, "group %u: rank %d at place %d of a world of %d", id, ranks[i], i,
                     t->config.world);
        if (ranks[i] == t->config.rank) *me = i;
    }
    if (*me < 0)
        DML_FAIL(DML_ERR_BUG, "group %u is opened by worker %d, not a member", id, t->config.rank);
    return DML_ERR_OK;
}

static void invite(dml_group *g, int32_t peer, uint64_t hash)
{
    const dml_transport *t = g->t;
    dml_channel *p = &t->peer[t->config.rank].segment->pair[peer];
    p->group_id = g->id;
    p->group_size = (uint32_t)g->n;
    p->group_hash = hash;
    p->slot = g->member[g->me].index;
    p->slot_base = g->member[g->me].base;
    dml_wait_set(&p->invited, ++t->peer[peer].groups);
}

static dml_err accept(dml_group *g, dml_member *m, uint64_t hash)
{
    const dml_transport *t = g->t;
    dml_peer *peer = &t->peer[m->rank];
    dml_channel *p = &peer->segment->pair[t->config.rank];
    DML_TRY(dml_host_wait(t, &p->invited, peer->groups, "worker %d to open group %u of %d", m->rank,
                          g->id, g->n));
    if (p->group_id != g->id || p->group_hash != hash)
        DML_FAIL(DML_ERR_BUG,
                 "worker %d opens group %u of %u ranks, worker %d group %u of %d ranks", m->rank,
                 p->group_id, p->group_size, t->config.rank, g->id, g->n);
    m->index = p->slot;
    m->base = p->slot_base;
    m->slot = &peer->segment->slot[p->slot];
    return DML_ERR_OK;
}

static dml_err meet_members(dml_group *g, uint64_t hash)
{
    for (int32_t m = 0; m < g->n; m++)
        if (m != g->me) invite(g, g->member[m].rank, hash);
    for (int32_t m = 0; m < g->n; m++)
        if (m != g->me) DML_TRY(accept(g, &g->member[m], hash));
    /* After this nobody reads the invitations any more: the next open may write new ones. */
    return dml_group_barrier(g, "group_open");
}

dml_err dml_host_group_open(dml_transport *t, const int32_t *ranks, int32_t n, uint32_t id,
                            dml_group **out)
{
    int32_t me = -1;
    uint32_t slot = 0;
    DML_TRY(check_ranks(t, ranks, n, id, &me));
    DML_TRY(find_slot(t, &slot));
    dml_group *g = calloc(1, sizeof *g + (size_t)n * (sizeof *g->member + sizeof *g->ranks));
    if (!g) DML_FAIL(DML_ERR_NOMEM, "no memory for group %u of %d", id, n);
    g->t = t;
    g->id = id;
    g->n = n;
    g->me = me;
    g->ranks = (int32_t *)&g->member[n];
    for (int32_t m = 0; m < n; m++)
        g->member[m].rank = g->ranks[m] = ranks[m];
    g->member[me].index = slot;
    g->member[me].slot = own_slot(t, slot);
    g->member[me].base = atomic_load(&g->member[me].slot->arrived);
    const dml_err err = meet_members(g, dml_hash(ranks, n * (int64_t)sizeof *ranks, 0));
    if (err != DML_ERR_OK) {
        free(g);
        return dml_err_add(err, __func__, __FILE__, __LINE__);
    }
    g->next = t->groups;
    t->groups = g;
    *out = g;
    return DML_ERR_OK;
}

/* ---- use and close ---- */

void dml_group_arrive(dml_group *g)
{
    g->barriers++;
    dml_wait_advance(&g->member[g->me].slot->arrived);
}

dml_err dml_group_await(dml_group *g, const char *what)
{
    for (int32_t i = 1; i < g->n; i++) {
        const dml_member *m = &g->member[(g->me + i) % g->n];
        DML_TRY(dml_host_wait(g->t, &m->slot->arrived, m->base + g->barriers,
                              "worker %d in %s (call %u of group %u)", m->rank, what, g->calls,
                              g->id));
    }
    return DML_ERR_OK;
}

dml_err dml_group_barrier(dml_group *g, const char *what)
{
    dml_group_arrive(g);
    return dml_group_await(g, what);
}

void dml_host_group_close(dml_group *g)
{
    if (!g || dml_abort_raised(g->t->config.abort)) return; /* it goes with the transport */
    dml_group_arrive(g);
    g->closed = true;
}

void dml_host_groups_free(dml_transport *t)
{
    for (dml_group *g = t->groups, *next; g; g = next) {
        next = g->next;
        free(g);
    }
    t->groups = NULL;
}
