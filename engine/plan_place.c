/* engine/plan_place.c - who holds what: questions to the route table, and the names of places for people. */
#include "engine/plan.h"

int32_t dml_plan_share(const dml_plan *p, int32_t worker, int32_t stage)
{
    int32_t n = 0;
    for (int32_t mb = 0; mb < p->mbs; mb++)
        n += *dml_program_route(&p->train, stage, mb) == worker;
    return n;
}

bool dml_plan_holds(const dml_plan *p, int32_t worker, int32_t stage)
{
    for (int32_t mb = 0; mb < p->mbs; mb++)
        if (*dml_program_route(&p->train, stage, mb) == worker) return true;
    return false;
}

int32_t dml_plan_holders(const dml_plan *p, int32_t stage, int32_t *out)
{
    int32_t n = 0;
    for (int32_t w = 0; w < p->workers; w++) {
        if (!dml_plan_holds(p, w, stage)) continue;
        if (out) out[n] = w;
        n++;
    }
    return n;
}

bool dml_plan_lost(const dml_plan *p, int32_t worker)
{
    const dml_int_list *lost = &p->spec->parallelism.lost;
    for (int32_t i = 0; i < lost->n; i++)
        if (lost->v[i] == worker) return true;
    return false;
}

static bool names(const dml_plan *p, int32_t stage, int32_t worker)
{
    const dml_int_list *workers = &p->spec->parallelism.stage[stage].workers;
    for (int32_t i = 0; i < workers->n; i++)
        if (workers->v[i] == worker) return true;
    return false;
}

/* Of parallelism.stages the first that names it, -1: none does. */
static int32_t first_stage(const dml_plan *p, int32_t worker)
{
    for (int32_t s = 0; s < p->stages; s++)
        if (names(p, s, worker)) return s;
    return -1;
}

/* Of equal pipelines: whose work it does, or would do if it were there. */
static int32_t place_of(const dml_plan *p, int32_t worker)
{
    const dml_int_list *seats = &p->spec->parallelism.seats;
    return seats->n > 0 ? seats->v[worker] : worker;
}

int32_t dml_plan_rank(const dml_plan *p, int32_t worker)
{
    return dml_plan_is_equal(p) ? place_of(p, worker) / p->replicas : first_stage(p, worker);
}

int32_t dml_plan_replica(const dml_plan *p, int32_t worker)
{
    if (dml_plan_is_equal(p)) return place_of(p, worker) % p->replicas;
    const int32_t s = first_stage(p, worker);
    int32_t before = 0;
    for (int32_t w = 0; w < worker && s >= 0; w++)
        before += names(p, s, w);
    return s < 0 ? -1 : before;
}

void dml_plan_print_stages(const dml_plan *p, int32_t worker, dml_str *out)
{
    const char *comma = "";
    for (int32_t s = 0; s < p->stages; s++) {
        if (!dml_plan_holds(p, worker, s)) continue;
        dml_str_printf(out, "%s%d", comma, s);
        comma = ",";
    }
}
