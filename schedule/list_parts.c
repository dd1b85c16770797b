/* schedule/list_parts.c - workers that meet in a micro-batch are of one part; parts of one shape share an order.
 *
 * A part's routes keep the numbers of the workers, so speeds, links and limits are read as they are; its micro-batches
 * are numbered anew.  Its shape is its route table with workers numbered as they first occur there.
 */
#include "schedule/list_parts.h"

#include "engine/base/arena.h"

#include <string.h>

enum { NONE = -1 };

typedef struct part {
    int32_t n_mbs, n_workers;
    int32_t *mb;       /* [n_mbs] ascending */
    int32_t *worker;   /* [n_workers] as they first occur */
    int32_t *shape;    /* [chunks][n_mbs] places in `worker` */
    dml_program order; /* of its own micro-batches; empty where it is like another */
} part;

typedef struct parts {
    const dml_list_args *a;
    dml_arena arena;
    int32_t n;
    part *part; /* [n] by their first micro-batch */
} parts;

/* ---- who belongs together ---- */

static int32_t root_of(int32_t *up, int32_t w)
{
    while (up[w] != w)
        w = up[w] = up[up[w]];
    return w;
}

static int32_t *unite(const dml_program *routes, dml_arena *arena)
{
    int32_t *up = DML_NEW_N(arena, int32_t, routes->workers);
    for (int32_t w = 0; w < routes->workers; w++)
        up[w] = w;
    for (int32_t mb = 0; mb < routes->mbs; mb++)
        for (int32_t c = 1; c < routes->chunks; c++) {
            const int32_t a = root_of(up, *dml_program_route(routes, c - 1, mb)),
                          b = root_of(up, *dml_program_route(routes, c, mb));
            up[a > b ? a : b] = a > b ? b : a;
        }
    return up;
}

static void describe(const dml_program *routes, part *p, dml_arena *arena)
{
    int32_t *place = DML_NEW_N(arena, int32_t, routes->workers);
    p->worker = DML_NEW_N(arena, int32_t, routes->workers);
    p->shape = DML_NEW_N(arena, int32_t, (int64_t)routes->chunks * p->n_mbs);
    for (int32_t w = 0; w < routes->workers; w++)
        place[w] = NONE;
    for (int32_t c = 0; c < routes->chunks; c++)
        for (int32_t i = 0; i < p->n_mbs; i++) {
            const int32_t w = *dml_program_route(routes, c, p->mb[i]);
            if (place[w] == NONE) {
                place[w] = p->n_workers;
                p->worker[p->n_workers++] = w;
            }
            p->shape[c * p->n_mbs + i] = place[w];
        }
}

static void find(parts *ps)
{
    const dml_program *routes = ps->a->routes;
    int32_t *up = unite(routes, &ps->arena),
            *of = DML_NEW_N(&ps->arena, int32_t, routes->workers); /* part + 1 of a root */
    ps->part = DML_NEW_N(&ps->arena, part, routes->workers);
    for (int32_t mb = 0; mb < routes->mbs; mb++) {
        const int32_t root = root_of(up, *dml_program_route(routes, 0, mb));
        if (of[root] == 0) {
            of[root] = ++ps->n;
            ps->part[ps->n - 1].mb = DML_NEW_N(&ps->arena, int32_t, routes->mbs);
        }
        part *p = &ps->part[of[root] - 1];
        p->mb[p->n_mbs++] = mb;
    }
    for (int32_t i = 0; i < ps->n; i++)
        describe(routes, &ps->part[i], &ps->arena);
}

/* ---- one part ---- */

static bool are_alike(const dml_list_args *a, const part *x, const part *y)
{
    if (a->cost->speed || a->cost->links.levels > 0) return false;
    if (x->n_mbs != y->n_mbs || x->n_workers != y->n_workers) return false;
    for (int32_t k = 0; a->limit_bytes && k < x->n_workers; k++)
        if (a->limit_bytes[x->worker[k]] != a->limit_bytes[y->worker[k]]) return false;
    const size_t cells = (size_t)a->routes->chunks * (size_t)x->n_mbs;
    return memcmp(x->shape, y->shape, cells * sizeof *x->shape) == 0;
}

