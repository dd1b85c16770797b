/* base/failpoint.h - named places where a test makes something go wrong.
 *
 * They are compiled into every build, one relaxed load each while nothing is armed:
 *
 *   DML_TRY(DML_FAILPOINT(WORKER_PUT));      kill, pause, or return an error here, if someone asked for it
 *
 * Asked for in the environment of processes, or by a call where workers are threads:
 *
 *   DML_FAILPOINTS="worker.put@rank=1,hit=2:kill; agent.publish:pause=200ms; ckpt.fsync:error=nomem"
 *
 *   point [@ condition, ...] : action
 *   rank=R    only there; agent and supervisor are rank -1
 *   hit=N     the N-th time that the point is reached by whom the rule is for; 1 by default, and then never again
 *   always    from then on every time
 *   joined    only in a process that was started while the run was under way; others only in those it began with
 *   kill      SIGKILL to the process, or what dml_failpoints_on_kill said
 *   pause=T   sleeps: 200ms, 2s
 *   error     the point returns DML_ERR_UNAVAILABLE, or the code named: nomem, data, peer, bug
 *   pass      nothing: the point is only counted
 *
 * What is armed is hidden state, the third beside the log level and the trail: it is there for tests alone.
 */
#ifndef DML_BASE_FAILPOINT_H
#define DML_BASE_FAILPOINT_H

#include "engine/base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* clang-format off */
/*    id                  name                   where                                                    */
#define DML_FAILPOINT_LIST(X)                                                                              \
    X(WORKER_VOTE_BEFORE, "worker.vote.before")  /* its share is reduced, it has not contributed       */  \
    X(WORKER_VOTE_AFTER,  "worker.vote.after")   /* it knows the vote, nothing is committed            */  \
    X(WORKER_COMMIT,      "worker.commit")       /* between two chunks' commits, and after the last    */  \
    X(WORKER_PUT,         "worker.put")          /* between two chunks' states on their way to a bank  */  \
    X(WORKER_SAVED,       "worker.saved")        /* all is in the bank, nobody knows                   */  \
    X(WORKER_CLOSE,       "worker.close")        /* before it closes what held the state               */  \
    X(WORKER_OPEN,        "worker.open")         /* before it meets the others at the next epoch       */  \
    X(WORKER_GET,         "worker.get")          /* between two chunks' states on their way back       */  \
    X(WORKER_READY,       "worker.ready")        /* before it says so                                  */  \
    X(WORKER_PARK,        "worker.park")         /* it has left its step, nobody knows                 */  \
    X(WORKER_SNAPSHOT,    "worker.snapshot")     /* before it puts its part of a snapshot              */  \
    X(WORKER_JOIN,        "worker.join")         /* started while the run was under way, nobody knows  */  \
    X(AGENT_FENCE,        "agent.fence")         /* someone is lost, the fence is not raised           */  \
    X(AGENT_PARKED,       "agent.parked")        /* all live workers are parked                        */  \
    X(AGENT_DECIDE,       "agent.decide")        /* the plan is made, nothing is written               */  \
    X(AGENT_PUBLISH,      "agent.publish")       /* the move is written, not announced                 */  \
    X(AGENT_MOVED,        "agent.moved")         /* all have saved, nobody may close yet               */  \
    X(AGENT_READY,        "agent.ready")         /* all are ready, the recovery is not over            */  \
    X(AGENT_COMMIT,       "agent.commit")        /* a step is reported, nothing is written of it       */  \
    X(AGENT_SNAPSHOT,     "agent.snapshot")      /* all have put theirs, the snapshot is not told      */  \
    X(AGENT_START,        "agent.start")         /* before it asks for a worker                        */  \
    X(AGENT_KEEP,         "agent.keep")          /* before the supervisor keeps its descriptors        */  \
    X(AGENT_AGAIN,        "agent.again")         /* started again, what was kept is mapped: `joined`   */  \
    X(AGENT_DISMISS,      "agent.dismiss")       /* all have ended, nobody may go yet                  */  \
    X(SUPERVISOR_START,   "supervisor.start")    /* before it starts a worker                          */  \
    X(SUPERVISOR_ENDED,   "supervisor.ended")    /* a worker has ended, the agent is not told          */  \
    X(SUPERVISOR_AGAIN,   "supervisor.again")    /* the agent was killed, there is no other yet        */  \
    X(CKPT_WRITE,         "ckpt.write")          /* between two writes of a file                       */  \
    X(CKPT_FSYNC,         "ckpt.fsync")          /* before a file's fsync                              */  \
    X(CKPT_RENAME,        "ckpt.rename")         /* before a name becomes visible                      */  \
    X(CKPT_MANIFEST,      "ckpt.manifest")       /* shards are safe, the manifest is not written       */  \
    X(CKPT_PRUNE,         "ckpt.prune")          /* before an old checkpoint is removed                */
/* clang-format on */
typedef enum dml_failpoint {
#define X(id, name) DML_FAILPOINT_##id,
    DML_FAILPOINT_LIST(X)
#undef X
} dml_failpoint;
#define X(...) +1
enum { DML_FAILPOINTS = 0 DML_FAILPOINT_LIST(X) };
#undef X

enum { DML_FAILPOINT_AGENT = -1 };

/* ---- at a point ---- */

extern _Atomic uint32_t dml_failpoints_armed; /* rules; of this file's inline alone */

/* The point's slow half.  Errors: what a rule says; DML_ERR_PEER "killed at ..." where kill returned. */
dml_err dml_failpoint_reach(dml_failpoint point);

static inline dml_err dml_failpoint_at(dml_failpoint point)
{
    if (atomic_load_explicit(&dml_failpoints_armed, memory_order_relaxed) == 0) return DML_ERR_OK;
    return dml_failpoint_reach(point);
}

#define DML_FAILPOINT(id) dml_failpoint_at(DML_FAILPOINT_##id)

/* ---- arming, while no thread is at a point ---- */

/* Adds the rules of `text`.  DML_ERR_SPEC names the place; nothing is added then. */
dml_err dml_failpoints_arm(const char *text);

/* Adds those of DML_FAILPOINTS that are for a process like this one, and says which rank all its threads are. */
dml_err dml_failpoints_from_environment(int32_t rank, bool joined);

/* Removes all rules, counts and the kill callback. */
void dml_failpoints_disarm(void);

/* Which rank the calling thread is; where workers are threads of one process. */
void dml_failpoints_be(int32_t rank);

/* What kill does instead of a signal; when it returns, the point returns DML_ERR_PEER and whoever was killed unwinds
 * without a word to anybody.  NULL: SIGKILL again. */
void dml_failpoints_on_kill(void (*kill)(void *context, int32_t rank, dml_failpoint point),
                            void *context);

const char *dml_failpoint_name(dml_failpoint point);

/* How often it was reached while anything was armed, by all ranks. */
int64_t dml_failpoint_count(dml_failpoint point);

#endif
