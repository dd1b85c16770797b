/* engine/replay.c - the clock: stalls, steps between them, and what a policy's turns add up to. */
#include "engine/replay.h"

#include "engine/replay_impl.h"

#include <math.h>
#include <string.h>

#define WHOLE 1e-9 /* of a step: rounding of sums */

const char *dml_replay_policy_text(dml_replay_policy policy)
{
    static const char *const text[] = {
#define X(policy, text, meaning) text,
        DML_REPLAY_POLICY_LIST(X)
#undef X
    };
    return text[policy];
}

const char *dml_replay_policy_meaning(dml_replay_policy policy)
{
    static const char *const text[] = {
#define X(policy, text, meaning) meaning,
        DML_REPLAY_POLICY_LIST(X)
#undef X
    };
    return text[policy];
}

static double whole_steps(double steps)
{
    return floor(steps + WHOLE);
}

double dml_replay_part(const dml_replay_clock *run)
{
    const double part = run->done - whole_steps(run->done);
    return part > 0 ? part : 0;
}

static void add_span(dml_replay_clock *run, int64_t to_ns, double rate, const char *what)
{
    dml_replay_result *r = run->out;
    if (to_ns <= run->now_ns) return;
    if (r->n == run->room) {
        run->room = run->room > 0 ? 2 * run->room : 64;
        dml_replay_span *more = DML_NEW_N(run->arena, dml_replay_span, run->room);
        if (r->n > 0) memcpy(more, r->span, (size_t)r->n * sizeof *more);
        r->span = more;
    }
    r->span[r->n++] = (dml_replay_span){run->now_ns, to_ns, rate, what};
    run->now_ns = to_ns;
}

/* What is opened is there: it holds the state from now on. */
static void open(dml_replay_clock *run)
{
    if (!run->next.holds) return;
    run->way = run->next;
    run->next = (dml_replay_way){0};
    run->steady = ~run->lost;
    run->gone = false;
}

/* Time goes by at `rate`; on the way there may be checkpoints. */
static void pass(dml_replay_clock *run, int64_t to_ns, double rate, const char *what)
{
    const int64_t every = run->charges->checkpoint_ns, mark = every > 0 ? to_ns / every * every : 0;
    const double pace = rate / (double)run->planner->step_ns;
    if (every > 0 && mark >= run->now_ns)
        run->saved = whole_steps(run->done + pace * (double)(mark - run->now_ns));
    run->done += pace * (double)(to_ns - run->now_ns);
    add_span(run, to_ns, rate, what);
}

static void advance(dml_replay_clock *run, int64_t to_ns)
{
    const int64_t stalled = run->ready_ns < to_ns ? run->ready_ns : to_ns;
    if (stalled > run->now_ns) {
        run->out->transition_ns += stalled - run->now_ns;
        pass(run, stalled, 0, "transition");
    }
    if (run->ready_ns > to_ns) return;
    open(run);
    pass(run, to_ns, run->rate, run->what);
}

static dml_err change(dml_replay_clock *run, uint64_t lost)
{
    dml_replay_turn turn = {0};
    run->steady &= ~lost;
    DML_TRY(dml_replay_turn_of(run, lost, &turn));
    run->lost = lost;
    if (!turn.acts) return DML_ERR_OK;
    run->done -= turn.undone;
    run->out->steps_lost += turn.undone;
    run->out->rollbacks += turn.rollback;
    run->begun = run->done;
    if (run->saved > run->done) run->saved = whole_steps(run->done);
    run->rate = turn.rate;
    run->what = turn.what;
    run->ready_ns = run->now_ns + turn.stall_ns;
    run->out->transitions += turn.stall_ns > 0;
    return DML_ERR_OK;
}

/* As if all had come at once, and ready. */
static dml_err begin(dml_replay_clock *run)
{
    dml_replay_turn turn = {0};
    DML_TRY(dml_replay_turn_of(run, 0, &turn));
    open(run);
    run->rate = turn.rate;
    run->what = turn.what;
    return DML_ERR_OK;
}

dml_err dml_replay_run(const dml_outages *outages, const dml_replay_planner *planner,
                       const dml_replay_charges *charges, dml_replay_policy policy,
                       dml_arena *arena, dml_replay_result *out)
{
    *out = (dml_replay_result){.policy = policy};
    dml_replay_clock run = {
        .planner = planner, .charges = charges, .policy = policy, .arena = arena, .out = out};
    DML_TRY(begin(&run));
    for (int32_t i = 0; i < outages->n; i++) {
        advance(&run, outages->at[i].at_ns);
        DML_TRY(change(&run, outages->at[i].lost));
    }
    advance(&run, outages->end_ns);
    out->steps = run.done;
    out->mean = run.done * (double)planner->step_ns / (double)outages->end_ns;
    return DML_ERR_OK;
}
