/* engine/agent_again.c - an agent that was killed, and the one in its place.
 *
 * The supervisor keeps a descriptor of all that lies between agent and workers, and of the logbook (engine/logbook.h).
 * The next agent makes spec, plan and maps from these, reads what was noted, looks at who lives, and follows on.
 * Workers do not notice: their reports wait in their sockets.
 */
#include "engine/agent_impl.h"

#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/data_steps.h"
#include "engine/launch.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    KEEP_CONTROL = DML_KEEP_FIRST,
    KEEP_SPEC,
    KEEP_PLAN,
    KEEP_BANK, /* two */
    KEEP_TRACE = KEEP_BANK + 2,
    KEEP_REPORTS, /* one per rank, as the next */
    KEEP_DATA = KEEP_REPORTS + DML_HOST_WORKERS,
    KEEP_VOTE = KEEP_DATA + DML_HOST_WORKERS,
    KEEP_END = KEEP_VOTE + DML_HOST_WORKERS
};
_Static_assert((int)KEEP_END <= (int)DML_KEEP_SLOTS, "the supervisor has no room for so many");

/* ---- the first ---- */

static int32_t parts_of(dml_agent *a, dml_logbook_part part[DML_LOGBOOK_PARTS])
{
    const dml_logbook_part own[] = {
        {a->worker, a->plan.workers * (int64_t)sizeof *a->worker},
        {&a->leader_err, sizeof a->leader_err},
        {a->leader_trail, sizeof a->leader_trail},
        {&a->stop_signal, sizeof a->stop_signal},
        {&a->give_up_ns, sizeof a->give_up_ns},
        {&a->ending_ns, sizeof a->ending_ns},
        {&a->killed, sizeof a->killed},
        {a->hang, sizeof a->hang},
        {&a->begins_after, sizeof a->begins_after},
        {&a->injector.begin_ns, sizeof a->injector - offsetof(dml_injector, begin_ns)},
    };
    enum { OWN = sizeof own / sizeof *own };
    memcpy(part, own, sizeof own);
    dml_leader_parts(&a->leader, part + OWN);
    part[OWN + DML_LEADER_PARTS] = dml_recovery_part(a->recovery);
    part[OWN + DML_LEADER_PARTS + 1] = dml_keeper_part(a->keeper);
    return OWN + DML_LEADER_PARTS + 2;
}

void dml_agent_note(dml_agent *a)
{
    if (!a->book.page) return;
    dml_leader_before_note(&a->leader);
    dml_logbook_note(&a->book);
}

dml_err dml_agent_keep_reports(const dml_agent *a, int32_t rank)
{
    return dml_launch_keep(KEEP_REPORTS + rank, a->worker[rank].socket);
}

dml_err dml_agent_leave_behind(dml_agent *a)
{
    dml_logbook_part part[DML_LOGBOOK_PARTS];
    int book_fd;
    const int32_t n_parts = parts_of(a, part);
    DML_TRY(DML_FAILPOINT(AGENT_KEEP));
    DML_TRY(dml_logbook_create(part, n_parts, &a->book, &book_fd));
    dml_agent_note(a);
    DML_TRY(dml_launch_keep(KEEP_CONTROL, a->control_fd));
    DML_TRY(dml_launch_keep(KEEP_SPEC, a->spec_fd));
    DML_TRY(dml_launch_keep(KEEP_PLAN, a->plan_fd));
    for (int32_t b = 0; b < 2; b++)
        DML_TRY(dml_launch_keep(KEEP_BANK + b, a->bank_fd[b]));
    if (a->trace.memory) DML_TRY(dml_launch_keep(KEEP_TRACE, a->trace_fd));
    for (int32_t r = 0; r < a->plan.workers; r++) {
        DML_TRY(dml_launch_keep(KEEP_DATA + r, a->data_fd[r]));
        DML_TRY(dml_launch_keep(KEEP_VOTE + r, a->vote_fd[r]));
    }
    const dml_err err = dml_launch_keep(DML_KEEP_LAST, book_fd);
    close(book_fd);
    return err;
}

/* ---- the next ---- */

static dml_err recall(int32_t slot, int *fd)
{
    DML_TRY(dml_launch_recall(slot, fd));
    if (*fd < 0) DML_FAIL(DML_ERR_UNAVAILABLE, "the supervisor could not keep all (ulimit -n)");
    return DML_ERR_OK;
}