static dml_err routes_of(const dml_program *all, const part *p, dml_program *out)
{
    DML_TRY(dml_program_init(out, all->workers, all->chunks, p->n_mbs));
    memcpy(out->span, all->span, (size_t)all->chunks * sizeof *all->span);
    memcpy(out->buckets, all->buckets, (size_t)all->chunks * sizeof *all->buckets);
    for (int32_t c = 0; c < all->chunks; c++)
        for (int32_t i = 0; i < p->n_mbs; i++)
            *dml_program_route(out, c, i) = *dml_program_route(all, c, p->mb[i]);
    const dml_err err = dml_program_set_skips(out, all->n_skips, all->skip);
    if (err != DML_ERR_OK) dml_program_free(out);
    return err;
}

static dml_err schedule(const dml_list_args *a, part *p, int64_t *wall_ns)
{
    dml_program routes;
    DML_TRY(routes_of(a->routes, p, &routes));
    dml_list_args own = *a;
    own.routes = &routes;
    const dml_err err = dml_list_schedule(&own, &p->order, wall_ns);
    dml_program_free(&routes);
    return err;
}

/* ---- all of them ---- */

/* The order of `from`, whose shape `p` has, as that of p's own workers and micro-batches. */
static void append(const part *from, const part *p, dml_program *out)
{
    for (int32_t k = 0; k < p->n_workers; k++) {
        const dml_op_list *list = &from->order.list[from->worker[k]];
        for (int32_t i = 0; i < list->n; i++)
            dml_program_push(out, p->worker[k], (dml_op_kind)list->op[i].kind, list->op[i].chunk,
                             p->mb[list->op[i].mb]);
    }
}

static dml_err schedule_all(parts *ps, dml_program *out, int64_t *wall_ns)
{
    *wall_ns = 0;
    for (int32_t i = 0; i < ps->n; i++) {
        part *p = &ps->part[i];
        const part *like = p;
        for (int32_t k = 0; k < i && like == p; k++)
            if (ps->part[k].order.workers > 0 && are_alike(ps->a, &ps->part[k], p))
                like = &ps->part[k];
        int64_t ns = 0;
        if (like == p) DML_TRY(schedule(ps->a, p, &ns));
        if (ns > *wall_ns) *wall_ns = ns;
        append(like, p, out);
    }
    return DML_ERR_OK;
}

static bool is_routed(const dml_program *routes)
{
    for (int64_t i = 0; i < (int64_t)routes->chunks * routes->mbs; i++)
        if (routes->route[i] < 0 || routes->route[i] >= routes->workers) return false;
    return true;
}

/* The routes with no ops. */
static dml_err begin(const dml_program *routes, dml_program *out)
{
    DML_TRY(dml_program_copy(routes, out));
    for (int32_t w = 0; w < out->workers; w++)
        out->list[w].n = 0;
    return DML_ERR_OK;
}

dml_err dml_list_schedule_parts(const dml_list_args *args, dml_program *out, int64_t *wall_ns)
{
    *out = (dml_program){0};
    if (args->priority || !is_routed(args->routes)) return dml_list_schedule(args, out, wall_ns);
    parts ps = {.a = args};
    find(&ps);
    dml_err err;
    if (ps.n == 1) {
        err = dml_list_schedule(args, out, wall_ns);
    } else if ((err = begin(args->routes, out)) == DML_ERR_OK) {
        err = schedule_all(&ps, out, wall_ns);
        if (err != DML_ERR_OK) dml_program_free(out);
    }
    for (int32_t i = 0; i < ps.n; i++)
        dml_program_free(&ps.part[i].order);
    dml_arena_free(&ps.arena);
    return err;
}
