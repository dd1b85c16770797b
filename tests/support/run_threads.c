/* tests/support/run_threads.c - workers as threads, and the agent's part of the run. */
#include "tests/support/test.h"

#include "tests/support/run_threads.h"

#include "engine/agent.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/change.h"
#include "engine/data_steps.h"
#include "engine/keeper.h"
#include "engine/leader.h"
#include "engine/worker.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct run run;

/* A worker's thread: one of a rank's, when it was started again. */
typedef struct life {
    run *r;
    int32_t rank;
    bool joins;
    _Atomic uint32_t dead; /* killed: what it still says is not heard */
    dml_striker striker;
    pthread_t thread;
} life;

struct run {
    dml_spec spec;
    dml_plan plan;
    const dml_backend *backend;
    dml_control *control;
    dml_local_hub *data_hub, *vote_hub; /* data_hub NULL: the backend has a transport of its own */
    int data_fds[DML_HOST_WORKERS];
    dml_trace trace; /* {0}: the spec asks for none */
    dml_depot bank[2];
    int spec_fd, plan_fd;
    dml_recovery *recovery;
    dml_keeper *keeper;
    int64_t begins_after;    /* steps of the checkpoint that it goes on from */
    dml_changes changes;     /* {0}: loads are not weighed */
    life *life[RUN_THREADS]; /* [lives] in the order of their starts */
    int32_t lives;
    life *of[DML_HOST_WORKERS]; /* the newest of each rank */
    int32_t alive;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    bool over; /* nobody waits for time to pass any more */
    run_result result;
    run_hooks hooks;
};

/* ---- the agent's part, under the lock ---- */

/* The machine runs on whichever thread has something to tell it, as the agent. */
static void begin_agent(run *r)
{
    pthread_mutex_lock(&r->mu);
    dml_failpoints_be(DML_FAILPOINT_AGENT);
}

static void end_agent(run *r, int32_t rank)
{
    dml_failpoints_be(rank);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mu);
}

static void fail_run(run *r, dml_err err, const char *trail)
{
    run_result *res = &r->result;
    if (res->err == DML_ERR_OK) {
        res->err = err;
        snprintf(res->trail, sizeof res->trail, "%s", trail);
    }
    dml_recovery_close(r->recovery);
    dml_wait_set(&r->control->fence, DML_FENCE_END);
}

static void look_at_recovery(run *r)
{
    dml_err err;
    const char *over = dml_recovery_over(r->recovery, &err);
    if (over) fail_run(r, err, over);
}

static void kill_life(void *context, int32_t rank)
{
    run *r = context;
    atomic_store(&r->of[rank]->dead, 1);
}

static bool saves_last(void *context, int64_t step)
{
    run *r = context;
    return dml_keeper_wants_last(r->keeper, step);
}

static void note(void *context, const dml_recovery_event *e)
{
    run *r = context;
    run_result *res = &r->result;
    if (r->hooks.recovery) r->hooks.recovery(r->hooks.context, e);
    if (e->kind == DML_RECOVERY_LOST) res->losses++;
    if (e->kind == DML_RECOVERY_SNAPSHOT) dml_keeper_snapshot(r->keeper, r->recovery, e);
    if (e->kind == DML_RECOVERY_FAILED) dml_keeper_no_snapshot(r->keeper);
    if (e->kind != DML_RECOVERY_PLAN) return;
    const bool recovered = e->reason == DML_REASON_LOSS || e->reason == DML_REASON_RESTART;
    res->changes++;
    res->recoveries += recovered;
    for (int32_t w = 0; w < r->plan.workers; w++)
        res->joined += (int32_t)(e->joined >> w & 1);
}

static void note_save(void *context, bool failed, const char *text)
{
    run *r = context;
    r->result.saves += !failed && strncmp(text, "saved ", 6) == 0;
    if (r->hooks.saved) r->hooks.saved(r->hooks.context, failed, text);
}

static bool restore(void *context, dml_depot *bank, uint32_t generation, int64_t *step)
{
    run *r = context;
    return dml_keeper_restore(r->keeper, bank, generation, step);
}

static void weigh(run *r, const dml_report *report)
{
    dml_arena arena = {0};
    dml_balance_record b;
    if (r->changes.recovery && dml_changes_take(&r->changes, report, &arena, &b) &&
        r->hooks.balance)
        r->hooks.balance(r->hooks.context, &b);
    dml_arena_free(&arena);
}

static int32_t count(const char *const *overrides)
{
    int32_t n = 0;
    while (overrides && overrides[n])
        n++;
    return n;
}

