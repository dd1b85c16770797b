/* engine/placement_price.c - what a stage takes on a set of devices: sums over its layers, times of its devices.
 *
 * Everything that depends on the range of layers alone is in tables by (first, last + 1) segment, so that a price is a few
 * look-ups: a search asks for millions.
 */
#include "engine/placement_impl.h"

#include <math.h>
#include <string.h>

#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define MIN2(a, b) ((a) < (b) ? (a) : (b))

/* ---- shares ---- */

/* Devices by when they would be done with one more: a heap in order[0..n). */
typedef struct queue {
    const dml_placement_device *device;
    const int32_t *share;
    int32_t *order, n;
} queue;

static int64_t memory_of(const dml_placement_device *d)
{
    return d->memory_bytes > 0 ? d->memory_bytes : INT64_MAX;
}

static bool before(const queue *q, int32_t a, int32_t b)
{
    const dml_placement_device *one = &q->device[a], *two = &q->device[b];
    const double x = (q->share[a] + 1) * two->speed, y = (q->share[b] + 1) * one->speed;
    if (x != y) return x < y;
    if (memory_of(one) != memory_of(two)) return memory_of(one) > memory_of(two);
    return one->speed != two->speed ? one->speed > two->speed : a < b;
}

static void sift_down(queue *q, int32_t i)
{
    for (int32_t child; (child = 2 * i + 1) < q->n; i = child) {
        if (child + 1 < q->n && before(q, q->order[child + 1], q->order[child])) child++;
        if (!before(q, q->order[child], q->order[i])) return;
        const int32_t swap = q->order[i];
        q->order[i] = q->order[child];
        q->order[child] = swap;
    }
}

/* What every device has by then, whatever the order: at M / (sum of speeds) each is done with the whole part of its
 * product with its speed.  One each where slow ones would have none of that. */
static int32_t deal_whole_parts(const dml_placement_device *device, int32_t n, int32_t mbs,
                                int32_t *share)
{
    double all = 0.0;
    int64_t given = 0;
    for (int32_t i = 0; i < n; i++)
        all += device[i].speed;
    for (int32_t i = 0; i < n; i++) {
        share[i] = MAX2((int32_t)(mbs * device[i].speed / all - 1e-6), 1);
        given += share[i];
    }
    if (given <= mbs) return (int32_t)given;
    for (int32_t i = 0; i < n; i++)
        share[i] = 1;
    return n;
}

void dml_placement_shares(const dml_placement_device *device, int32_t n, int32_t mbs,
                          int32_t *share)
{
    int32_t given = deal_whole_parts(device, n, mbs, share);
    dml_arena arena = {0};
    queue q = {device, share, DML_NEW_N(&arena, int32_t, n), n};
    for (int32_t i = 0; i < n; i++)
        q.order[i] = i;
    for (int32_t i = n / 2; i-- > 0;)
        sift_down(&q, i);
    for (; given < mbs; given++) {
        share[q.order[0]]++;
        sift_down(&q, 0);
    }
    dml_arena_free(&arena);
}

/* ---- sets ---- */

int32_t dml_placement_level(const dml_placement_problem *p, int32_t a, int32_t b)
{
    const dml_link *link = dml_links_between(&p->links, a, b);
    int32_t l = 0;
    while (l < p->links.levels && link != &p->links.level[l].link)
        l++;
    return l;
}

/* Adds the device to the kind that it is of. */
static int32_t add_kind(dml_placement_kind *kind, int32_t n, dml_placement_kind k)
{
    for (int32_t i = 0; i < n; i++) {
        if (kind[i].speed != k.speed || kind[i].memory_bytes != k.memory_bytes) continue;
        kind[i].share = MAX2(kind[i].share, k.share);
        return n;
    }
    kind[n] = k;
    return n + 1;
}

dml_placement_set dml_placement_set_of(const dml_placement_table *t, const int32_t *device,
                                       int32_t n, dml_arena *arena)
{
    const dml_placement_problem *p = t->p;
    dml_arena scratch = {0};
    dml_placement_device *of = DML_NEW_N(&scratch, dml_placement_device, n);
    int32_t *share = DML_NEW_N(&scratch, int32_t, n), kinds = 0;
    dml_placement_kind *kind = DML_NEW_N(&scratch, dml_placement_kind, n);
    for (int32_t i = 0; i < n; i++)
        of[i] = p->device[device[i]];
    dml_placement_shares(of, n, p->mbs, share);
    dml_placement_set set = {.n = n, .speed = t->speed_of[device[0]]};
    for (int32_t i = 0; i < n; i++) {
        const int32_t d = device[i], level = dml_placement_level(p, device[0], d);
        set.level = n > 1 ? MAX2(set.level, level) : 0;
        if (t->speed_of[d] != set.speed) set.speed = -1;
        kinds = add_kind(kind, kinds,
                         (dml_placement_kind){t->speed_of[d], share[i], p->device[d].memory_bytes});
    }
    dml_placement_kind *copy = DML_NEW_N(arena, dml_placement_kind, kinds);
    memcpy(copy, kind, (size_t)kinds * sizeof *copy);
    set.kind = copy;
    set.n_kinds = kinds;
    dml_arena_free(&scratch);
    return set;
}

