/* engine/launch.h - the supervisor: parent of the agent and of every worker, and nothing else.
 *
 *   dml-train (supervisor) --+-- agent      reads the spec, plans, owns the run
 *                            +-- worker 0   one per device, started by exec when the agent asks
 *                            +-- worker 1
 *
 * It waits, starts and ends processes; it reads no spec and maps no memory, so there is little that can
 * go wrong in it.  All its children carry a parent-death signal: whoever is killed, no process stays.
 * When the agent ends, the workers are killed and the agent's exit code is the program's.  An agent that is killed
 * after it has given what the next one needs (dml_launch_keep) is started again, a few times; workers do not notice.
 * Before that nothing was trained: workers are killed as well, and the run begins anew.
 *
 *   agent       keep(control page), keep(reports of w0), ...... SIGKILL
 *   supervisor  holds a descriptor of each .......................... starts the agent again
 *   agent                                                             recall, recall, ..., resume: events again
 *
 * Signals that ask to stop (INT, TERM, HUP) are the supervisor's alone; in its children they are ignored from
 * exec on.  The first goes to the agent, which ends the run after its step; the second ends it at once.
 * One that was ignored when the program was started (nohup, a background job of a script) stays so.
 */
#ifndef DML_ENGINE_LAUNCH_H
#define DML_ENGINE_LAUNCH_H

#include "engine/base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Descriptor numbers of a child right after exec. */
enum {
    DML_FD_LAUNCHER = 3, /* agent: the supervisor's socket; worker: its report socket */
    DML_FD_FIRST = 4,    /* worker: the descriptors the agent sent, in order */
    DML_LAUNCH_FDS = 250 /* most descriptors one worker can be given */
};

/* What the supervisor tells the agent. */
typedef struct dml_launch_event {
    enum {
        DML_LAUNCH_STARTED,
        DML_LAUNCH_FAILED, /* there is no process, and none will come */
        DML_LAUNCH_ENDED,
        DML_LAUNCH_SIGNAL,
    } kind;
    int32_t rank; /* all but SIGNAL */
    int32_t pid;  /* STARTED, ENDED */
    int32_t code; /* FAILED: errno; ENDED: wait status; SIGNAL: signal number */
} dml_launch_event;

/* Supervisor.  Starts this program again as the agent, with `argv` after "--agent", and serves it until it
 * ends.  Returns the exit code of the whole program. */
int dml_supervise(char *const argv[]);

/* Agent's side of the socket DML_FD_LAUNCHER. */

/* Asks for worker `rank`; fds [n_fds] become DML_FD_LAUNCHER, DML_FD_FIRST ... in it.  The answer comes as
 * an event.  DML_ERR_PEER  the supervisor is gone. */
dml_err dml_launch_worker(int32_t rank, const int *fds, int32_t n_fds);
/* Gives the supervisor a copy of `fd` under the number `slot`, in the place of one that it had; it has no answer.
 * From DML_KEEP_LAST on, the last to be given, the agent can be started again. */
enum { DML_KEEP_LAST, DML_KEEP_FIRST, DML_KEEP_SLOTS = 3 * 64 + 16 };
dml_err dml_launch_keep(int32_t slot, int fd);
/* An agent that was started again: the copy, owned by the caller; -1: there is none. */
dml_err dml_launch_recall(int32_t slot, int *fd);
/* It has recalled all: from here on it is told events; first STARTED of the newest process of each rank, ENDED too if it
 * has, and SIGNAL if one came. */
dml_err dml_launch_resume(void);
/* Asks for SIGKILL to one worker; nothing happens when it has ended. */
dml_err dml_launch_kill(int32_t rank);
/* Asks for SIGKILL to all workers still alive. */
dml_err dml_launch_kill_all(void);
/* One event; *got false: the supervisor is gone.  Blocks: poll DML_FD_LAUNCHER first. */
dml_err dml_launch_next(dml_launch_event *out, bool *got);

/* First thing in a child: dies with its parent.  `parent` is the pid the child was started by. */
dml_err dml_die_with_parent(pid_t parent);

/* First thing in main: descriptors 0, 1 and 2 that are closed become /dev/null, so that no socket or segment
 * takes their numbers and is written to as "stderr". */
void dml_fill_standard_fds(void);

/* The name ps and top show for this process (at most 15 bytes). */
void dml_process_name(const char *name);

#endif
