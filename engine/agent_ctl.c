/* engine/agent_ctl.c - faults on purpose, and what dml-ctl asks of the run. */
#include "engine/agent_impl.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/ctl_status.h"

#include <signal.h>
#include <stdio.h>

/* ---- faults ---- */

static bool send_signal(void *context, int32_t rank, int number)
{
    const dml_agent *a = context;
    const dml_followed *w = &a->worker[rank];
    return w->started && !w->exited && w->pid > 0 && kill(w->pid, number) == 0;
}

void dml_agent_note_fault(dml_agent *a, int32_t rank, const dml_report_fault *fault)
{
    dml_console_note(&a->leader.view, "injected into rank %d: %s", rank, fault->text);
    dml_injector_take(&a->injector, rank, fault);
}

/* As if the worker had said so. */
static void note_signal(void *context, int32_t rank, const dml_report_fault *fault)
{
    dml_agent *a = context;
    const dml_report r = {.kind = DML_REPORT_FAULT, .rank = rank, .fault = *fault};
    dml_console_note(&a->leader.view, "injected into rank %d: %s", rank, fault->text);
    if (a->ending_ns == 0) dml_recovery_take(a->recovery, &r);
}

static dml_injector_config injector_config(dml_agent *a)
{
    return (dml_injector_config){.plan = &a->plan,
                                 .control = a->control,
                                 .signal = send_signal,
                                 .note = note_signal,
                                 .context = a};
}

dml_err dml_agent_open_injector(dml_agent *a)
{
    const dml_injector_config config = injector_config(a);
    a->fault_due_ns = 0;
    return dml_injector_open(&config, &a->injector);
}

void dml_agent_again_injector(dml_agent *a)
{
    a->injector.c = injector_config(a);
    a->injector.board = &a->control->faults;
    a->fault_due_ns = 0;
}

static uint64_t lost_ranks(const dml_agent *a)
{
    return dml_recovery_lost_mask(a->recovery);
}

void dml_agent_tick_faults(dml_agent *a)
{
    a->fault_due_ns = INT64_MAX;
    if (a->ending_ns == 0)
        a->fault_due_ns = dml_injector_tick(&a->injector, dml_clock_ns(), lost_ranks(a));
}

/* ---- what the run came to ---- */

int dml_agent_check_faults(dml_agent *a, int code)
{
    dml_str left = {0};
    const int64_t wanted = a->spec.failures.expect_recoveries;
    if (a->control && dml_injector_left(&a->injector, &left) > 0)
        dml_console_note(&a->leader.view, "faults that never struck: %s", dml_str_text(&left));
    dml_str_free(&left);
    if (code != 0 || wanted < 0 || wanted == a->leader.mended.n) return code;
    fprintf(stderr, "dml-train: %lld recoveries were expected, there were %lld\n",
            (long long)wanted, (long long)a->leader.mended.n);
    return dml_err_exit_code(DML_ERR_CHECK);
}

/* ---- dml-ctl ---- */

static const char *state_of(const dml_agent *a)
{
    const dml_worker_page *leader = &a->control->worker[dml_recovery_leader(a->recovery)];
    const bool recovering = atomic_load(&a->control->fence) > atomic_load(&a->control->moved);
    if (a->ending_ns != 0) return "ending";
    if (a->stop_signal != 0) return "stopping";
    if (recovering) return "recovering";
    return dml_phase_name((dml_phase)atomic_load(&leader->phase));
}

static void status(void *context, dml_str *json)
{
    const dml_agent *a = context;
    int32_t pid[DML_HOST_WORKERS] = {0};
    for (int32_t r = 0; r < a->plan.workers; r++)
        if (!a->worker[r].exited) pid[r] = a->worker[r].pid;
    const dml_ctl_view view = {.leader = &a->leader,
                               .control = a->control,
                               .state = state_of(a),
                               .generation = dml_recovery_generation(a->recovery),
                               .pid = pid};
    dml_ctl_print_status(&view, json);
}

static dml_err inject(void *context, const dml_fault *fault)
{
    dml_agent *a = context;
    if (a->ending_ns != 0) DML_FAIL(DML_ERR_SPEC, "the run is ending");
    const int64_t now_ns = dml_clock_ns();
    const dml_err err = dml_injector_add(&a->injector, fault, dml_recovery_plan(a->recovery),
                                         lost_ranks(a), now_ns);
    dml_agent_tick_faults(a);
    return err;
}

static dml_err checkpoint(void *context)
{
    dml_agent *a = context;
    if (a->ending_ns != 0) DML_FAIL(DML_ERR_SPEC, "the run is ending");
    if (!dml_keeper_want(a->keeper, a->recovery))
        DML_FAIL(DML_ERR_SPEC, "this run saves no checkpoints: it has neither checkpoint.interval "
                               "nor checkpoint.folder");
    return DML_ERR_OK;
}

static dml_err stop(void *context)
{
    dml_agent_ask_to_stop(context, SIGTERM);
    return DML_ERR_OK;
}

void dml_agent_open_ctl(dml_agent *a)
{
    const dml_ctl_calls calls = {a, status, inject, checkpoint, stop};
    if (!a->leader.has_metrics) return; /* no folder is this run's own */
    if (dml_ctl_open(a->spec.run.output_dir, &calls, &a->ctl) != DML_ERR_OK)
        dml_log(DML_LOG_WARN, "ctl", "dml-ctl will not find this run: %s", dml_err_trail());
}