static void change_if_wanted(run *r, int64_t step)
{
    dml_planned *next;
    if (!r->hooks.change || dml_recovery_is_busy(r->recovery)) return;
    const char *const *overrides = r->hooks.change(r->hooks.context, step);
    if (!overrides) return;
    DML_CHECK_OK(dml_planned_load(r->spec_fd, overrides, count(overrides), &next));
    (void)dml_recovery_change(r->recovery, next);
}

/* A step told again, by another leader or made again, takes the place of the first; exact numerics: it is the same. */
static void take_step(run *r, const dml_report_step *s)
{
    run_result *res = &r->result;
    const bool again = s->step <= res->steps;
    const int64_t at = again ? s->step - 1 : res->steps;
    if (again && at < RUN_STEPS && r->spec.training.numerics != DML_FAST)
        DML_CHECK(memcmp(&res->step[at].loss, &s->loss, sizeof s->loss) == 0);
    if (at < RUN_STEPS) res->step[at] = *s;
    if (again) return;
    DML_CHECK_EQ(res->steps + 1, s->step);
    res->steps++;
    if (r->hooks.step) r->hooks.step(r->hooks.context, s->step, r->control);
    dml_keeper_take(r->keeper, r->recovery); /* what is written by now */
    dml_keeper_step(r->keeper, r->recovery, s->step);
    change_if_wanted(r, s->step);
}

static void take_fail(run *r, const dml_report *report)
{
    const dml_err err = (dml_err)report->fail.err;
    if (r->hooks.failed) r->hooks.failed(r->hooks.context, report->rank, report->fail.trail);
    if (dml_recovery_survives(r->recovery, err))
        dml_recovery_take(r->recovery, report);
    else
        fail_run(r, err, report->fail.trail);
}

static void take_report(run *r, const dml_report *report)
{
    run_result *res = &r->result;
    if (report->kind == DML_REPORT_FAIL) {
        take_fail(r, report);
        return;
    }
    dml_recovery_take(r->recovery, report);
    switch ((dml_report_kind)report->kind) {
    case DML_REPORT_LOAD: weigh(r, report); break;
    case DML_REPORT_STEP: take_step(r, &report->step); break;
    case DML_REPORT_EVAL:
        res->has_eval = true;
        res->eval = report->eval;
        break;
    case DML_REPORT_END: res->end[report->rank] = report->end; break;
    case DML_REPORT_READY:
    case DML_REPORT_PARKED:
    case DML_REPORT_SAVED:
    case DML_REPORT_JOIN:
    case DML_REPORT_SUSPECT:
    case DML_REPORT_FAULT:
    case DML_REPORT_FAIL: break;
    }
}

/* ---- what a worker's thread calls ---- */

static dml_err take(void *context, const dml_report *report)
{
    life *t = context;
    run *r = t->r;
    if (atomic_load(&t->dead)) DML_FAIL(DML_ERR_PEER, "nobody hears the dead");
    begin_agent(r);
    take_report(r, report);
    look_at_recovery(r);
    end_agent(r, t->rank);
    return DML_ERR_OK;
}

static void die_at_failpoint(void *context, int32_t rank, dml_failpoint point)
{
    (void)point;
    run *r = context;
    if (rank >= 0) atomic_store(&r->of[rank]->dead, 1);
}

static void vanish(void *context, int32_t rank)
{
    (void)rank;
    life *t = context;
    atomic_store(&t->dead, 1);
}

static void inspect(void *context, const dml_chunk *chunk, bool after)
{
    const life *t = context;
    run *r = t->r;
    pthread_mutex_lock(&r->mu);
    if (r->hooks.inspect) r->hooks.inspect(r->hooks.context, chunk, after);
    pthread_mutex_unlock(&r->mu);
}

/* One for all: it stays until the run is over. */
static dml_err next(void *context, uint32_t generation, const dml_plan **out)
{
    const life *t = context;
    pthread_mutex_lock(&t->r->mu);
    *out = dml_recovery_plan_of(t->r->recovery, generation);
    pthread_mutex_unlock(&t->r->mu);
    return DML_ERR_OK;
}

/* Its end is its parent's to notice; of a dead one that is how it is known. */
static void end_life(life *t)
{
    run *r = t->r;
    begin_agent(r);
    if (r->of[t->rank] == t && dml_recovery_counts_on(r->recovery, t->rank) &&
        atomic_load(&t->dead)) {
        dml_death d = {.cause = "killed", .detected_by = "thread", .detect_ns = dml_clock_ns()};
        d.fault_ns = d.detect_ns;
        dml_recovery_lost(r->recovery, t->rank, &d);
    }
    if (r->of[t->rank] == t) dml_recovery_ended(r->recovery, t->rank);
    look_at_recovery(r);
    r->alive--;
    end_agent(r, t->rank);
}

