/* engine/replan_help.c - workers of other stages hold a damaged stage as well, so that all have as much to do.
 *
 *   4 stages, 2 holders each, 16 micro-batches; worker 3 is lost
 *
 *   worker        0   1   2   4   5   6   7
 *   stage 0       8   8                            64 passes of a stage over 7 workers: no worker has less than 10, where
 *   stage 1       1   1   9   1   1   1   2        worker 2 alone would have 16
 *   stage 2                   8   8
 *   stage 3                           8   8
 *
 * The cut stays as it is and nobody gives a stage up: what moves is a copy of the stage for each helper, and no other
 * stage is left with fewer holders than before.  Micro-batches move one at a time from whoever has most to do to whom it
 * makes least busy: to another holder of the stage, else to a helper new to it, while there may be more of those.  Each
 * move makes the longer of two loads shorter, so it comes to an end.  The fewer helpers, the less is copied: plans
 * with 1, 2, 4, ... copies are proposed, those by which somebody has less to do.
 */
#include "engine/plan_async.h"
#include "engine/replan_impl.h"
#include "engine/split_stages.h"
#include "schedule/list.h"
#include "schedule/shares.h"

#include <string.h>

enum { MOST_COPIES = 64 };

typedef struct table {
    const dml_plan *first;
    const bool *lost;
    const int32_t *was; /* [workers][stages] micro-batches under the first plan */
    int32_t *mbs;       /* [workers][stages] */
    bool *holds;        /* [workers][stages] under the first plan, and not lost */
    int64_t *stage_ns;  /* [stages] F, I and W of a micro-batch */
    int64_t *bytes;     /* [stages] that a worker keeps of it all the time */
    double *load_ns;    /* [workers] */
    int32_t copies;     /* holders that were none before */
} table;

static int32_t *mbs_of(const table *t, int32_t worker, int32_t stage)
{
    return &t->mbs[worker * t->first->stages + stage];
}

static bool *hold_of(const table *t, int32_t worker, int32_t stage)
{
    return &t->holds[worker * t->first->stages + stage];
}

static double pass_ns(const table *t, int32_t worker, int32_t stage)
{
    return (double)t->stage_ns[stage] / dml_speed_of(&t->first->cost, worker);
}

static void give(table *t, int32_t worker, int32_t stage, int32_t mbs)
{
    if (*mbs_of(t, worker, stage) == 0 && !*hold_of(t, worker, stage)) t->copies++;
    *mbs_of(t, worker, stage) += mbs;
    if (*mbs_of(t, worker, stage) == 0 && !*hold_of(t, worker, stage)) t->copies--;
    t->load_ns[worker] += mbs * pass_ns(t, worker, stage);
}

/* Whether what the worker held before, the stages it helps with and this one lie within its memory, as far as is known
 * before there is an order. */
static bool has_room(const table *t, int32_t worker, int32_t stage)
{
    const int64_t limit = dml_spec_memory(t->first->spec, worker);
    if (limit == 0) return true;
    int64_t sum = dml_plan_worker_bytes(t->first, worker) + t->bytes[stage];
    for (int32_t s = 0; s < t->first->stages; s++)
        if (!*hold_of(t, worker, s) && *mbs_of(t, worker, s) > 0) sum += t->bytes[s];
    return sum <= limit;
}

/* Who should have one more micro-batch of the stage: of its holders, and of those who may become one, whom it leaves the
 * least busy; a new one only where it is less busy than any holder.  -1: nobody whom it would leave below `below_ns`. */
static int32_t taker_of(const table *t, int32_t stage, int32_t most_copies, double below_ns)
{
    int32_t best = -1;
    double best_ns = below_ns;
    for (int new = 0; new < 2; new ++)
        for (int32_t w = 0; w < t->first->workers; w++) {
            const bool is_new = !*hold_of(t, w, stage) && *mbs_of(t, w, stage) == 0;
            const double ns = t->load_ns[w] + pass_ns(t, w, stage);
            if (t->lost[w] || is_new != new || ns >= best_ns) continue;
            if (new && (t->copies >= most_copies || !has_room(t, w, stage))) continue;
            best = w;
            best_ns = ns;
        }
    return best;
}

static int32_t busiest_of(const table *t)
{
    int32_t most = -1;
    for (int32_t w = 0; w < t->first->workers; w++)
        if (!t->lost[w] && (most < 0 || t->load_ns[w] > t->load_ns[most])) most = w;
    return most;
}