/* ---- tables ---- */

static int64_t cell(const dml_placement_table *t, int32_t a, int32_t b)
{
    return (int64_t)a * (t->n + 1) + b;
}

static const dml_link *link_at(const dml_placement_table *t, int32_t level)
{
    const dml_links *links = &t->p->links;
    return level < links->levels ? &links->level[level].link : &links->outer;
}

static void add_speeds(dml_placement_table *t, dml_arena *arena)
{
    const dml_placement_problem *p = t->p;
    t->speed = DML_NEW_N(arena, double, p->n_devices);
    t->speed_of = DML_NEW_N(arena, int32_t, p->n_devices);
    for (int32_t d = 0; d < p->n_devices; d++) {
        int32_t k = 0;
        while (k < t->n_speeds && t->speed[k] != p->device[d].speed)
            k++;
        t->speed[k] = p->device[d].speed;
        t->n_speeds = MAX2(t->n_speeds, k + 1);
        t->speed_of[d] = k;
    }
}

static void add_times(dml_placement_table *t, dml_arena *arena)
{
    const int64_t cells = (int64_t)(t->n + 1) * (t->n + 1);
    t->n_links = dml_placement_level(t->p, 0, t->p->n_devices - 1) + 1;
    t->once = DML_NEW_N(arena, int64_t, cells);
    t->each = DML_NEW_N(arena, int64_t, cells);
    for (int64_t i = 0; i < cells; i++)
        t->once[i] = -1;
    t->c = DML_NEW_N(arena, int64_t *, t->n_speeds);
    t->x_in = DML_NEW_N(arena, int64_t *, t->n_links);
    t->x_out = DML_NEW_N(arena, int64_t *, t->n_links);
    for (int32_t k = 0; k < t->n_speeds; k++) {
        t->c[k] = DML_NEW_N(arena, int64_t, cells);
        for (int32_t a = 0; a < t->n; a++)
            for (int32_t b = a + 1; b <= t->n; b++)
                t->c[k][cell(t, a, b)] =
                    llround((double)(t->grid.ns[b] - t->grid.ns[a]) / t->speed[k]);
    }
    for (int32_t l = 0; l < t->n_links; l++) {
        t->x_in[l] = DML_NEW_N(arena, int64_t, cells);
        t->x_out[l] = DML_NEW_N(arena, int64_t, cells);
        for (int32_t a = 0; a < t->n; a++)
            for (int32_t b = a + 1; b <= t->n; b++) {
                const double in = (double)dml_partition_in_bytes(&t->grid, a, b),
                             out = (double)dml_partition_out_bytes(&t->grid, a, b);
                if (a > 0) t->x_in[l][cell(t, a, b)] = dml_link_ns(link_at(t, l), in);
                if (b < t->n) t->x_out[l][cell(t, a, b)] = dml_link_ns(link_at(t, l), out);
            }
    }
}

static void add_sums(dml_placement_table *t, dml_arena *arena)
{
    const dml_placement_problem *p = t->p;
    t->reduce_bytes = DML_NEW_N(arena, int64_t, t->n + 1);
    t->step = DML_NEW_N(arena, int64_t, t->n + 1);
    for (int32_t k = 0; k < t->n; k++) {
        t->reduce_bytes[k + 1] = t->reduce_bytes[k];
        t->step[k + 1] = t->step[k];
        for (int32_t i = t->at[k]; i < t->at[k + 1]; i++) {
            if (p->reduce_bytes) t->reduce_bytes[k + 1] += p->reduce_bytes[i];
            if (p->step_ns) t->step[k + 1] += p->step_ns[i];
        }
    }
}

void dml_placement_table_of(const dml_placement_problem *p, const int32_t *at, int32_t n,
                            dml_arena *arena, dml_placement_table *out)
{
    *out = (dml_placement_table){.p = p, .n = n, .cap_bytes = INT64_MAX};
    out->chain = (dml_partition_problem){
        .layer = p->layer, .skip = p->skip, .n_layers = p->n_layers, .n_skips = p->n_skips};
    out->at = DML_NEW_N(arena, int32_t, p->n_layers + 1);
    if (at)
        memcpy(out->at, at, (size_t)(n + 1) * sizeof *at);
    else
        out->n = dml_partition_segments(&out->chain, out->at, arena);
    out->grid = dml_partition_grid_of(&out->chain, out->at, out->n, arena);
    add_sums(out, arena);
    add_speeds(out, arena);
    add_times(out, arena);
}

