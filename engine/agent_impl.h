/* engine/agent_impl.h - what the agent's parts share: agent.c, the poll loop; agent_start.c, what workers are given;
 * agent_follow.c, what is made of what they do; agent_ctl.c, faults on purpose and dml-ctl; agent_blame.c, who failed when a run ends. */
#ifndef DML_ENGINE_AGENT_IMPL_H
#define DML_ENGINE_AGENT_IMPL_H

#include "engine/agent.h"
#include "engine/change.h"
#include "engine/ctl.h"
#include "engine/detect.h"
#include "engine/injector.h"
#include "engine/keeper.h"
#include "engine/leader.h"
#include "engine/logbook.h"
#include "engine/recovery.h"

enum {
    DML_AGENT_PATIENCE_S = 10
}; /* for the others to end after one failed, or after the last step */

typedef struct dml_followed {
    int socket; /* reports; -1 when closed */
    int32_t pid;
    bool started, exited, said_end, said_fail;
    bool lost;    /* and people know: what becomes of the process is no news */
    bool accused; /* had to be killed for what was seen of it */
    bool silent;  /* had to be killed, and has said nothing */
    int status;   /* wait status, once exited */
    dml_report_fail fail;
    int64_t failed_at_ns; /* 0: it has not, or the run went on */
    dml_death death;      /* by which its loss was noticed; detected_by NULL: by its end */
} dml_followed;

typedef struct dml_agent {
    dml_spec spec;
    dml_plan plan; /* the first */
    const dml_backend *backend;
    char why[256], host[64];
    int32_t threads;
    dml_control *control;
    int control_fd, spec_fd, plan_fd, bank_fd[2];
    int data_fd[DML_HOST_WORKERS], vote_fd[DML_HOST_WORKERS];
    dml_trace trace; /* {0}: none is wanted */
    int trace_fd;
    dml_depot bank[2];
    dml_detect *detect;
    dml_recovery *recovery;
    dml_keeper *keeper;
    int64_t begins_after; /* steps of an earlier run that this one goes on from */
    dml_changes changes;  /* {0}: plans are not weighed */
    dml_followed worker[DML_HOST_WORKERS];
    dml_leader leader;
    dml_err
        leader_err; /* the leader's own failure: output folder gone, replicas differ; or the run's */
    char leader_trail[DML_TRAIL_BYTES];
    int stop_signal;    /* 0: none */
    int64_t give_up_ns; /* INT64_MAX while all is well */
    int64_t ending_ns;  /* when all were told to end; 0: not yet */
    bool killed;
    char hang[128];           /* what was seen when the run hung; "": it did not */
    char silence[512];        /* what was said of who stopped answering */
    int64_t ops, progress_ns; /* ops finished by all workers; when that last grew */
    int64_t looked_ns;        /* when that was last looked at */
    int64_t recovery_due_ns;  /* when the recovery wants to be called */
    dml_injector injector;    /* faults on purpose */
    int64_t fault_due_ns;     /* when it wants to be called */
    dml_ctl *ctl;             /* NULL: nobody can ask */
    dml_logbook book;         /* {0}: nothing would be left */
    const dml_agent_options *options;
} dml_agent;

/* ---- agent_start.c ---- */

/* All that workers are given, and the workers.  DML_ERR_UNAVAILABLE  one could not be started */
dml_err dml_agent_start(dml_agent *a);
/* Asks for a process in the place of one that has ended. */
dml_err dml_agent_respawn(dml_agent *a, int32_t rank);

/* ---- agent.c ---- */

/* The run ends after its step, as on that signal. */
void dml_agent_ask_to_stop(dml_agent *a, int signal);

/* Takes one event of the supervisor; blocks until there is one.
 * DML_ERR_UNAVAILABLE  a worker could not be started
 * DML_ERR_PEER         the supervisor is gone */
dml_err dml_agent_next_event(dml_agent *a);

/* ---- agent_follow.c ---- */

dml_err dml_agent_open_recovery(dml_agent *a);
/* From here on it is only a matter of ending: every wait in every worker ends now. */
void dml_agent_begin_end(dml_agent *a);
/* A report waits at the rank's socket. */
void dml_agent_take_report(dml_agent *a, int32_t rank);
void dml_agent_worker_ended(dml_agent *a, int32_t rank, int status);
/* What beacons, heartbeats and op deadlines tell. */
void dml_agent_take_signs(dml_agent *a);
/* Lets the recovery's time pass, and looks whether it found that the run is over. */
void dml_agent_tick(dml_agent *a);
/* Nobody can be lost, or come, any more. */
bool dml_agent_is_settled(const dml_agent *a);

/* ---- agent_ctl.c ---- */

/* Before the workers begin.  DML_ERR_SPEC  a fault of the spec is for nobody */
dml_err dml_agent_open_injector(dml_agent *a);
/* The same when its figures were read from the logbook: the faults lie on the board. */
void dml_agent_again_injector(dml_agent *a);
/* Where the run has a folder of its own; without a socket it goes on all the same. */
void dml_agent_open_ctl(dml_agent *a);
/* A worker has said that a fault strikes it. */
void dml_agent_note_fault(dml_agent *a, int32_t rank, const dml_report_fault *fault);
/* Lets the time of faults pass. */
void dml_agent_tick_faults(dml_agent *a);
/* At the end: names faults that never struck; `code`, or that of failures.expect_recoveries if they were others. */
int dml_agent_check_faults(dml_agent *a, int code);

/* ---- agent_save.c ---- */

/* What the run begins with, into bank 0, and who saves. */
dml_err dml_agent_open_keeper(dml_agent *a);
/* dml_recovery_config.restore */
bool dml_agent_restore(void *context, dml_depot *bank, uint32_t generation, int64_t *step);
/* dml_recovery_config.last */
bool dml_agent_saves_last(void *context, int64_t step);
/* Whether the run saves its state before it obeys the signal; it is on its way then. */
bool dml_agent_saves_before(dml_agent *a, int signal);
/* Exit code of a run that was stopped by a signal. */
int dml_agent_stop_code(const dml_agent *a);

void dml_agent_take(dml_agent *a, const dml_report *r);
dml_recovery_config dml_agent_recovery_config(dml_agent *a);

/* ---- agent_again.c ---- */

/* All workers are there: from here on the agent may be killed. */
dml_err dml_agent_leave_behind(dml_agent *a);
/* The rank has another socket. */
dml_err dml_agent_keep_reports(const dml_agent *a, int32_t rank);
/* What there was to deal with is dealt with. */
void dml_agent_note(dml_agent *a);
/* In the place of prepare: goes on where the agent before was killed.
 * DML_ERR_UNAVAILABLE  the supervisor could not keep what is needed */
dml_err dml_agent_again(dml_agent *a);

/* ---- agent_blame.c ---- */

/* Of one worker, as it is seen now.  Texts are borrowed from `a` and from action[bytes]. */
dml_failure_record dml_agent_failure(const dml_agent *a, int32_t rank, char *action, size_t bytes);
/* All have ended: says what the run came to; returns its exit code. */
int dml_agent_conclude(dml_agent *a);

#endif
