/* schedule/list_bound.c - what no order over these routes can beat.
 *
 * A micro-batch passes all chunks one after another; a worker does its work one op after another, from the first
 * moment anything reaches it, and after its last input gradient what hangs on that must still happen elsewhere:
 *
 *   worker w        | head |  F I W ...  its work  ... I | way out |
 *                   0      first F can begin             last I    end of the step
 *
 * The same from the first moment an input gradient can begin, with the backwards alone.  The largest of all these
 * counts; which worker runs what is the routes', when is left open.
 *
 * Of the span: between its first op and that of the next step a worker does all its work and makes its optimizer steps,
 * the last of them after the reduction that comes last; and each micro-batch goes from its F there through all chunks
 * above and back to its weight gradient.
 */
#include "schedule/list.h"

#include "schedule/list_impl.h"
#include "schedule/slack.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

enum { F = DML_LIST_F, I = DML_LIST_I, W = DML_LIST_W };

/* Of one worker: its work, when its first F and its first input gradient can begin, and what must follow its last
 * input gradient elsewhere. */
typedef struct load {
    int64_t work_ns, back_ns, input_ns, forward_ns;
    int64_t head_ns, first_back_ns, way_out_ns;
} load;

/* Adds what the micro-batch is to its workers; returns its own way through all of them. */
static int64_t add_load(const dml_list_instance *in, int32_t mb, load *of)
{
    const dml_program *p = in->p;
    int64_t at_ns = 0;
    for (int32_t c = 0; c < p->chunks; c++) {
        const int32_t x = c * p->mbs + mb;
        load *l = &of[*dml_program_route(p, c, mb)];
        l->head_ns = MIN2(l->head_ns, at_ns);
        at_ns += in->ns[F][x];
        l->forward_ns += in->ns[F][x];
        l->input_ns += in->ns[I][x];
        l->work_ns += in->ns[F][x] + in->ns[I][x] + in->ns[W][x];
        l->back_ns += in->ns[I][x] + in->ns[W][x];
        if (c + 1 < p->chunks) at_ns += dml_list_travel_ns(in, c, c + 1, mb);
    }
    for (int32_t c = p->chunks - 1; c >= 0; c--) {
        const int32_t x = c * p->mbs + mb;
        load *l = &of[*dml_program_route(p, c, mb)];
        l->first_back_ns = MIN2(l->first_back_ns, at_ns);
        at_ns += in->ns[I][x] + (c > 0 ? dml_list_travel_ns(in, c, c - 1, mb) : in->ns[W][x]);
    }
    int64_t out_ns =
        0; /* after the input gradient of chunk c: its weight gradient, and the chunks below */
    for (int32_t c = 0; c < p->chunks; c++) {
        const int32_t x = c * p->mbs + mb;
        load *l = &of[*dml_program_route(p, c, mb)];
        const int64_t below_ns =
            c > 0 ? dml_list_travel_ns(in, c, c - 1, mb) + in->ns[I][x - p->mbs] + out_ns : 0;
        out_ns = MAX2(in->ns[W][x], below_ns);
        l->way_out_ns = MIN2(l->way_out_ns, out_ns);
    }
    return at_ns;
}

static int64_t bound_of(const load *l)
{
    const int64_t any = l->head_ns + l->work_ns,
                  last_input = l->head_ns + l->forward_ns + l->input_ns + l->way_out_ns,
                  backs = l->first_back_ns + l->back_ns,
                  inputs = l->first_back_ns + l->input_ns + l->way_out_ns;
    return MAX2(MAX2(any, last_input), MAX2(backs, inputs));
}

/* The longest over all micro-batches and workers, for the wall. */
static int64_t wall_bound(dml_list_instance *in)
{
    const dml_program *p = in->p;
    load *of = DML_NEW_N(&in->arena, load, p->workers);
    int64_t bound_ns = 0;
    for (int32_t w = 0; w < p->workers; w++)
        of[w] = (load){.head_ns = INT64_MAX, .first_back_ns = INT64_MAX, .way_out_ns = INT64_MAX};
    for (int32_t mb = 0; mb < p->mbs; mb++) {
        const int64_t own_ns = add_load(in, mb, of);
        bound_ns = MAX2(bound_ns, own_ns);
    }
    for (int32_t w = 0; w < p->workers; w++)
        if (of[w].work_ns > 0) bound_ns = MAX2(bound_ns, bound_of(&of[w]));
    return bound_ns;
}

/* Of one worker's step, for the span. */
typedef struct update {
    int64_t work_ns, steps_ns;
    int64_t last_ns; /* least that a reduction and its optimizer step take after the last op */
} update;

/* The chunk's reduction after a backward on the worker. */
static int64_t tail_ns(const dml_list_instance *in, int32_t worker, int32_t chunk)
{
    const dml_op_kind last = in->a->split ? DML_OP_BWD_WEIGHT : DML_OP_BWD;
    return dml_reduce_tail_ns(in->p, in->a->cost, worker, last, chunk);
}

static int64_t span_bound(dml_list_instance *in)
{
    const dml_program *p = in->p;
    update *of = DML_NEW_N(&in->arena, update, p->workers);
    int32_t *seen_by = DML_NEW_N(&in->arena, int32_t, p->workers); /* chunk + 1 */
    int64_t bound_ns = 0;
    for (int32_t w = 0; w < p->workers; w++)
        of[w].last_ns = INT64_MAX;
    for (int32_t c = 0; c < p->chunks; c++)
        for (int32_t mb = 0; mb < p->mbs; mb++) {
            const int32_t x = c * p->mbs + mb, w = *dml_program_route(p, c, mb);
            const dml_op step = {.kind = DML_OP_STEP, .chunk = c, .peer = DML_NO_PEER};
            const int64_t step_ns = dml_op_ns(in->a->cost, w, &step),
                          after_ns = tail_ns(in, w, c) + step_ns;
            of[w].work_ns += in->ns[F][x] + in->ns[I][x] + in->ns[W][x];
            bound_ns =
                MAX2(bound_ns, in->round_trip_ns[x] + in->ns[I][x] + in->ns[W][x] + after_ns);
            if (seen_by[w] == c + 1) continue;
            seen_by[w] = c + 1;
            of[w].steps_ns += step_ns;
            of[w].last_ns = MIN2(of[w].last_ns, after_ns);
        }
    for (int32_t w = 0; w < p->workers; w++)
        if (of[w].work_ns > 0)
            bound_ns = MAX2(bound_ns, of[w].work_ns + MAX2(of[w].steps_ns, of[w].last_ns));
    return bound_ns;
}

int64_t dml_list_bound_ns(const dml_list_args *args)
{
    dml_list_instance in;
    int64_t bound_ns = 0;
    if (dml_list_open(&in, args) == DML_ERR_OK)
        bound_ns = args->objective == DML_LIST_WALL ? wall_bound(&in) : span_bound(&in);
    dml_arena_free(&in.arena);
    return bound_ns;
}
