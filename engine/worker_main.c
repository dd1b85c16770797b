/* engine/worker_main.c - a worker as a process: what it was given by descriptor, and how it reports. */
#include "engine/worker.h"

#include "engine/agent.h"
#include "engine/base/log.h"
#include "engine/data_steps.h"
#include "engine/launch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static dml_err put(void *context, const dml_report *report)
{
    return dml_report_send(*(const int *)context, report);
}

static dml_err prepare(dml_spec *spec, dml_plan *plan, dml_trace *trace, dml_worker_config *c)
{
    char path[64], why[256];
    snprintf(path, sizeof path, "/proc/self/fd/%d", DML_FD_FIRST + DML_WORKER_FD_SPEC);
    DML_TRY(dml_control_map(DML_FD_FIRST + DML_WORKER_FD_CONTROL, &c->control));
    DML_TRY(dml_spec_load(path, NULL, 0, spec));
    DML_TRY(dml_data_resolve_steps(spec));
    DML_TRY(
        dml_plan_make(spec, plan)); /* a pure function of the spec: made again rather than sent */
    DML_TRY(dml_agent_backend(plan, &c->backend, why, sizeof why));
    c->plan = plan;
    c->threads = dml_agent_threads(plan);
    if (!dml_trace_wanted(spec)) return DML_ERR_OK;
    DML_TRY(dml_trace_map(plan, DML_FD_FIRST + DML_WORKER_FD_SEGMENTS + 2 * plan->workers, trace));
    c->trace = trace;
    return DML_ERR_OK;
}

static dml_err run(int32_t rank, int socket)
{
    dml_spec spec = {0};
    dml_plan plan = {0};
    dml_trace trace = {0};
    dml_worker_config c = {.rank = rank, .reporter = {put, &socket}};
    dml_err err = prepare(&spec, &plan, &trace, &c);
    if (err == DML_ERR_OK) {
        int fds[2 * DML_HOST_WORKERS];
        for (int32_t i = 0; i < 2 * plan.workers; i++)
            fds[i] = DML_FD_FIRST + DML_WORKER_FD_SEGMENTS + i;
        c.data_fds = fds;
        c.vote_fds = fds + plan.workers;
        err = dml_worker_run(&c);
    } else {
        dml_report_failure(&c.reporter, rank, err);
    }
    dml_trace_close(&trace);
    dml_plan_free(&plan);
    dml_spec_free(&spec);
    dml_control_unmap(c.control);
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
