/* engine/replan_price.c - what has to move, and how long that takes.
 *
 * A worker needs the parameters of its new stages with the optimizer's state; those it holds already it keeps.  Stages
 * of two cuts overlap in any way, so it is counted parameter by parameter.
 */
#include "engine/replan_impl.h"

#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define MIN2(a, b) ((a) < (b) ? (a) : (b))

/* Without a link in the spec: what one process puts and another takes through the host's memory. */
#define COPY_BYTES_PER_S 2e9

/* Elements of parameters begin .. end - 1. */
static int64_t elems_of(const dml_plan *plan, int32_t begin, int32_t end)
{
    int64_t sum = 0;
    for (int32_t p = begin; p < end; p++)
        sum += plan->model.param[p].elems;
    return sum;
}

/* Of the stage of `next` those that the worker has of its stages under `now`. */
static int64_t kept_elems(const dml_plan *now, int32_t worker, const dml_chunk_span *span)
{
    int64_t sum = 0;
    for (int32_t s = 0; s < now->stages; s++) {
        const dml_chunk_span *had = &now->train.span[s];
        const int32_t begin = MAX2(had->param_begin, span->param_begin),
                      end = MIN2(had->param_end, span->param_end);
        if (begin < end && dml_plan_holds(now, worker, s)) sum += elems_of(now, begin, end);
    }
    return sum;
}

int64_t dml_replan_moved_bytes(const dml_plan *now, const dml_plan *next, const bool *lost)
{
    const int64_t each = (1 + dml_optimizer_has_m(next->spec) + dml_optimizer_has_v(next->spec)) *
                         (int64_t)sizeof(float);
    int64_t elems = 0;
    for (int32_t w = 0; w < next->workers; w++)
        for (int32_t s = 0; s < next->stages && !lost[w]; s++) {
            const dml_chunk_span *span = &next->train.span[s];
            if (!dml_plan_holds(next, w, s)) continue;
            elems += elems_of(next, span->param_begin, span->param_end) - kept_elems(now, w, span);
        }
    return elems * each;
}

int64_t dml_replan_transition_ns(const dml_plan *next, int64_t moved_bytes)
{
    const dml_link link = dml_spec_known_links(next->spec).outer;
    const double rate = link.bytes_per_s > 0 ? link.bytes_per_s : COPY_BYTES_PER_S;
    return (int64_t)((double)moved_bytes / rate * 1e9);
}
