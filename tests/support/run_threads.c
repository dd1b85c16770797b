/* tests/support/run_threads.c - workers as threads. */
#include "tests/support/test.h"

#include "tests/support/run_threads.h"

#include "engine/agent.h"
#include "engine/change.h"
#include "engine/data_steps.h"
#include "engine/leader.h"
#include "engine/worker.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* A plan that the run changed to. */
typedef struct later_plan {
    dml_spec spec;
    dml_plan plan;
} later_plan;

typedef struct run {
    dml_spec spec;
    dml_plan plan;
    const dml_backend *backend;
    dml_control *control;
    dml_local_hub *data_hub, *vote_hub; /* data_hub NULL: the backend has a transport of its own */
    int data_fds[DML_HOST_WORKERS];
    dml_trace trace; /* {0}: the spec asks for none */
    const char *spec_path;
    dml_depot bank[2];
    int32_t saved; /* workers whose state for the next of the test's plans lies in the bank */
    later_plan *later[RUN_PLANS];
    uint32_t generation; /* newest that rank 0 runs */
    dml_changes changes; /* balance: dynamic; {0}: plans come from the test */
    int spec_fd, plan_fd;
    pthread_mutex_t mu;
    run_result result;
    run_hooks hooks;
} run;

typedef struct thread_arg {
    run *r;
    int32_t rank;
} thread_arg;

/* What the agent does with it. */
static void weigh(run *r, const dml_report *report)
{
    dml_arena arena = {0};
    dml_changes_event e;
    if (!r->changes.first) return;
    DML_CHECK_OK(dml_changes_take(&r->changes, report, &arena, &e));
    if (e.decided && r->hooks.balance) r->hooks.balance(r->hooks.context, &e.balance);
    dml_arena_free(&arena);
}

/* Once all have left what they hold, they may close it. */
static void save(run *r, const dml_report *report)
{
    weigh(r, report);
    if (r->changes.first || ++r->saved < r->plan.workers) return;
    r->saved = 0;
    dml_wait_set(&r->control->moved, report->saved.generation);
}

static dml_err take(void *context, const dml_report *report)
{
    run *r = context;
    pthread_mutex_lock(&r->mu);
    run_result *res = &r->result;
    switch ((dml_report_kind)report->kind) {
    case DML_REPORT_READY:
        if (report->ready.generation > r->generation) r->generation = report->ready.generation;
        weigh(r, report);
        break;
    case DML_REPORT_LOAD: weigh(r, report); break;
    case DML_REPORT_STEP:
        if (res->steps < RUN_STEPS) res->step[res->steps] = report->step;
        res->steps++;
        if (r->hooks.step) r->hooks.step(r->hooks.context, report->step.step, r->control);
        break;
    case DML_REPORT_EVAL:
        res->has_eval = true;
        res->eval = report->eval;
        break;
    case DML_REPORT_END: res->end[report->rank] = report->end; break;
    case DML_REPORT_SAVED: save(r, report); break;
    case DML_REPORT_PARKED:
    case DML_REPORT_JOIN:
    case DML_REPORT_SUSPECT:
    case DML_REPORT_FAULT: break;
    case DML_REPORT_FAIL:
        if (r->hooks.failed) r->hooks.failed(r->hooks.context, report->rank, report->fail.trail);
        if (res->err == DML_ERR_OK) {
            res->err = (dml_err)report->fail.err;
            snprintf(res->trail, sizeof res->trail, "%s", report->fail.trail);
        }
        dml_wait_set(&r->control->fence, DML_FENCE_END);
        break;
    }
    pthread_mutex_unlock(&r->mu);
    return DML_ERR_OK;
}

static void inspect(void *context, const dml_chunk *chunk, bool after)
{
    run *r = context;
    pthread_mutex_lock(&r->mu);
    if (r->hooks.inspect) r->hooks.inspect(r->hooks.context, chunk, after);
    pthread_mutex_unlock(&r->mu);
}

static int32_t count(const char *const *overrides)
{
    int32_t n = 0;
    while (overrides && overrides[n])
        n++;
    return n;
}

/* Made by the first worker that asks, for all of them. */
static dml_err next(void *context, uint32_t generation, const dml_plan **out)
{
    run *r = context;
    pthread_mutex_lock(&r->mu);
    if (r->changes.first) { /* one for all: it stays until everyone has closed it */
        DML_CHECK_EQ(generation, r->changes.generation + 1);
        *out = &r->changes.next->plan;
        pthread_mutex_unlock(&r->mu);
        return DML_ERR_OK;
    }
    DML_CHECK(generation <= RUN_PLANS);
    later_plan **p = &r->later[generation - 1];
    if (!*p) {
        const char *const *overrides = r->hooks.change(r->hooks.context, generation);
        *p = calloc(1, sizeof **p);
        DML_CHECK(*p);
        DML_CHECK_OK(dml_spec_load(r->spec_path, overrides, count(overrides), &(*p)->spec));
        DML_CHECK_OK(dml_data_resolve_steps(&(*p)->spec));
        DML_CHECK_OK(dml_plan_make(&(*p)->spec, &(*p)->plan));
    }
    *out = &(*p)->plan;
    pthread_mutex_unlock(&r->mu);
    return DML_ERR_OK;
}

