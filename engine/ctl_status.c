/* engine/ctl_status.c - figures from the leader, the workers' own from their pages. */
#include "engine/ctl_status.h"

#include "engine/base/clock.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *last_op(const dml_worker_page *page)
{
    if (atomic_load(&page->ops) == 0) return json_null();
    return json_sprintf("%s%d.%d", dml_op_info_of((dml_op_kind)atomic_load(&page->last))->text,
                        atomic_load(&page->last_chunk), atomic_load(&page->last_mb));
}

static json_t *worker(const dml_ctl_view *v, int32_t rank)
{
    const dml_worker_page *page = &v->control->worker[rank];
    const bool lost = v->leader->mended.lost >> rank & 1;
    const int64_t beat_ns = atomic_load(&page->beat_ns);
    dml_str stages = {0};
    dml_plan_print_stages(v->leader->plan, rank, &stages);
    json_t *o = json_object();
    json_object_set_new(o, "rank", json_integer(rank));
    json_object_set_new(o, "pid", v->pid[rank] ? json_integer(v->pid[rank]) : json_null());
    json_object_set_new(o, "stages", json_string(dml_str_text(&stages)));
    json_object_set_new(
        o, "state",
        json_string(lost ? "lost" : dml_phase_name((dml_phase)atomic_load(&page->phase))));
    json_object_set_new(o, "step", json_integer(atomic_load(&page->step)));
    json_object_set_new(o, "ops", json_integer(atomic_load(&page->ops)));
    json_object_set_new(o, "last_op", last_op(page));
    json_object_set_new(o, "beat_ms",
                        beat_ns > 0 ? json_integer((dml_clock_ns() - beat_ns) / DML_NS_PER_MS)
                                    : json_null());
    dml_str_free(&stages);
    return o;
}

static json_t *faults(const dml_ctl_view *v)
{
    json_t *list = json_array();
    const dml_fault_board *b = &v->control->faults;
    for (uint32_t i = 0; v->injector && i < atomic_load(&b->n); i++) {
        char text[DML_FAULT_TEXT_BYTES];
        if (atomic_load(&b->slot[i].state) == DML_FAULT_STRUCK) continue;
        dml_fault_print(&b->slot[i].fault, text);
        json_array_append_new(list, json_string(text));
    }
    return list;
}

void dml_ctl_print_status(const dml_ctl_view *v, dml_str *out)
{
    const dml_leader *l = v->leader;
    const double step_s = l->steps > 0 ? l->step_time_s : (double)NAN;
    const double batch = l->steps > 0 ? (double)l->samples / (double)l->steps : (double)NAN;
    const int64_t step = l->steps;
    json_t *o = json_object(), *lost = json_array(), *workers = json_array();
    json_object_set_new(o, "run", json_string(l->plan->spec->run.name));
    json_object_set_new(o, "backend", json_string(l->plan->spec->parallelism.backend));
    json_object_set_new(o, "state", json_string(v->state));
    json_object_set_new(o, "step", json_integer(step));
    json_object_set_new(o, "steps", json_integer(l->total_steps));
    json_object_set_new(o, "loss", number(l->steps > 0 ? l->loss : (double)NAN));
    json_object_set_new(o, "samples_per_s", number(batch / step_s));
    json_object_set_new(o, "eta_s", number((double)(l->total_steps - step) * step_s));
    json_object_set_new(o, "generation", json_integer(v->generation));
    json_object_set_new(o, "recoveries", json_integer(l->mended.n));
    json_object_set_new(o, "failures", json_integer(l->mended.failures));
    for (int32_t r = 0; r < l->processes; r++) {
        if (l->mended.lost >> r & 1) json_array_append_new(lost, json_integer(r));
        json_array_append_new(workers, worker(v, r));
    }
    json_object_set_new(o, "lost", lost);
    json_object_set_new(o, "faults", faults(v));
    json_object_set_new(o, "workers", workers);
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    dml_str_printf(out, "%s", text ? text : "null");
    free(text);
    json_decref(o);
}