static void *live(void *arg)
{
    life *t = arg;
    const run *r = t->r;
    const dml_reporter reporter = {take, t};
    t->striker = (dml_striker){.board = &r->control->faults,
                               .rank = t->rank,
                               .backend = r->backend,
                               .reporter = &reporter,
                               .vanish = vanish,
                               .context = t,
                               .killed = &t->dead};
    const dml_worker_config c = {.plan = &r->plan,
                                 .rank = t->rank,
                                 .backend = r->backend,
                                 .threads = dml_agent_threads(r->plan.spec, r->plan.workers),
                                 .control = r->control,
                                 .reporter = reporter,
                                 .data_hub = r->data_hub,
                                 .data_fds = r->data_fds,
                                 .vote_hub = r->vote_hub,
                                 .trace = r->trace.memory ? &r->trace : NULL,
                                 .bank = {&t->r->bank[0], &t->r->bank[1]},
                                 .recovers = r->spec.failures.policy != DML_POLICY_ABORT,
                                 .joins = t->joins,
                                 .dead = &t->dead,
                                 .striker = &t->striker,
                                 .next = next,
                                 .next_context = t,
                                 .inspect = inspect,
                                 .inspect_context = t};
    dml_failpoints_be(t->rank);
    (void)!dml_worker_run(&c);
    end_life(t);
    return NULL;
}

/* Under the lock, or before anyone else is there. */
static bool start(run *r, int32_t rank, bool joins)
{
    life *t = calloc(1, sizeof *t);
    DML_CHECK(t && r->lives < RUN_THREADS);
    *t = (life){.r = r, .rank = rank, .joins = joins};
    r->of[rank] = r->life[r->lives++] = t;
    r->alive++;
    DML_CHECK_EQ(0, pthread_create(&t->thread, NULL, live, t));
    return true;
}

static bool spawn(void *context, int32_t rank, char why[256])
{
    (void)why;
    return start(context, rank, true);
}

static void *begin(void *arg)
{
    run *r = arg;
    if (r->hooks.begin) r->hooks.begin(r->hooks.context, r->control);
    return NULL;
}

/* ---- the run ---- */

/* What the data transport meets through: the hub of `local`, or a file in memory for each rank. */
static void open_data(run *r)
{
    if (r->backend->on_host) {
        DML_CHECK_OK(dml_local_hub_new(r->plan.workers, &r->data_hub));
        return;
    }
    for (int32_t w = 0; w < r->plan.workers; w++) {
        r->data_fds[w] = memfd_create("run-threads", MFD_CLOEXEC);
        DML_CHECK(r->data_fds[w] >= 0);
    }
}

static void close_data(run *r)
{
    for (int32_t w = 0; w < r->plan.workers && !r->data_hub; w++)
        close(r->data_fds[w]);
    dml_local_hub_free(r->data_hub);
}

static void open_trace(run *r)
{
    int fd;
    if (!dml_trace_wanted(&r->spec)) return;
    DML_CHECK_OK(dml_trace_create(&r->plan, &r->trace, &fd));
    close(fd);
}

static void open_recovery(run *r)
{
    int fd;
    for (int32_t b = 0; b < 2; b++) {
        DML_CHECK_OK(dml_depot_create(&r->spec, &r->plan.model, &r->bank[b], &fd));
        close(fd);
    }
    r->spec_fd = memfd_create("run-threads-spec", MFD_CLOEXEC);
    r->plan_fd = memfd_create("run-threads-plan", MFD_CLOEXEC);
    FILE *f = fdopen(dup(r->spec_fd), "w");
    DML_CHECK(f);
    DML_CHECK_OK(dml_spec_print(&r->spec, f));
    fclose(f);
    const dml_keeper_config keeper = {.plan = &r->plan,
                                      .plan_fd = r->plan_fd,
                                      .control = r->control,
                                      .bank = {&r->bank[0], &r->bank[1]},
                                      .note = note_save,
                                      .context = r};
    DML_CHECK_OK(dml_keeper_open(&keeper, &r->keeper, &r->begins_after));
    r->result.begins_after = r->result.steps = r->begins_after;
    const dml_recovery_config config = {.first = &r->plan,
                                        .base_fd = r->spec_fd,
                                        .plan_fd = r->plan_fd,
                                        .control = r->control,
                                        .bank = {&r->bank[0], &r->bank[1]},
                                        .shares_plans = true,
                                        .has_state = r->begins_after > 0,
                                        .restore = restore,
                                        .last = saves_last,
                                        .context = r,
                                        .kill = kill_life,
                                        .spawn = spawn,
                                        .note = note};
    DML_CHECK_OK(dml_recovery_new(&config, &r->recovery));
    if (r->spec.parallelism.balance == DML_BALANCE_DYNAMIC)
        dml_changes_open(&r->changes, &r->plan, r->spec_fd, r->recovery);
}