static void *worker(void *arg)
{
    const thread_arg *t = arg;
    const dml_worker_config c = {.plan = &t->r->plan,
                                 .rank = t->rank,
                                 .backend = t->r->backend,
                                 .threads = dml_agent_threads(t->r->plan.spec, t->r->plan.workers),
                                 .control = t->r->control,
                                 .reporter = {take, t->r},
                                 .data_hub = t->r->data_hub,
                                 .data_fds = t->r->data_fds,
                                 .vote_hub = t->r->vote_hub,
                                 .trace = t->r->trace.memory ? &t->r->trace : NULL,
                                 .bank = {&t->r->bank[0], &t->r->bank[1]},
                                 .next = next,
                                 .next_context = t->r,
                                 .inspect = inspect,
                                 .inspect_context = t->r};
    (void)!dml_worker_run(&c);
    return NULL;
}

static void *begin(void *arg)
{
    run *r = arg;
    if (r->hooks.begin) r->hooks.begin(r->hooks.context, r->control);
    return NULL;
}

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

static void open_banks(run *r)
{
    for (int32_t b = 0; b < 2; b++) {
        int fd;
        DML_CHECK_OK(dml_depot_create(&r->spec, &r->plan.model, &r->bank[b], &fd));
        close(fd);
    }
    if (r->spec.parallelism.balance != DML_BALANCE_DYNAMIC) return;
    r->spec_fd = memfd_create("run-threads-spec", MFD_CLOEXEC);
    r->plan_fd = memfd_create("run-threads-plan", MFD_CLOEXEC);
    FILE *f = fdopen(dup(r->spec_fd), "w");
    DML_CHECK(f && r->plan_fd >= 0);
    DML_CHECK_OK(dml_spec_print(&r->spec, f));
    fclose(f);
    dml_changes_open(&r->changes, &r->plan, r->spec_fd, r->plan_fd, r->control);
}

static void close_later(run *r)
{
    for (int32_t i = 0; i < RUN_PLANS; i++) {
        if (!r->later[i]) continue;
        dml_plan_free(&r->later[i]->plan);
        dml_spec_free(&r->later[i]->spec);
        free(r->later[i]);
    }
    for (int32_t b = 0; b < 2; b++)
        dml_depot_close(&r->bank[b]);
    if (r->changes.first) {
        close(r->spec_fd);
        close(r->plan_fd);
    }
    dml_changes_close(&r->changes);
}

/* That the workers ended with. */
static const dml_plan *last_plan(const run *r)
{
    if (r->changes.first) return dml_changes_plan(&r->changes);
    return r->generation > 0 ? &r->later[r->generation - 1]->plan : &r->plan;
}

run_result run_threads_hooked(const char *spec_path, const char *const *overrides, run_hooks hooks)
{
    const int32_t n = count(overrides);
    run *r = calloc(1, sizeof *r);
    DML_CHECK(r);
    char why[256];
    r->hooks = hooks;
    r->spec_path = spec_path;
    DML_CHECK_OK(dml_spec_load(spec_path, overrides, n, &r->spec));
    DML_CHECK_OK(dml_data_resolve_steps(&r->spec));
    DML_CHECK_OK(dml_plan_make(&r->spec, &r->plan));
    DML_CHECK_OK(dml_agent_backend(&r->plan, &r->backend, why, sizeof why));
    if (hooks.plan) hooks.plan(hooks.context, &r->plan);
    if (hooks.backend) r->backend = hooks.backend(hooks.context, r->backend);
    open_data(r);
    open_trace(r);
    DML_CHECK_OK(dml_local_hub_new(r->plan.workers, &r->vote_hub));
    r->control = calloc(1, sizeof *r->control);
    open_banks(r);
    pthread_mutex_init(&r->mu, NULL);
    r->result.workers = r->plan.workers;

    pthread_t thread[DML_HOST_WORKERS], beginner;
    DML_CHECK_EQ(0, pthread_create(&beginner, NULL, begin, r));
    thread_arg arg[DML_HOST_WORKERS];
    for (int32_t w = 0; w < r->plan.workers; w++) {
        arg[w] = (thread_arg){r, w};
        DML_CHECK_EQ(0, pthread_create(&thread[w], NULL, worker, &arg[w]));
    }
    for (int32_t w = 0; w < r->plan.workers; w++)
        pthread_join(thread[w], NULL);
    pthread_join(beginner, NULL);
    if (r->result.err == DML_ERR_OK)
        DML_CHECK_OK(dml_leader_hash(last_plan(r), r->result.end, &r->result.weights_hash));
    r->result.changes = (int32_t)r->generation;

    if (hooks.trace && r->trace.memory) hooks.trace(hooks.context, &r->trace, &r->result);
    const run_result result = r->result;
    close_data(r);
    dml_trace_close(&r->trace);
    dml_local_hub_free(r->vote_hub);
    pthread_mutex_destroy(&r->mu);
    close_later(r);
    free(r->control);
    dml_plan_free(&r->plan);
    dml_spec_free(&r->spec);
    free(r);
    return result;
}

run_result run_threads(const char *spec_path, const char *const *overrides)
{
    return run_threads_hooked(spec_path, overrides, (run_hooks){0});
}