/* ---- prices ---- */

int32_t dml_placement_in_flight(int32_t share, int32_t behind, bool mixed, int32_t mbs)
{
    const int64_t held = 1 + ((int64_t)behind * share + mbs - 1) / mbs + mixed;
    return held < share ? (int32_t)held : share;
}

int64_t dml_placement_bytes(const dml_placement_table *t, int32_t a, int32_t b, int32_t in_flight)
{
    const dml_partition_grid *g = &t->grid;
    int64_t *once = &t->once[cell(t, a, b)], *each = &t->each[cell(t, a, b)];
    if (*once < 0 && t->p->bytes) {
        t->p->bytes(t->p->of, t->at[a], t->at[b], once, each);
    } else if (*once < 0) {
        const int64_t in = dml_partition_in_bytes(g, a, b);
        *once = g->state[b] - g->state[a] + in + dml_partition_out_bytes(g, a, b);
        *each = g->stash[b] - g->stash[a] + in;
    }
    return *once + in_flight * *each;
}

bool dml_placement_fits(const dml_placement_table *t, const dml_placement_set *set, int32_t a,
                        int32_t b, int32_t behind, bool mixed)
{
    for (int32_t k = 0; k < set->n_kinds; k++) {
        const dml_placement_kind *kind = &set->kind[k];
        int64_t limit = t->cap_bytes;
        if (kind->memory_bytes > 0) limit = MIN2(limit, kind->memory_bytes + t->spare_bytes);
        if (limit == INT64_MAX) continue;
        const int32_t held = dml_placement_in_flight(kind->share, behind, mixed, t->p->mbs);
        if (dml_placement_bytes(t, a, b, held) > limit) return false;
    }
    return true;
}

int64_t dml_placement_compute(const dml_placement_table *t, const dml_placement_set *set, int32_t a,
                              int32_t b)
{
    int64_t most = 0;
    for (int32_t k = 0; k < set->n_kinds; k++) {
        const int64_t ns = set->kind[k].share * t->c[set->kind[k].speed][cell(t, a, b)];
        most = MAX2(most, ns);
    }
    return most;
}

int64_t dml_placement_slowest(const dml_placement_table *t, const dml_placement_set *set, int32_t a,
                              int32_t b)
{
    int64_t most = 0;
    for (int32_t k = 0; k < set->n_kinds; k++)
        most = MAX2(most, t->c[set->kind[k].speed][cell(t, a, b)]);
    return most;
}

/* A ring over the outermost level, as dml_links_ring_ns. */
static int64_t reduce_ns(const dml_placement_table *t, const dml_placement_set *set, int64_t bytes)
{
    if (set->n < 2 || bytes == 0) return 0;
    const dml_link *link = link_at(t, set->level);
    const int64_t steps = 2 * ((int64_t)set->n - 1);
    return steps * link->latency_ns +
           dml_link_busy_ns(link, (double)bytes * (double)steps / set->n);
}

dml_placement_price dml_placement_price_at(const dml_placement_table *t,
                                           const dml_placement_set *set, int32_t a, int32_t b,
                                           int32_t in_level, int32_t out_level)
{
    const int64_t at = cell(t, a, b);
    const int64_t x = t->x_in[in_level][at] + t->x_out[out_level][at];
    int32_t share = 0;
    double slowest = INFINITY;
    for (int32_t k = 0; k < set->n_kinds; k++) {
        share = MAX2(share, set->kind[k].share);
        slowest = fmin(slowest, t->speed[set->kind[k].speed]);
    }
    const int64_t step = t->step[b] - t->step[a];
    dml_placement_price price = {
        .compute_ns = dml_placement_compute(t, set, a, b),
        .transfer_ns = share * x,
        .reduce_ns = reduce_ns(t, set, t->reduce_bytes[b] - t->reduce_bytes[a]),
        .step_ns = step > 0 ? llround((double)step / slowest) : 0,
        .slowest_ns = dml_placement_slowest(t, set, a, b),
        .x_in_ns = t->x_in[in_level][at],
    };
    const int64_t busy = MAX2(price.compute_ns, price.transfer_ns);
    price.work_ns = t->p->reduce_overlaps ? MAX2(busy, price.reduce_ns) : busy + price.reduce_ns;
    price.work_ns += price.step_ns;
    return price;
}