static dml_err recall_shared(dml_agent *a)
{
    char path[64];
    DML_TRY(recall(KEEP_CONTROL, &a->control_fd));
    DML_TRY(recall(KEEP_SPEC, &a->spec_fd));
    DML_TRY(recall(KEEP_PLAN, &a->plan_fd));
    DML_TRY(dml_control_map(a->control_fd, &a->control));
    snprintf(path, sizeof path, "/proc/self/fd/%d", a->spec_fd);
    DML_TRY(dml_spec_load(path, NULL, 0, &a->spec));
    DML_TRY(dml_data_resolve_steps(&a->spec));
    DML_TRY(dml_plan_make(&a->spec, &a->plan));
    DML_TRY(dml_agent_backend(&a->plan, &a->backend, a->why, sizeof a->why));
    a->threads = dml_agent_threads(a->plan.spec, a->plan.workers);
    for (int32_t b = 0; b < 2; b++) {
        DML_TRY(recall(KEEP_BANK + b, &a->bank_fd[b]));
        DML_TRY(dml_depot_map(&a->spec, &a->plan.model, a->bank_fd[b], &a->bank[b]));
    }
    for (int32_t r = 0; r < a->plan.workers; r++) {
        DML_TRY(recall(KEEP_DATA + r, &a->data_fd[r]));
        DML_TRY(recall(KEEP_VOTE + r, &a->vote_fd[r]));
    }
    if (!dml_trace_wanted(&a->spec)) return DML_ERR_OK;
    DML_TRY(recall(KEEP_TRACE, &a->trace_fd));
    return dml_trace_map(&a->plan, a->trace_fd, &a->trace);
}

static dml_err read_book(dml_agent *a)
{
    dml_logbook_part part[DML_LOGBOOK_PARTS];
    int fd;
    const int32_t n_parts = parts_of(a, part);
    DML_TRY(recall(DML_KEEP_LAST, &fd));
    const dml_err err = dml_logbook_map(fd, part, n_parts, &a->book);
    close(fd);
    return err;
}

/* Who was noted to have a process still has it, as far as this agent knows: ends are told by the supervisor. */
static dml_err meet_workers(dml_agent *a)
{
    for (int32_t r = 0; r < a->plan.workers; r++) {
        dml_followed *w = &a->worker[r];
        w->death.detected_by = dml_logbook_text(&a->book, w->death.detected_by);
        if (w->socket >= 0) DML_TRY(dml_launch_recall(KEEP_REPORTS + r, &w->socket));
        if (!w->exited) DML_TRY(dml_detect_resume(a->detect, r));
    }
    return DML_ERR_OK;
}

/* The report that the one before was about to deal with, or was dealing with, is taken from its socket if it is there. */
static void take_expected(dml_agent *a)
{
    const dml_report *expected = dml_logbook_expected(&a->book);
    if (!expected) return;
    const dml_report r = *expected;
    dml_report next;
    bool got;
    const int socket = a->worker[r.rank].socket;
    if (socket >= 0 && dml_report_look(socket, &next, &got) == DML_ERR_OK && got) {
        next.rank = r.rank;
        if (memcmp(&next, &r, sizeof r) == 0) (void)!dml_report_receive(socket, &next, &got);
    }
    dml_agent_take(a, &r);
}

dml_err dml_agent_again(dml_agent *a)
{
    DML_TRY(recall_shared(a));
    DML_TRY(dml_agent_open_recovery(a));
    const dml_leader_config leader = {.plan = &a->plan,
                                      .backend = a->backend,
                                      .why = a->why,
                                      .spec_path = a->options->spec_path,
                                      .threads = a->threads,
                                      .trace = a->trace.memory ? &a->trace : NULL,
                                      .console = stderr};
    DML_TRY(dml_leader_reopen(&a->leader, &leader));
    DML_TRY(dml_agent_open_keeper(a));
    DML_TRY(read_book(a));
    dml_recovery_config recovery = dml_agent_recovery_config(a);
    dml_agent_again_injector(a);
    DML_TRY(meet_workers(a));
    DML_TRY(dml_recovery_again(a->recovery, &recovery, &a->book));
    dml_keeper_again(a->keeper);
    const dml_plan *plan = dml_recovery_plan(a->recovery);
    dml_detect_plan(a->detect, plan);
    DML_TRY(dml_leader_again(&a->leader, plan, &a->book));
    DML_TRY(DML_FAILPOINT(AGENT_AGAIN));
    DML_TRY(dml_launch_resume());
    dml_console_note(&a->leader.view, "the agent was started again: it follows from step %lld on",
                     (long long)a->leader.steps);
    take_expected(a);
    dml_agent_note(a);
    dml_agent_open_ctl(a);
    return DML_ERR_OK;
}
