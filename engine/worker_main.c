/* engine/worker_main.c - a worker as a process: what it was given by descriptor, and how it reports. */
#include "engine/worker.h"

#include "engine/agent.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/change.h"
#include "engine/data_steps.h"
#include "engine/health.h"
#include "engine/launch.h"
#include "engine/warden.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static dml_err put(void *context, const dml_report *report)
{
    return dml_report_send(*(const int *)context, report);
}

/* A worker process: what it was given, and what it makes of it. */
typedef struct process {
    int socket;
    int fd; /* the next descriptor given */
    int plan_fd;
    dml_warden warden;
    dml_health health;
    dml_spec spec;
    dml_plan plan;
    dml_planned *later; /* the newest plan that the run changed to */
    dml_depot bank[2];
    dml_trace trace;
    int segment[2 * DML_HOST_WORKERS];
    dml_striker striker;
    dml_worker_config config;
} process;

/* A pure function of the text: made again rather than sent. */
static dml_err next(void *context, uint32_t generation, const dml_plan **out)
{
    (void)generation; /* the agent waits with the one after it */
    process *p = context;
    dml_planned_free(p->later);
    p->later = NULL;
    DML_TRY(dml_planned_load(p->plan_fd, NULL, 0, &p->later));
    *out = &p->later->plan;
    return DML_ERR_OK;
}

static dml_err take_banks(process *p)
{
    for (int32_t b = 0; b < 2; b++) {
        DML_TRY(dml_depot_map(&p->spec, &p->plan.model, p->fd++, &p->bank[b]));
        p->config.bank[b] = &p->bank[b];
    }
    p->plan_fd = p->fd++;
    p->config.next = next;
    p->config.next_context = p;
    p->config.recovers = p->spec.failures.policy != DML_POLICY_ABORT;
    return DML_ERR_OK;
}

static dml_err prepare(process *p)
{
    char path[64], why[256];
    dml_worker_config *c = &p->config;
    snprintf(path, sizeof path, "/proc/self/fd/%d", DML_FD_FIRST + DML_WORKER_FD_SPEC);
    p->fd = DML_FD_FIRST + DML_WORKER_FD_MORE;
    DML_TRY(dml_control_map(DML_FD_FIRST + DML_WORKER_FD_CONTROL, &c->control));
    c->joins = atomic_load(&c->control->worker[c->rank].phase) == DML_PHASE_JOIN;
    DML_TRY(dml_failpoints_from_environment(c->rank, c->joins));
    DML_TRY(dml_warden_open(c->control, c->rank, &p->warden));
    DML_TRY(dml_spec_load(path, NULL, 0, &p->spec));
    DML_TRY(dml_data_resolve_steps(&p->spec));
    DML_TRY(dml_plan_make(&p->spec, &p->plan));
    DML_TRY(dml_agent_backend(&p->plan, &c->backend, why, sizeof why));
    DML_TRY(take_banks(p));
    for (int32_t i = 0; i < 2 * p->plan.workers; i++)
        p->segment[i] = p->fd++;
    p->striker = (dml_striker){.board = &c->control->faults,
                               .rank = c->rank,
                               .backend = c->backend,
                               .reporter = &c->reporter};
    c->striker = &p->striker;
    c->data_fds = p->segment;
    c->vote_fds = p->segment + p->plan.workers;
    c->plan = &p->plan;
    c->threads = dml_agent_threads(p->plan.spec, p->plan.workers);
    dml_health_open(c->backend, c->first_device + c->rank / p->spec.parallelism.workers_per_device,
                    c->rank, &c->reporter, &p->health);
    if (!dml_trace_wanted(&p->spec)) return DML_ERR_OK;
    DML_TRY(dml_trace_map(&p->plan, p->fd, &p->trace));
    c->trace = &p->trace;
    return DML_ERR_OK;
}

static dml_err run(int32_t rank, int socket)
{
    static process p; /* large: a descriptor of every worker's segments */
    p.socket = socket;
    p.config.rank = rank;
    p.config.reporter = (dml_reporter){put, &p.socket};
    dml_err err = prepare(&p);
    if (err == DML_ERR_OK)
        err = dml_worker_run(&p.config);
    else
        dml_report_failure(&p.config.reporter, rank, err);
    if (err != DML_ERR_OK) return err; /* as it is, the beacon held: its end is announced */
    dml_health_close(&p.health);
    dml_warden_close(&p.warden);
    dml_trace_close(&p.trace);
    dml_planned_free(p.later);
    for (int32_t b = 0; b < 2; b++)
        dml_depot_close(&p.bank[b]);
    dml_plan_free(&p.plan);
    dml_spec_free(&p.spec);
    dml_control_unmap(p.config.control);
    return err;
}

int dml_worker_main(int32_t rank, int32_t supervisor_pid)
{
    char who[16];
    snprintf(who, sizeof who, "w%d", rank);
    dml_log_setup(DML_LOG_WARN, who);
    dml_process_name("dml-worker");
    dml_err err = dml_die_with_parent(supervisor_pid);
    if (err == DML_ERR_OK) err = run(rank, DML_FD_LAUNCHER);
    /* After a failure libraries must not tidy up on the way out: they may wait for a device that does not answer. */
    if (err != DML_ERR_OK) _exit(dml_err_exit_code(err));
    return dml_err_exit_code(err);
}
