/* schedule/lower_updates.c - as late as can be, so that little of a chunk is there twice.
 *
 * A step turns version u into u + 1.  It stands right before the first op that
 *
 *   reads version u + 1 or a later one, or
 *   adds to the sum of update u + sums, which lies where that of update u lies
 *
 * or at the end of the list.  PipeDream, p = 4, stage 2, an update per micro-batch (reads below):
 *
 *   F0 F1 B0 U0 F2 B1 U1 F3 B2 U2 F4 B3 ...      versions 2: when U1 has made version 2 for F3,
 *   0  0  0     1  0     2  1     3  2           B2 still reads version 1
 *
 * A step that comes early ends the life of its sum, one that comes late spares the versions: with s sums
 * there are v(s) versions, which never grow with s.  What is taken is the smallest s + v(s); when several
 * are, the fewest sums, or with a vote the most, which leave it the most time:
 *
 *   weight stashing   stage s of p   p - s versions, 1 sum
 *   vertical sync                    p versions, 1 sum, or with a vote p - s versions and s + 1 sums
 *   2BW                              2 versions, 1 sum; with a vote as many sums as it takes
 *
 * s is at least so large that in the predicted timeline nobody who adds to a sum waits for other workers to
 * finish the update that had it before: what other workers still have to do has begun before, so a step never
 * turns the order of things into a circle.
 */
#include "schedule/lower_updates.h"

#include "schedule/versions.h"

#include <stdlib.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

/* An op of a chunk. */
typedef struct use {
    int32_t worker, i;
    int32_t reads;  /* version                             */
    int32_t adds;   /* update whose sum it adds to, -1: none */
    int32_t number; /* in the play                         */
} use;

/* When the last backward of an update begins and ends. */
typedef struct moment {
    int64_t start_ns, end_ns;
    int32_t depth; /* with start_ns: the largest of all together */
} moment;

/* A step: where it stands. */
typedef struct place {
    int32_t worker, i, chunk, update;
} place;

typedef struct updating {
    const dml_program *order;
    const dml_play *play;
    dml_arena *arena;
    use *use;       /* of chunk c from first[c] on, worker by worker */
    int32_t *first; /* [chunks + 1] */
    moment *done;   /* [updates] of the chunk at hand; when there are votes, of all */
    place *place;
    int64_t n_places;
} updating;

static void collect_uses(updating *up)
{
    const dml_program *p = up->order;
    up->first = DML_NEW_N(up->arena, int32_t, p->chunks + 1);
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++)
            up->first[p->list[w].op[i].chunk + 1]++;
    for (int32_t c = 0; c < p->chunks; c++)
        up->first[c + 1] += up->first[c];
    up->use = DML_NEW_N(up->arena, use, up->first[p->chunks]);
    int32_t *next = DML_NEW_N(up->arena, int32_t, p->chunks);
    for (int32_t w = 0; w < p->workers; w++) {
        int32_t *reads = DML_NEW_N(up->arena, int32_t, p->list[w].n);
        dml_versions_read(p, w, reads);
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            up->use[up->first[op->chunk] + next[op->chunk]++] =
                (use){.worker = w,
                      .i = i,
                      .reads = reads[i],
                      .adds = dml_op_is_weight_grad(op) ? dml_op_update(p, op) : -1,
                      .number = up->play->first[w] + i};
        }
    }
}

static bool begins_before(const dml_play *play, const moment *m, int32_t number)
{
    if (m->start_ns != play->start_ns[number]) return m->start_ns < play->start_ns[number];
    return m->depth < play->depth[number];
}

static void note_moments(updating *up, int32_t c)
{
    for (int32_t k = up->first[c]; k < up->first[c + 1]; k++) {
        if (up->use[k].adds < 0) continue;
        const int32_t number = up->use[k].number;
        moment *m = &up->done[up->use[k].adds];
        if (begins_before(up->play, m, number)) {
            m->start_ns = up->play->start_ns[number];
            m->depth = up->play->depth[number];
        }
        m->end_ns = MAX2(m->end_ns, up->play->end_ns[number]);
    }
}

/* Reductions go in the order of updates, so one is not over before those before it. */
static void find_moments(updating *up, int32_t c)
{
    const dml_program *p = up->order;
    const int32_t updates = dml_program_updates(p, c);
    for (int32_t u = 0; u < updates; u++)
        up->done[u] = (moment){.depth = -1};
    for (int32_t k = p->votes ? 0 : c; k < (p->votes ? p->chunks : c + 1); k++)
        note_moments(up, k);
    for (int32_t u = 1; u < updates; u++) {
        moment *m = &up->done[u];
        const moment *before = m - 1;
        if (m->start_ns < before->start_ns ||
            (m->start_ns == before->start_ns && m->depth < before->depth)) {
            m->start_ns = before->start_ns;
            m->depth = before->depth;
        }
        m->end_ns = MAX2(m->end_ns, before->end_ns);
    }
}

