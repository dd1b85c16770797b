/* engine/recovery.h - who is lost, what everyone does then, and every other change of plan: the agent's machine.
 *
 *            lost, fence g                all parked            all saved              all ready     a step
 *   RUNNING ---------------> FENCED ------------------> MOVING ------------> OPENING ------------> RUNNING -------> told
 *      |                       ^  who had voted? plan g    |   moved = g        |                    ^
 *      |  plan g (balance, rejoin)                         |                    |                    |
 *      +-------------------> CHANGING ---------------------+---- all saved -----+                    |
 *                              any loss: fence g + 1, from the start
 *
 * The machine knows no processes and no threads: what happens comes in by calls, what it wants goes out through the
 * control page and callbacks.  One thread at a time.  Whoever does not answer in a state before its deadline is killed
 * and counts as lost, so every state ends.
 *
 * Where the state of the next plan comes from:
 *
 *   a vote of this tenure is known, and each chunk has a holder that lives    PEERS  0 steps lost
 *   no step was committed since the state was last put                        BANK   0 steps lost
 *   the newest bank that is complete (failures.snapshot_interval)             BANK   its age
 *   the newest checkpoint that is valid                                       BANK   its age
 *   nothing was ever committed, or the first snapshot that the spec asks for
 *   has not come yet                                                          START  all steps made
 *   else the run is over, exit 6: dml_recovery_over says what would have helped
 */
#ifndef DML_ENGINE_RECOVERY_H
#define DML_ENGINE_RECOVERY_H

#include "engine/control.h"
#include "engine/depot.h"
#include "engine/logbook.h"
#include "engine/plan.h"
#include "engine/repair.h"

/* A spec and its plan, which points to it: neither moves. */
typedef struct dml_planned dml_planned;

/* Why a worker counts as lost. */
typedef struct dml_death {
    char cause[256]; /* for people: "killed by signal 9 (Killed)", its own words, ... */
    const char
        *detected_by;  /* static: "beacon", "heartbeat", "exit status", "its own report", ... */
    int64_t fault_ns;  /* dml_clock_ns at which it happened, as far as known */
    int64_t detect_ns; /* and at which that was noticed */
    bool injected;
} dml_death;

typedef enum dml_recovery_kind {
    DML_RECOVERY_LOST, /* `rank` is lost, `death` says why; what follows is a recovery, or the end */
    DML_RECOVERY_PLAN, /* everyone alive goes on under another plan: dml_recovery_plan; times up to ready */
    DML_RECOVERY_DONE,     /* the first step after it is committed: all times are known */
    DML_RECOVERY_SNAPSHOT, /* a snapshot is complete: `bank`, `step`, `bytes` */
    DML_RECOVERY_FAILED, /* a snapshot, or a change that nobody needs, is given up: `why`; the run goes on */
} dml_recovery_kind;

/* Why the plan changed. */
typedef enum dml_recovery_reason {
    DML_REASON_LOSS,    /* workers were lost: go on without them */
    DML_REASON_RESTART, /* the same, but all are started again (failures.policy: restart) */
    DML_REASON_REJOIN,  /* workers came back */
    DML_REASON_LEAVE,   /* a worker said that it is not well: it hands over and goes */
    DML_REASON_BALANCE, /* another plan is faster */
} dml_recovery_reason;

typedef struct dml_recovery_event {
    dml_recovery_kind kind;
    dml_recovery_reason reason;
    uint32_t generation; /* of the plan that is gone on with */

    /* LOST; in PLAN and DONE the first loss of this recovery */
    int32_t rank;
    dml_death death;

    /* PLAN, DONE; ranks as bits */
    uint64_t newly_lost, joined,
        lost;       /* in this recovery; who came back; all that are not there now */
    int32_t fences; /* raised until it held: more than one, there were further losses on the way */
    const dml_plan *before, *after; /* borrowed: until the next event */
    bool first_plan;                /* `after` is the run's first plan: everyone is back */
    dml_repair repair;              /* of the newest plan made without somebody */
    dml_source source;
    bool from_checkpoint;
    int64_t step;       /* steps committed in that state; the run goes on after them */
    int64_t steps_lost; /* committed ones that are run again: the age of the state */
    int64_t mbs_rerun;  /* micro-batches run again: of those steps, and of the one under way */
    int64_t bytes;      /* put by peers, or read */
    double predicted_before_s, predicted_after_s; /* of a step; nan: not predicted */
    bool bound_holds;                             /* engine/replan.h */

    /* dml_clock_ns of each; 0: there was none.  fault and detect: death.  For a planned change fenced and parked are when
     * it was announced. */
    int64_t fenced_ns, parked_ns, planned_ns, published_ns, saved_ns, moved_ns, ready_ns;
    int64_t step_ns; /* DONE: the first step committed */
    int32_t bank;    /* SNAPSHOT */
    const char *why; /* FAILED: borrowed */
} dml_recovery_event;