/* One micro-batch from the busiest worker to another; false: none makes the longer of the two loads shorter.  Who held a
 * stage before keeps at least one, so as to stay its holder. */
static bool move_one(table *t, int32_t most_copies)
{
    const int32_t from = busiest_of(t);
    int32_t best = -1, to = -1;
    double best_ns = t->load_ns[from];
    for (int32_t s = 0; s < t->first->stages; s++) {
        if (*mbs_of(t, from, s) <= (*hold_of(t, from, s) ? 1 : 0)) continue;
        const int32_t taker = taker_of(t, s, most_copies, best_ns);
        if (taker < 0) continue;
        best = s;
        to = taker;
        best_ns = t->load_ns[to] + pass_ns(t, to, s);
    }
    if (to < 0) return false;
    give(t, from, best, -1);
    give(t, to, best, 1);
    return true;
}

static dml_err open_table(const dml_replan_case *c, dml_arena *arena, table *t)
{
    const dml_plan *first = c->first;
    const int32_t cells = first->workers * first->stages;
    int32_t *was = DML_NEW_N(arena, int32_t, cells);
    for (int32_t s = 0; s < first->stages; s++)
        for (int32_t mb = 0; mb < first->mbs; mb++)
            was[*dml_program_route(&first->train, s, mb) * first->stages + s]++;
    *t = (table){.first = first,
                 .lost = c->lost,
                 .was = was,
                 .mbs = DML_NEW_N(arena, int32_t, cells),
                 .holds = DML_NEW_N(arena, bool, cells),
                 .stage_ns = DML_NEW_N(arena, int64_t, first->stages),
                 .bytes = DML_NEW_N(arena, int64_t, first->stages),
                 .load_ns = DML_NEW_N(arena, double, first->workers)};
    for (int32_t s = 0; s < first->stages; s++) {
        const dml_chunk_cost *k = &first->cost.chunk[s];
        dml_stage_need need;
        DML_TRY(dml_stage_need_of(first->spec, &first->model, first->stage_begin[s],
                                  first->stage_begin[s + 1], true, &need));
        t->stage_ns[s] = k->fwd_ns + k->bwd_input_ns + k->bwd_weight_ns;
        t->bytes[s] = need.once;
        for (int32_t w = 0; w < first->workers; w++)
            *hold_of(t, w, s) = !c->lost[w] && was[w * first->stages + s] > 0;
    }
    return DML_ERR_OK;
}

/* What each had, and what the lost had with whoever is the least busy.  DML_ERR_SPEC: nobody can hold a stage. */
static dml_err share_out(table *t, int32_t most_copies)
{
    const dml_plan *first = t->first;
    const size_t cells = (size_t)first->workers * (size_t)first->stages;
    memset(t->mbs, 0, cells * sizeof *t->mbs);
    memset(t->load_ns, 0, (size_t)first->workers * sizeof *t->load_ns);
    t->copies = 0;
    for (int32_t w = 0; w < first->workers; w++)
        for (int32_t s = 0; s < first->stages && !t->lost[w]; s++)
            give(t, w, s, t->was[w * first->stages + s]);
    for (int32_t w = 0; w < first->workers; w++)
        for (int32_t s = 0; s < first->stages && t->lost[w]; s++)
            for (int32_t n = t->was[w * first->stages + s]; n > 0; n--) {
                const int32_t taker = taker_of(t, s, most_copies, __builtin_inf());
                if (taker < 0)
                    DML_FAIL(DML_ERR_SPEC, "stage %d has no worker left that could hold it", s);
                give(t, taker, s, 1);
            }
    while (move_one(t, most_copies)) {
    }
    return DML_ERR_OK;
}

/* ---- as a proposal ----------------------------------------------------------------------------------- */

static void print_row(dml_str *out, const table *t, int32_t stage, bool shares)
{
    const char *comma = "";
    for (int32_t w = 0; w < t->first->workers; w++) {
        if (*mbs_of(t, w, stage) == 0) continue;
        dml_str_printf(out, "%s%d", comma, shares ? *mbs_of(t, w, stage) : w);
        comma = ",";
    }
}

