/* engine/recovery_members.c - who is started again, and who is to blame when nobody gets on. */
#include "engine/recovery_impl.h"

#include "engine/base/clock.h"

#include <stdio.h>

enum { MAX_STARTS = 3 }; /* of a rank, without one step between them */

/* ---- started again ---- */

static uint64_t wanted(const dml_recovery *r)
{
    const uint64_t there = r->active | r->entering | r->spawning | r->joined;
    const bool stops = atomic_load(&r->c.control->stop) != 0 || r->ended;
    const bool respawns = r->spec->failures.respawn && !stops;
    return (r->needed | (respawns ? r->world : 0)) & r->gone & ~there;
}

/* Its slot of the control page is the new one's from here on. */
static void clear_page(dml_worker_page *p)
{
    atomic_store(&p->contributed, 0);
    atomic_store(&p->voted, 0);
    atomic_store(&p->committed, 0);
    atomic_store(&p->phase, DML_PHASE_JOIN); /* so it knows that it joins */
    atomic_store(&p->step, 0);
}

static void give_up_on(dml_recovery *r, int32_t rank, const char *why)
{
    r->starts[rank] = MAX_STARTS;
    if (r->needed & DML_RANK_BIT(rank))
        dml_recovery_end(r, "rank %d cannot be started again, and without it nobody can go on: %s",
                         rank, why);
}

static void start(dml_recovery *r, int32_t rank)
{
    char why[256] = "";
    r->gone &= ~DML_RANK_BIT(rank);
    r->spawning |= DML_RANK_BIT(rank);
    r->starts[rank]++;
    clear_page(&r->c.control->worker[rank]);
    atomic_store(&r->c.control->admitted[rank], 0);
    if (r->c.spawn && r->c.spawn(r->c.context, rank, why)) return;
    r->spawning &= ~DML_RANK_BIT(rank);
    r->gone |= DML_RANK_BIT(rank);
    give_up_on(r, rank, why[0] ? why : "there is no way to");
}

int64_t dml_recovery_spawn_due(dml_recovery *r, int64_t now_ns)
{
    int64_t next_ns = INT64_MAX;
    if (r->state == DML_AT_OVER) return next_ns;
    const uint64_t due = wanted(r);
    for (int32_t w = 0; w < r->n; w++) {
        if (!(due & DML_RANK_BIT(w))) continue;
        if (r->starts[w] >= MAX_STARTS) {
            give_up_on(r, w, "it was tried three times");
        } else if (now_ns >= r->respawn_ns[w]) {
            start(r, w);
        } else if (r->respawn_ns[w] < next_ns) {
            next_ns = r->respawn_ns[w];
        }
    }
    return next_ns;
}

/* ---- in and out, between two steps ---- */

void dml_recovery_turn_away(dml_recovery *r)
{
    const dml_death d = {.cause = "there is no plan with it", .detect_ns = dml_clock_ns()};
    const uint64_t joined = r->joined;
    for (int32_t w = 0; w < r->n; w++)
        if (joined & DML_RANK_BIT(w)) dml_recovery_lost(r, w, &d);
}

void dml_recovery_let_in_and_out(dml_recovery *r)
{
    const bool stops = atomic_load(&r->c.control->stop) != 0 || r->ended;
    const uint64_t coming = r->joined & ~r->members;
    if (r->state != DML_AT_RUN || r->snapshot.word || r->pending || stops) return;
    if (!coming && !r->unwell) return;
    dml_planned *planned = NULL;
    const uint64_t there = (r->active | coming) & ~r->unwell;
    const dml_err err = there ? dml_recovery_replan(r, r->world & ~there, &planned)
                              : dml_err_set(DML_ERR_PEER, __FILE__, __LINE__, "no worker is left");
    if (err != DML_ERR_OK && r->unwell) {
        dml_recovery_end(r, "%s, and without that worker: %s", r->illness.cause, dml_err_trail());
        return;
    }
    if (err != DML_ERR_OK) {
        dml_recovery_give_up(r, "a return");
        dml_recovery_turn_away(r);
        return;
    }
    r->leaving = r->unwell;
    r->unwell = 0;
    dml_recovery_announce(r, planned, r->leaving ? DML_REASON_LEAVE : DML_REASON_REJOIN);
}

/* ---- who is to blame ---- */

