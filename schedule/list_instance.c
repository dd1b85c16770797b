/* schedule/list_instance.c - what the arguments come to: how long ops take, what follows them, what micro-batches keep.
 *
 * Sums along a micro-batch's way through the chunks, up by F and back by the input gradients I, each followed by its
 * weight gradient W, when nothing waits:
 *
 *   round_trip(c) = F(c) + 2 lag(c) + round_trip(c + 1) + I(c + 1)
 *   tail_W(c) = W(c)      tail_I(c) = I(c) + max(W(c), lag(c - 1) + tail_I(c - 1))
 *   tail_F(c) = round_trip(c) + tail_I(c)
 *
 * Above the last chunk and below the first there is nothing.
 */
#include "schedule/list_impl.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

enum { KINDS = DML_LIST_KINDS, F = DML_LIST_F, I = DML_LIST_I, W = DML_LIST_W };

static int64_t cost_of(const dml_list_args *a, dml_op_kind k, int32_t chunk, int32_t worker,
                       int32_t peer)
{
    const dml_op op = {.kind = (uint8_t)k, .chunk = chunk, .peer = (int16_t)peer};
    return dml_op_ns(a->cost, worker, &op);
}

/* What micro-batch mb takes of chunk c, on the workers that run it there and on the next. */
static void measure_cell(dml_list_instance *in, int32_t c, int32_t mb)
{
    const dml_list_args *a = in->a;
    const int32_t cell = c * in->p->mbs + mb, w = *dml_program_route(in->p, c, mb);
    in->ns[F][cell] = cost_of(a, DML_OP_FWD, c, w, DML_NO_PEER);
    in->ns[I][cell] = cost_of(a, a->split ? DML_OP_BWD_INPUT : DML_OP_BWD, c, w, DML_NO_PEER);
    in->ns[W][cell] = a->split ? cost_of(a, DML_OP_BWD_WEIGHT, c, w, DML_NO_PEER) : 0;
    if (c + 1 == in->p->chunks) return;
    const int32_t next = *dml_program_route(in->p, c + 1, mb);
    if (next != w) in->lag[cell] = cost_of(a, DML_OP_SEND_ACT, c, w, next);
}

static void measure(dml_list_instance *in)
{
    const int32_t n = in->p->chunks, mbs = in->p->mbs;
    for (int k = 0; k < KINDS; k++) {
        in->ns[k] = DML_NEW_N(&in->arena, int64_t, in->cells);
        in->tail[k] = DML_NEW_N(&in->arena, int64_t, in->cells);
    }
    in->lag = DML_NEW_N(&in->arena, int64_t, in->cells);
    in->round_trip_ns = DML_NEW_N(&in->arena, int64_t, in->cells);
    for (int32_t c = 0; c < n; c++)
        for (int32_t mb = 0; mb < mbs; mb++)
            measure_cell(in, c, mb);
    for (int32_t x = 0; x < in->cells; x++) {
        in->tail[W][x] = in->ns[W][x];
        const int64_t below = x >= mbs ? in->lag[x - mbs] + in->tail[I][x - mbs] : 0;
        in->tail[I][x] = in->ns[I][x] + MAX2(in->ns[W][x], below);
    }
    for (int32_t x = in->cells - 1; x >= 0; x--) {
        const int32_t up = x + mbs;
        in->round_trip_ns[x] = in->ns[F][x];
        if (up < in->cells)
            in->round_trip_ns[x] += 2 * in->lag[x] + in->round_trip_ns[up] + in->ns[I][up];
        in->tail[F][x] = in->round_trip_ns[x] + in->tail[I][x];
    }
}

static void measure_load(dml_list_instance *in)
{
    const dml_program *p = in->p;
    int64_t *work = DML_NEW_N(&in->arena, int64_t, p->workers), all = 0;
    in->load = DML_NEW_N(&in->arena, int64_t, (int64_t)p->workers * p->mbs);
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t mb = 0; mb < p->mbs; mb++) {
            const int32_t w = *dml_program_route(p, c, mb);
            const int32_t cell = c * p->mbs + mb;
            const int64_t ns = in->ns[F][cell] + in->ns[I][cell] + in->ns[W][cell];
            work[w] += ns;
            all += ns;
            in->load[(int64_t)w * p->mbs + mb] += dml_list_held(in->a, c);
        }
    for (int32_t w = 0; w < p->workers; w++)
        in->period_ns = MAX2(in->period_ns, work[w] / p->mbs);
    in->unit_ns = (double)all / (KINDS * (double)in->cells);
}

static dml_err check(const dml_list_args *a)
{
    const dml_program *p = a->routes;
    if (a->cost->chunks != p->chunks)
        DML_FAIL(DML_ERR_SPEC, "costs of %d chunks for routes of %d", a->cost->chunks, p->chunks);
    if (a->trials < 1)
        DML_FAIL(DML_ERR_SPEC, "an order takes at least one trial, not %d", a->trials);
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t mb = 0; mb < p->mbs; mb++) {
            const int32_t w = *dml_program_route(p, c, mb);
            if (w < 0 || w >= p->workers)
                DML_FAIL(DML_ERR_SPEC, "micro-batch %d of chunk %d has no worker", mb, c);
        }
    return DML_ERR_OK;
}

static dml_err check_memory(const dml_list_instance *in)
{
    const dml_list_args *a = in->a;
    for (int32_t w = 0; a->limit_bytes && w < in->p->workers; w++)
        for (int32_t mb = 0; mb < in->p->mbs; mb++) {
            const int64_t need = in->load[(int64_t)w * in->p->mbs + mb];
            if (need > a->limit_bytes[w])
                DML_FAIL(
                    DML_ERR_NOMEM,
                    "micro-batch %d alone keeps %lld bytes on worker %d, which has room for %lld",
                    mb, (long long)need, w, (long long)a->limit_bytes[w]);
        }
    return DML_ERR_OK;
}

dml_err dml_list_open(dml_list_instance *in, const dml_list_args *args)
{
    *in = (dml_list_instance){.a = args, .p = args->routes};
    DML_TRY(check(args));
    in->cells = in->p->chunks * in->p->mbs;
    measure(in);
    measure_load(in);
    DML_TRY(check_memory(in));
    return args->priority ? dml_list_ranks(args, &in->arena, &in->rank) : DML_ERR_OK;
}

int64_t dml_list_travel_ns(const dml_list_instance *in, int32_t chunk_from, int32_t chunk_to,
                           int32_t mb)
{
    return in->lag[MIN2(chunk_from, chunk_to) * in->p->mbs + mb];
}
