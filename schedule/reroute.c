/* schedule/reroute.c - routes first, then the ops by when they begin.
 *
 * (start_ns, depth) of schedule/play.h grows along every dependency, so lists sorted by it are parts of one global
 * order: none waits for what stands behind it, whoever runs it.
 */
#include "schedule/reroute.h"

#include "engine/base/str.h"
#include "schedule/play.h"
#include "schedule/versions.h"

#include <stdlib.h>
#include <string.h>

/* ---- routes ---- */

/* Whose routes name it for the chunk, and who is not lost, ascending; returns how many. */
static int32_t live_holders(const dml_program *p, int32_t chunk, const bool *lost, bool *holds,
                            int32_t *live)
{
    int32_t n = 0;
    memset(holds, 0, (size_t)p->workers * sizeof *holds);
    for (int32_t mb = 0; mb < p->mbs; mb++)
        holds[*dml_program_route(p, chunk, mb)] = true;
    for (int32_t w = 0; w < p->workers; w++)
        if (holds[w] && !lost[w]) live[n++] = w;
    return n;
}

static dml_err none_left(int32_t chunk, const bool *holds, int32_t workers)
{
    dml_str who = {0};
    int32_t n = 0;
    for (int32_t w = 0; w < workers; w++)
        if (holds[w]) dml_str_printf(&who, "%s%d", n++ ? ", " : " ", w);
    const dml_err err = dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__,
                                    "stage %d has no worker left: worker%s%s held it", chunk,
                                    n > 1 ? "s" : "", dml_str_text(&who));
    dml_str_free(&who);
    return err;
}

static dml_err route(const dml_program *order, const bool *lost, dml_arena *arena, dml_program *out)
{
    bool *holds = DML_NEW_N(arena, bool, order->workers);
    int32_t *live = DML_NEW_N(arena, int32_t, order->workers);
    for (int32_t c = 0; c < order->chunks; c++) {
        const int32_t n = live_holders(order, c, lost, holds, live);
        if (n == 0) return none_left(c, holds, order->workers);
        for (int32_t mb = 0, k = 0; mb < order->mbs; mb++) {
            const int32_t w = *dml_program_route(order, c, mb);
            *dml_program_route(out, c, mb) = lost[w] ? live[k++ % n] : w;
        }
    }
    return DML_ERR_OK;
}

dml_err dml_reroute(const dml_program *order, const bool *lost, dml_program *out)
{
    DML_TRY(dml_program_copy(order, out));
    for (int32_t w = 0; w < out->workers; w++)
        out->list[w].n = 0;
    dml_arena arena = {0};
    const dml_err err = route(order, lost, &arena, out);
    dml_arena_free(&arena);
    if (err != DML_ERR_OK) dml_program_free(out);
    return err;
}

/* ---- ops ---- */

typedef struct begin {
    int64_t ns;
    int32_t depth, number; /* number: among all ops, where nothing else tells them apart */
    const dml_op *op;
} begin;

static int by_begin(const void *a, const void *b)
{
    const begin *x = a, *y = b;
    if (x->ns != y->ns) return x->ns < y->ns ? -1 : 1;
    return x->depth != y->depth ? (x->depth < y->depth ? -1 : 1)
                                : (x->number > y->number) - (x->number < y->number);
}

/* Which version each micro-batch reads at each chunk: [chunks][mbs]. */
static int32_t *versions_of(const dml_program *order, dml_arena *arena)
{
    int32_t *of = DML_NEW_N(arena, int32_t, (int64_t)order->chunks * order->mbs);
    for (int32_t w = 0; w < order->workers; w++) {
        int32_t *reads = DML_NEW_N(arena, int32_t, order->list[w].n);
        dml_versions_read(order, w, reads);
        for (int32_t i = 0; i < order->list[w].n; i++) {
            const dml_op *op = &order->list[w].op[i];
            if (op->kind == DML_OP_FWD) of[op->chunk * order->mbs + op->mb] = reads[i];
        }
    }
    return of;
}

typedef struct reading {
    const int32_t *version;
    int32_t mbs;
} reading;

static int32_t version_of(const void *ctx, int32_t chunk, int32_t mb)
{
    const reading *r = ctx;
    return r->version[chunk * r->mbs + mb];
}

static dml_err merge(const dml_program *order, const dml_cost *cost, dml_arena *arena,
                     dml_program *out)
{
    dml_play play;
    DML_TRY(dml_play_run(order, cost, DML_MACHINE_LANES, arena, &play));
    begin *at = DML_NEW_N(arena, begin, play.ops);
    for (int32_t w = 0; w < order->workers; w++)
        for (int32_t i = 0; i < order->list[w].n; i++) {
            const int32_t k = play.first[w] + i;
            at[k] = (begin){play.start_ns[k], play.depth[k], k, &order->list[w].op[i]};
        }
    qsort(at, (size_t)play.ops, sizeof *at, by_begin);
    for (int32_t k = 0; k < play.ops; k++) {
        const dml_op *op = at[k].op;
        dml_program_push(out, *dml_program_route(out, op->chunk, op->mb), (dml_op_kind)op->kind,
                         op->chunk, op->mb);
    }
    return dml_versions_set(out, version_of, &(reading){versions_of(order, arena), order->mbs});
}

dml_err dml_reroute_ops(const dml_program *order, const dml_cost *cost, dml_program *out)
{
    dml_arena arena = {0};
    const dml_err err = merge(order, cost, &arena, out);
    dml_arena_free(&arena);
    return err;
}

int64_t dml_order_peak(const dml_program *order, int32_t worker, const int64_t *held_bytes)
{
    int64_t kept = 0, most = 0;
    for (int32_t i = 0; i < order->list[worker].n; i++) {
        const dml_op *op = &order->list[worker].op[i];
        if (op->kind == DML_OP_FWD) kept += held_bytes[op->chunk];
        if (dml_op_is_weight_grad(op)) kept -= held_bytes[op->chunk];
        most = kept > most ? kept : most;
    }
    return most;
}
