/* schedule/sim.c - times from the play, and what they add up to. */
#include "schedule/sim.h"

#include "schedule/depend.h"
#include "schedule/play.h"

#include <stdlib.h>
#include <string.h>

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

/* Compute ops of a worker follow each other, so the peak is one of the prefix sums of its list. */
static int32_t peak_stash(const dml_program *p, const dml_op_list *list)
{
    int32_t held = 0, peak = 0;
    for (int32_t i = 0; i < list->n; i++) {
        if (list->op[i].kind == DML_OP_FWD) held++;
        peak = MAX2(peak, held);
        if (dml_op_is_weight_grad(&list->op[i]) && dml_op_is_last(p, &list->op[i])) held--;
    }
    return peak;
}

/* How much of [from, to) the lane of op i, itself or ops before it, had data on the move. */
static int64_t moving_ns(const dml_program *p, const dml_sim *s, int32_t w, int32_t i,
                         int64_t from_ns, int64_t to_ns)
{
    const dml_lane lane = dml_op_lane(&p->list[w].op[i]);
    int64_t sum_ns = 0;
    for (; i >= 0; i--) {
        if (dml_op_lane(&p->list[w].op[i]) != lane) continue;
        const int64_t end_ns = MIN2(s->end_ns[s->first[w] + i], to_ns);
        if (end_ns <= from_ns) break;
        const int64_t begin_ns = MAX2(s->start_ns[s->first[w] + i], from_ns);
        sum_ns += MAX2(end_ns - begin_ns, 0);
    }
    return sum_ns;
}

static int64_t exposed_ns(const dml_program *p, const dml_sim *s, int32_t w)
{
    const dml_op_list *list = &p->list[w];
    const int32_t first = s->first[w];
    int64_t idle_since_ns = 0, sum_ns = 0;
    for (int32_t i = 0; i < list->n; i++) {
        if (dml_op_lane(&list->op[i]) != DML_LANE_COMPUTE) continue;
        int32_t last = DML_NO_WAIT;
        for (int32_t k = 0; k < DML_OP_WAITS; k++) {
            const int32_t wait = list->op[i].wait[k];
            if (wait == DML_NO_WAIT) continue;
            if (last == DML_NO_WAIT || s->end_ns[first + wait] > s->end_ns[first + last])
                last = wait;
        }
        if (last != DML_NO_WAIT && s->start_ns[first + i] > idle_since_ns)
            sum_ns += moving_ns(p, s, w, last, idle_since_ns, s->start_ns[first + i]);
        idle_since_ns = MAX2(idle_since_ns, s->end_ns[first + i]);
    }
    return sum_ns;
}

/* What the times in `out` come to. */
static void add_up(const dml_program *p, dml_sim *out)
{
    out->busy_ns = DML_NEW_N(&out->arena, int64_t, p->workers);
    out->exposed_ns = DML_NEW_N(&out->arena, int64_t, p->workers);
    out->peak_stash = DML_NEW_N(&out->arena, int32_t, p->workers);
    for (int32_t w = 0; w < p->workers; w++) {
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const int32_t k = out->first[w] + i;
            out->makespan_ns = MAX2(out->makespan_ns, out->end_ns[k]);
            if (dml_op_lane(&p->list[w].op[i]) == DML_LANE_COMPUTE)
                out->busy_ns[w] += out->end_ns[k] - out->start_ns[k];
        }
        if (!p->forward_only) out->peak_stash[w] = peak_stash(p, &p->list[w]);
    }
}

dml_err dml_simulate(const dml_program *p, const dml_cost *cost, dml_sim *out)
{
    *out = (dml_sim){.workers = p->workers};
    dml_play play;
    const dml_err err = dml_play_run(p, cost, DML_MACHINE_LANES, &out->arena, &play);
    if (err != DML_ERR_OK) {
        dml_sim_free(out);
        return dml_err_add(err, __func__, __FILE__, __LINE__);
    }
    out->first = play.first;
    out->start_ns = play.start_ns;
    out->end_ns = play.end_ns;
    add_up(p, out);
    for (int32_t w = 0; w < p->workers && p->lowered; w++)
        out->exposed_ns[w] = exposed_ns(p, out, w);
    return DML_ERR_OK;
}

/* ---- steps in a row ---- */

/* Ends of one step become the beginnings of the next. */
static void follow_on(const dml_program *p, const dml_play *play, int64_t *worker_ns,
                      int64_t *voted_ns)
{
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const int64_t end_ns = play->end_ns[play->first[w] + i];
            int64_t *at = p->list[w].op[i].kind == DML_OP_VOTE ? voted_ns : &worker_ns[w];
            *at = MAX2(*at, end_ns);
        }
}

/* Whether all that take part are later by the same. */
static bool is_steady(const dml_program *p, const int64_t *before_ns, const int64_t *after_ns,
                      int64_t *period_ns)
{
    *period_ns = -1;
    for (int32_t w = 0; w < p->workers; w++) {
        if (p->list[w].n == 0) continue;
        const int64_t later_ns = after_ns[w] - before_ns[w];
        if (*period_ns >= 0 && later_ns != *period_ns) return false;
        *period_ns = later_ns;
    }
    return true;
}

static int64_t latest(const int64_t *ns, int32_t n)
{
    int64_t most = 0;
    for (int32_t i = 0; i < n; i++)
        most = MAX2(most, ns[i]);
    return most;
}

/* Times of steps in a row are max-plus linear: from some step on they are periodic, mostly from the second or third.  Where
 * the period is of several steps, or comes late, the mean of the later half is taken. */