static const char *stages_override(const table *t, dml_arena *arena)
{
    dml_str text = {0};
    dml_str_printf(&text, "parallelism.stages=[");
    for (int32_t s = 0; s < t->first->stages; s++) {
        dml_str_printf(&text, "%s{workers: [", s ? ", " : "");
        print_row(&text, t, s, false);
        dml_str_printf(&text, "], shares: [");
        print_row(&text, t, s, true);
        dml_str_printf(&text, "]}");
    }
    dml_str_printf(&text, "]");
    const char *copy = dml_arena_strdup(arena, dml_str_text(&text));
    dml_str_free(&text);
    return copy;
}

static const char *split_override(const dml_plan *first, dml_arena *arena)
{
    dml_str text = {0};
    dml_str_printf(&text, "parallelism.split=[");
    for (int32_t s = 0; s < first->stages; s++)
        dml_str_printf(&text, "%s%d", s ? "," : "",
                       first->stage_begin[s + 1] - first->stage_begin[s]);
    dml_str_printf(&text, "]");
    const char *copy = dml_arena_strdup(arena, dml_str_text(&text));
    dml_str_free(&text);
    return copy;
}

static dml_err routes_of(const table *t, dml_arena *arena, dml_program *out)
{
    int32_t *worker = DML_NEW_N(arena, int32_t, t->first->workers),
            *share = DML_NEW_N(arena, int32_t, t->first->workers);
    DML_TRY(dml_program_init(out, t->first->workers, t->first->stages, t->first->mbs));
    for (int32_t s = 0; s < t->first->stages; s++) {
        int32_t n = 0;
        for (int32_t w = 0; w < t->first->workers; w++) {
            if (*mbs_of(t, w, s) == 0) continue;
            worker[n] = w;
            share[n++] = *mbs_of(t, w, s);
        }
        dml_route_by_shares(out, s, worker, share, n);
    }
    return DML_ERR_OK;
}

static dml_err propose(const dml_replan_case *c, const table *t)
{
    dml_arena *arena = &c->out->arena;
    const char *override[] = {dml_lost_override(c->first, c->lost, arena),
                              "parallelism.schedule=" DML_ORDER_AUTO, stages_override(t, arena),
                              split_override(c->first, arena), "parallelism.staggered=true"};
    const int32_t n = sizeof override / sizeof *override;
    dml_program routes;
    DML_TRY(routes_of(t, arena, &routes));
    for (int late = 0; late < 2; late++) {
        const dml_list_args args = {.routes = &routes,
                                    .cost = &c->first->cost,
                                    .split = true,
                                    .objective = late ? DML_LIST_SPAN : DML_LIST_WALL,
                                    .trials = 1};
        dml_replan_propose(c, DML_REPAIR_HELPED, 0, override, n - !late, dml_list_bound_ns(&args),
                           NULL);
    }
    dml_program_free(&routes);
    return DML_ERR_OK;
}

static dml_err propose_each(const dml_replan_case *c, dml_arena *arena)
{
    table t;
    double before_ns = __builtin_inf();
    bool any = false;
    DML_TRY(open_table(c, arena, &t));
    dml_err err = DML_ERR_OK;
    for (int32_t copies = 1; copies <= MOST_COPIES; copies *= 2) {
        err = share_out(&t, copies);
        if (err == DML_ERR_SPEC) continue; /* with more of them, perhaps */
        DML_TRY(err);
        const double ns = t.load_ns[busiest_of(&t)];
        if (t.copies < copies / 2) break;               /* no further one helped */
        if (t.copies == 0 || ns >= before_ns) continue; /* two stages may need one each */
        DML_TRY(propose(c, &t));
        before_ns = ns;
        any = true;
    }
    if (!any)
        dml_replan_propose(c, DML_REPAIR_HELPED, 0, NULL, 0, 0,
                           err == DML_ERR_SPEC ? dml_replan_reason(&c->out->arena)
                                               : "nobody is less busy who has room for a copy");
    return DML_ERR_OK;
}

dml_err dml_propose_helped(const dml_replan_case *c)
{
    if (dml_plan_is_asynchronous(c->first->spec)) {
        dml_replan_propose(c, DML_REPAIR_HELPED, 0, NULL, 0, 0,
                           dml_arena_printf(&c->out->arena,
                                            "under %s a stage has one holder in each pipeline",
                                            c->first->spec->parallelism.schedule));
        return DML_ERR_OK;
    }
    dml_arena arena = {0};
    const dml_err err = propose_each(c, &arena);
    dml_arena_free(&arena);
    return err;
}