void dml_recovery_suspect(dml_recovery *r, int32_t rank, const dml_report_suspect *s)
{
    const uint64_t bit = DML_RANK_BIT(rank);
    if (!(r->active & bit)) return;
    if (s->rank == rank) { /* it speaks of itself */
        dml_death d = {.detected_by = "its own report", .detect_ns = dml_clock_ns()};
        d.fault_ns = d.detect_ns;
        snprintf(d.cause, sizeof d.cause, "%.*s", (int)sizeof d.cause - 1, s->why);
        dml_recovery_retire(r, rank, &d);
        return;
    }
    if (r->state == DML_AT_FENCED) return;
    r->suspecting |= bit;
    r->blame[rank] = s->rank;
    if (r->suspected_ns != 0) return;
    r->suspected_ns = dml_clock_ns();
    for (int32_t w = 0; w < r->n; w++)
        r->ops_then[w] = atomic_load(&r->c.control->worker[w].ops);
}

/* Deadlines of those who wait for each other pass one soon after the other. */
static int64_t grace_ns(const dml_recovery *r)
{
    const int64_t part_ns = r->spec->parallelism.timeout_ns / 8;
    return part_ns < 2 * DML_NS_PER_S ? part_ns : 2 * DML_NS_PER_S;
}

static int32_t votes_against(const dml_recovery *r, int32_t rank)
{
    int32_t n = 0;
    for (int32_t w = 0; w < r->n; w++)
        n += (r->suspecting & DML_RANK_BIT(w)) && r->blame[w] == rank;
    return n;
}

/* It does not wait, and yet finishes nothing. */
static bool stands_still(const dml_recovery *r, int32_t rank)
{
    return r->active & ~r->suspecting & DML_RANK_BIT(rank) &&
           atomic_load(&r->c.control->worker[rank].ops) == r->ops_then[rank];
}

/* Who waits himself is blamed for another's fault: the end of the chain does not wait.  Where they wait in a ring, the
 * one blamed most, and of two the higher.  Where nobody is named, as in a vote, who neither waits nor works.  -1: none */
static int32_t culprit(const dml_recovery *r)
{
    int32_t waiting = -1, most = 0, found = -1, n;
    for (int32_t w = 0; w < r->n; w++) {
        if (!(r->active & DML_RANK_BIT(w)) || (n = votes_against(r, w)) == 0) continue;
        if (!(r->suspecting & DML_RANK_BIT(w))) return w;
        if (n < most) continue;
        waiting = w;
        most = n;
    }
    for (int32_t w = 0; w < r->n; w++)
        if (stands_still(r, w)) found = w;
    return found >= 0 ? found : waiting;
}

/* The first who named it. */
static int32_t accuser(const dml_recovery *r, int32_t rank)
{
    for (int32_t w = 0; w < r->n; w++)
        if (r->suspecting & DML_RANK_BIT(w) && r->blame[w] == rank) return w;
    return -1;
}

/* They suspect since then. */
static void convict(dml_recovery *r, int64_t since_ns, int64_t now_ns)
{
    const int32_t rank = culprit(r);
    if (rank < 0) { /* nobody stands out: where all wait they try again, else it was nothing */
        if ((r->active & ~r->suspecting) == 0) dml_recovery_fence(r);
        return;
    }
    dml_death d = {.detected_by = "its peers", .fault_ns = since_ns, .detect_ns = now_ns};
    const int32_t by = accuser(r, rank);
    if (by >= 0)
        snprintf(d.cause, sizeof d.cause, "rank %d waited %.1f s for it (parallelism.timeout)", by,
                 (double)r->spec->parallelism.timeout_ns * 1e-9);
    else
        snprintf(d.cause, sizeof d.cause, "all others waited %.1f s (parallelism.timeout)",
                 (double)r->spec->parallelism.timeout_ns * 1e-9);
    dml_recovery_lost(r, rank, &d);
}

int64_t dml_recovery_judge(dml_recovery *r, int64_t now_ns)
{
    if (r->suspected_ns == 0 || r->state == DML_AT_OVER) return INT64_MAX;
    const int64_t since_ns = r->suspected_ns, at_ns = since_ns + grace_ns(r);
    if (now_ns < at_ns) return at_ns;
    r->suspected_ns = 0;
    convict(r, since_ns, now_ns);
    r->suspecting = 0;
    return INT64_MAX;
}