static dml_err staggered_period(const dml_program *p, const dml_cost *cost, dml_arena *arena,
                                int64_t *out_ns)
{
    enum { STEPS = 16 };
    int64_t *worker_ns = DML_NEW_N(arena, int64_t, p->workers),
            *before_ns = DML_NEW_N(arena, int64_t, p->workers), voted_ns = 0, half_ns = 0;
    for (int32_t n = 1; n <= STEPS; n++) {
        memcpy(before_ns, worker_ns, (size_t)p->workers * sizeof *before_ns);
        dml_arena one = {0};
        dml_play play;
        const dml_err err = dml_play_from(p, cost, DML_MACHINE_LANES,
                                          &(dml_play_begin){worker_ns, voted_ns}, &one, &play);
        if (err == DML_ERR_OK) follow_on(p, &play, worker_ns, &voted_ns);
        dml_arena_free(&one);
        DML_TRY(err);
        if (n > 1 && is_steady(p, before_ns, worker_ns, out_ns)) return DML_ERR_OK;
        if (n == STEPS / 2) half_ns = latest(worker_ns, p->workers);
    }
    *out_ns = (latest(worker_ns, p->workers) - half_ns) / (STEPS - STEPS / 2);
    return DML_ERR_OK;
}

dml_err dml_simulate_period(const dml_program *p, const dml_cost *cost, int64_t *out_ns)
{
    dml_arena arena = {0};
    dml_play play;
    dml_err err;
    *out_ns = 0;
    if (p->staggered && p->lowered) {
        err = staggered_period(p, cost, &arena, out_ns);
    } else {
        err = dml_play_run(p, cost, DML_MACHINE_LANES, &arena, &play);
        if (err == DML_ERR_OK) *out_ns = latest(play.end_ns, play.ops);
    }
    dml_arena_free(&arena);
    return err;
}

/* When the first compute op began; 0 when none ran. */
static int64_t origin_of(const dml_program *p, const int64_t *start_ns, const int64_t *end_ns)
{
    int64_t origin = INT64_MAX, k = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++, k++)
            if (dml_op_lane(&p->list[w].op[i]) == DML_LANE_COMPUTE && end_ns[k] != 0)
                origin = MIN2(origin, start_ns[k]);
    return origin == INT64_MAX ? 0 : origin;
}

void dml_sim_of_times(const dml_program *p, const int64_t *start_ns, const int64_t *end_ns,
                      dml_sim *out)
{
    const int64_t origin_ns = origin_of(p, start_ns, end_ns), ops = dml_program_ops(p);
    *out = (dml_sim){.workers = p->workers};
    out->first = DML_NEW_N(&out->arena, int32_t, p->workers + 1);
    out->start_ns = DML_NEW_N(&out->arena, int64_t, ops);
    out->end_ns = DML_NEW_N(&out->arena, int64_t, ops);
    for (int32_t w = 0; w < p->workers; w++)
        out->first[w + 1] = out->first[w] + p->list[w].n;
    for (int64_t k = 0; k < ops; k++) {
        if (end_ns[k] == 0) continue;
        out->start_ns[k] = MAX2(start_ns[k] - origin_ns, 0);
        out->end_ns[k] = MAX2(end_ns[k] - origin_ns, 0);
    }
    add_up(p, out);
}

void dml_sim_free(dml_sim *sim)
{
    dml_arena_free(&sim->arena);
    *sim = (dml_sim){0};
}

double dml_sim_bubble(const dml_sim *sim, int32_t worker)
{
    if (sim->makespan_ns == 0) return 0.0;
    return 1.0 - (double)sim->busy_ns[worker] / (double)sim->makespan_ns;
}

typedef struct change {
    int64_t ns;
    int32_t by; /* +1 or -1 */
} change;

static int by_time(const void *a, const void *b)
{
    const change *x = a, *y = b;
    if (x->ns != y->ns) return x->ns < y->ns ? -1 : 1;
    return x->by - y->by; /* a slot freed now serves who starts now */
}

int32_t dml_sim_peak_slots(const dml_sim *sim, const dml_program *p, int32_t worker, dml_pool pool)
{
    DML_ASSERT(p->lowered);
    const dml_op_list *list = &p->list[worker];
    dml_arena arena = {0};
    dml_index ix;
    dml_index_build(&ix, p, &arena);
    /* Op i writes at most one buffer: changes 2i and 2i + 1 are its start and its end. */
    change *ch = DML_NEW_N(&arena, change, 2 * (int64_t)list->n);
    for (int32_t i = 0; i < list->n; i++) {
        dml_touch touch[DML_OP_TOUCHES];
        const int32_t n = dml_op_touches(p, &ix, &list->op[i], touch);
        for (int32_t t = 0; t < n; t++) {
            if (touch[t].pool != pool) continue;
            const int32_t writer = dml_touch_writer(&ix, &touch[t]);
            change *begin = &ch[2 * writer], *end = begin + 1;
            const int32_t k = sim->first[worker] + i;
            if (touch[t].write) *begin = (change){sim->start_ns[k], +1};
            *end = (change){MAX2(end->ns, sim->end_ns[k]), -1};
        }
    }
    const int32_t n_ch = 2 * list->n;
    int32_t held = 0, peak = 0;
    qsort(ch, (size_t)n_ch, sizeof *ch, by_time);
    for (int32_t i = 0; i < n_ch; i++) {
        held += ch[i].by;
        peak = MAX2(peak, held);
    }
    dml_arena_free(&arena);
    return peak;
}