/* Whether the update is over, in the predicted timeline, when the op of that number begins. */
static bool is_over(const updating *up, int32_t update, int32_t number)
{
    const moment *m = &up->done[update];
    return m->end_ns <= up->play->start_ns[number] && begins_before(up->play, m, number);
}

static void put(updating *up, bool enter, int32_t worker, int32_t i, int32_t chunk, int32_t update)
{
    if (enter) up->place[up->n_places++] = (place){worker, i, chunk, update};
}

/* Places the steps of the chunk for so many sums: returns the versions that live at once, 0 when that
 * are too few sums.  `enter`: for good. */
static int32_t place_steps(updating *up, int32_t c, int32_t sums, bool enter)
{
    const int32_t updates = dml_program_updates(up->order, c);
    int32_t versions = 1, made = 0;
    for (int32_t k = up->first[c]; k < up->first[c + 1]; k++) {
        const use *at = &up->use[k];
        for (; made < updates && (at->reads > made || at->adds >= made + sums); made++) {
            if (at->reads <= made && !is_over(up, made, at->number)) return 0;
            put(up, enter, at->worker, at->i, c, made);
        }
        versions = MAX2(versions, made - at->reads + 1);
        if (k + 1 < up->first[c + 1] && at[1].worker == at->worker) continue;
        for (; made < updates; made++)
            put(up, enter, at->worker, up->order->list[at->worker].n, c, made);
        made = 0;
    }
    return versions;
}

static int32_t choose_sums(updating *up, int32_t c)
{
    const int32_t updates = dml_program_updates(up->order, c);
    const int32_t fewest = place_steps(up, c, updates, false); /* versions */
    int32_t best = updates, least = updates + fewest;
    for (int32_t sums = 1; sums < updates && sums + fewest <= least; sums++) {
        const int32_t versions = place_steps(up, c, sums, false);
        if (versions == 0 || sums + versions > least) continue;
        if (sums + versions == least && !up->order->votes && best < sums) continue;
        best = sums;
        least = sums + versions;
    }
    return best;
}

static int by_place(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->worker != y->worker) return x->worker < y->worker ? -1 : 1;
    if (x->i != y->i) return x->i < y->i ? -1 : 1;
    if (x->chunk != y->chunk) return x->chunk < y->chunk ? -1 : 1;
    return (x->update > y->update) - (x->update < y->update);
}

/* The lists of the order with the steps between its ops. */
static void merge(const updating *up, dml_program *out)
{
    const place *next = up->place, *end = up->place + up->n_places;
    for (int32_t w = 0; w < out->workers; w++) {
        const dml_op_list *list = &up->order->list[w];
        out->list[w].n = 0;
        for (int32_t i = 0; i <= list->n; i++) {
            for (; next < end && next->worker == w && next->i == i; next++)
                dml_program_push(out, w, DML_OP_STEP, next->chunk, next->update);
            if (i == list->n) continue;
            const int32_t at =
                dml_program_push(out, w, (dml_op_kind)list->op[i].kind, 0, DML_NO_MB);
            out->list[w].op[at] = list->op[i];
        }
    }
}

dml_err dml_lower_updates(const dml_program *order, const dml_play *play, dml_arena *arena,
                          dml_program *out)
{
    DML_TRY(dml_program_copy(order, out));
    updating up = {.order = order, .play = play, .arena = arena};
    collect_uses(&up);
    int32_t most = 0;
    for (int32_t c = 0; c < order->chunks; c++)
        most = MAX2(most, dml_program_updates(order, c));
    up.done = DML_NEW_N(arena, moment, most);
    up.place = DML_NEW_N(arena, place, play->ops); /* no more than backwards: each update has one */
    for (int32_t c = 0; c < order->chunks; c++) {
        if (c == 0 || !order->votes) find_moments(&up, c);
        out->sums[c] = choose_sums(&up, c);
        out->versions[c] = place_steps(&up, c, out->sums[c], true);
    }
    qsort(up.place, (size_t)up.n_places, sizeof *up.place, by_place);
    merge(&up, out);
    return DML_ERR_OK;
}