typedef struct dml_recovery_config {
    const dml_plan *first; /* with its spec; borrowed */
    int base_fd;           /* text of first->spec as workers load it; borrowed */
    int plan_fd;           /* text of the newest plan, which workers read; borrowed */
    dml_control *control;  /* borrowed */
    dml_depot *bank[2];    /* borrowed */
    bool shares_plans;     /* workers are threads, which borrow plans: all stay until close */
    bool has_state;        /* bank 0 holds what the run begins with (checkpoint.resume) */

    void *context; /* of the calls below */
    /* SIGKILL, now.  The rank counts as lost already. */
    void (*kill)(void *context, int32_t rank);
    /* A process for the rank, which will report JOIN.  False: there will be none, `why` is filled. */
    bool (*spawn)(void *context, int32_t rank, char why[256]);
    /* Fills a bank from the newest checkpoint that is valid, with the stamp.  False: there is none.  NULL: never. */
    bool (*restore)(void *context, dml_depot *bank, uint32_t generation, int64_t *step);
    /* All have ended, after so many steps: whether their state is to be put for a SNAPSHOT before they go.  NULL: never. */
    bool (*last)(void *context, int64_t step);
    void (*note)(void *context, const dml_recovery_event *event);
} dml_recovery_config;

typedef struct dml_recovery dml_recovery;

/* DML_ERR_NOMEM */
dml_err dml_recovery_new(const dml_recovery_config *config, dml_recovery **out);
void dml_recovery_free(dml_recovery *r); /* NULL is fine */

/* What of it goes into the logbook; and of one that was read from there, made by new with the same config.
 * DML_ERR_SPEC, DML_ERR_NOMEM  the plan that is run cannot be made again */
dml_logbook_part dml_recovery_part(dml_recovery *r);
dml_err dml_recovery_again(dml_recovery *r, const dml_recovery_config *config,
                           const dml_logbook *book);

/* ---- what happens ---- */

/* The worker is gone, or is to go (it is killed then).  Said twice: no more than once counts. */
void dml_recovery_lost(dml_recovery *r, int32_t rank, const dml_death *death);
/* It is not well, but still at work: it hands its state over after the step under way, then its process ends. */
void dml_recovery_retire(dml_recovery *r, int32_t rank, const dml_death *death);
/* Its process has ended: only now may there be another in its place. */
void dml_recovery_ended(dml_recovery *r, int32_t rank);
/* Every report; those that are none of its business are passed over.  A FAIL that policy survives is a loss. */
void dml_recovery_take(dml_recovery *r, const dml_report *report);
/* Time passes; returns when it wants to be called next, INT64_MAX: not for its own sake. */
int64_t dml_recovery_tick(dml_recovery *r, int64_t now_ns);
/* Everyone alive has ended, or the run is to end: nothing is recovered from here on. */
void dml_recovery_close(dml_recovery *r);

/* ---- what is wanted ---- */

/* Another plan, `next` moved: after the current step everyone goes on with it, unless a loss comes first.
 * False: it is busy, `next` is freed. */
bool dml_recovery_change(dml_recovery *r, dml_planned *next);
/* The state after the current step into a bank: SNAPSHOT follows, unless a loss comes first.  False: it is busy. */
bool dml_recovery_snapshot(dml_recovery *r);
/* A bank that is being read (a checkpoint is written from it) is not put to. */
void dml_recovery_pin(dml_recovery *r, int32_t bank, bool pinned);

/* ---- how it stands ---- */

/* The plan that is run, or was last; the plan of a generation that was announced, for threads. */
const dml_plan *dml_recovery_plan(const dml_recovery *r);
const dml_plan *dml_recovery_plan_of(const dml_recovery *r, uint32_t generation);
uint32_t dml_recovery_generation(const dml_recovery *r); /* of dml_recovery_plan */
/* Not RUNNING, or a snapshot is under way. */
bool dml_recovery_is_busy(const dml_recovery *r);
uint64_t dml_recovery_lost_mask(const dml_recovery *r);
/* Whether the rank takes part, or enters with the move under way: its end is a loss. */
bool dml_recovery_counts_on(const dml_recovery *r, int32_t rank);
/* Whether it was asked to spawn the rank, which has not come in yet. */
bool dml_recovery_expects(const dml_recovery *r, int32_t rank);
/* Whether a worker that gives up with `err` is lost, and not the run: none that the run cannot even begin with. */
bool dml_recovery_survives(const dml_recovery *r, dml_err err);
/* The lowest rank that takes part: what it says stands for all. */
int32_t dml_recovery_leader(const dml_recovery *r);
/* Everyone who takes part has reported END of this generation: control->dismissed is set. */
bool dml_recovery_is_dismissed(const dml_recovery *r);
/* NULL: the run goes on.  Else it cannot, and why: the end has been announced (DML_FENCE_END).
 *   err  DML_ERR_PEER: a loss that is not survived; else what went wrong, with nobody lost, or at every try */
const char *dml_recovery_over(const dml_recovery *r, dml_err *err);

/* ---- plans from text ---- */

struct dml_planned {
    dml_spec spec;
    dml_plan plan;
    char *overrides; /* of the text it was made from, one a line; owned */
};

/* From the text in `fd`; overrides [n].  Owned: dml_planned_free.  DML_ERR_SPEC  as spec and plan. */
dml_err dml_planned_load(int fd, const char *const *overrides, int32_t n, dml_planned **out);
/* Keeps the overrides' text: what a plan that is made elsewhere begins with.  DML_ERR_NOMEM */
dml_err dml_planned_note(dml_planned *p, const char *const *overrides, int32_t n);
void dml_planned_free(dml_planned *p); /* NULL is fine */

#endif