static void close_recovery(run *r)
{
    dml_keeper_finish(r->keeper);
    dml_recovery_free(r->recovery);
    dml_keeper_close(r->keeper);
    for (int32_t b = 0; b < 2; b++)
        dml_depot_close(&r->bank[b]);
    close(r->spec_fd);
    close(r->plan_fd);
}

static void open_run(run *r, const char *spec_path, const char *const *overrides)
{
    char why[256];
    DML_CHECK_OK(dml_spec_load(spec_path, overrides, count(overrides), &r->spec));
    DML_CHECK_OK(dml_data_resolve_steps(&r->spec));
    DML_CHECK_OK(dml_plan_make(&r->spec, &r->plan));
    DML_CHECK_OK(dml_agent_backend(&r->plan, &r->backend, why, sizeof why));
    if (r->hooks.plan) r->hooks.plan(r->hooks.context, &r->plan);
    if (r->hooks.backend) r->backend = r->hooks.backend(r->hooks.context, r->backend);
    open_data(r);
    open_trace(r);
    DML_CHECK_OK(dml_local_hub_new(r->plan.workers, &r->vote_hub));
    r->control = calloc(1, sizeof *r->control);
    DML_CHECK(r->control);
    pthread_mutex_init(&r->mu, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    open_recovery(r);
    r->result.workers = r->plan.workers;
}

static void close_run(run *r)
{
    for (int32_t i = 0; i < r->lives; i++) {
        pthread_join(r->life[i]->thread, NULL);
        free(r->life[i]);
    }
    close_data(r);
    dml_trace_close(&r->trace);
    dml_local_hub_free(r->vote_hub);
    close_recovery(r);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mu);
    free(r->control);
    dml_plan_free(&r->plan);
    dml_spec_free(&r->spec);
    free(r);
}

static void wait_until(run *r, int64_t at_ns)
{
    if (at_ns == INT64_MAX) {
        pthread_cond_wait(&r->changed, &r->mu);
        return;
    }
    const struct timespec at = {.tv_sec = at_ns / DML_NS_PER_S, .tv_nsec = at_ns % DML_NS_PER_S};
    pthread_cond_timedwait(&r->changed, &r->mu, &at);
}

/* Until no thread is left and none will come. */
static void follow(run *r)
{
    pthread_mutex_lock(&r->mu);
    dml_failpoints_be(DML_FAILPOINT_AGENT);
    while (r->alive > 0 ||
           (!dml_recovery_is_dismissed(r->recovery) && r->result.err == DML_ERR_OK)) {
        const int64_t due_ns = dml_recovery_tick(r->recovery, dml_clock_ns());
        look_at_recovery(r);
        if (r->alive > 0 || r->result.err == DML_ERR_OK) wait_until(r, due_ns);
    }
    pthread_mutex_unlock(&r->mu);
}

run_result run_threads_hooked(const char *spec_path, const char *const *overrides, run_hooks hooks)
{
    run *r = calloc(1, sizeof *r);
    DML_CHECK(r);
    r->hooks = hooks;
    open_run(r, spec_path, overrides);
    dml_failpoints_on_kill(die_at_failpoint, r);
    if (hooks.control) hooks.control(hooks.context, r->control);
    pthread_t beginner;
    pthread_mutex_lock(&r->mu);
    for (int32_t w = 0; w < r->plan.workers; w++)
        start(r, w, false);
    pthread_mutex_unlock(&r->mu);
    DML_CHECK_EQ(0, pthread_create(&beginner, NULL, begin, r));
    follow(r);
    pthread_join(beginner, NULL);
    if (r->result.err == DML_ERR_OK)
        DML_CHECK_OK(dml_leader_hash(dml_recovery_plan(r->recovery), r->result.end,
                                     &r->result.weights_hash));
    if (hooks.trace && r->trace.memory) hooks.trace(hooks.context, &r->trace, &r->result);
    const run_result result = r->result;
    close_run(r);
    return result;
}

run_result run_threads(const char *spec_path, const char *const *overrides)
{
    return run_threads_hooked(spec_path, overrides, (run_hooks){0});
}
