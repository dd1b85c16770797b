/* engine/recovery_impl.h - what the machine's parts share: recovery.c, events and states; recovery_members.c, who comes
 * and goes; recovery_decide.c, how everyone goes on; recovery_plan.c, under which plan; recovery_snapshot.c, what is kept of it. */
#ifndef DML_ENGINE_RECOVERY_IMPL_H
#define DML_ENGINE_RECOVERY_IMPL_H

#include "engine/recovery.h"

/* Ranks as bits. */
#define DML_RANK_BIT(r) (UINT64_C(1) << (r))

typedef enum dml_recovery_state {
    DML_AT_OPENING, /* READY from all is awaited; where a run begins */
    DML_AT_RUN,
    DML_AT_FENCED,   /* PARKED from all, JOIN from those that are needed */
    DML_AT_MOVING,   /* SAVED from all: the state is on its way to a bank */
    DML_AT_CHANGING, /* the same, after the step under way: nobody is lost */
    DML_AT_ENDING,   /* all have ended, and put the state of the last step */
    DML_AT_OVER,
} dml_recovery_state;

typedef struct dml_kept_plan {
    uint32_t generation;
    dml_planned *planned; /* owned; NULL: the first plan */
} dml_kept_plan;

/* The state that the tenure of now began with. */
typedef struct dml_base {
    dml_source source; /* START or BANK */
    int32_t bank;
    uint64_t stamp;
    int64_t step;
} dml_base;

/* What is said of a plan that was made. */
typedef struct dml_plan_figures {
    dml_repair repair;
    bool bound_holds;
    double before_s, after_s; /* of a step; nan: not predicted */
} dml_plan_figures;

struct dml_recovery {
    dml_recovery_config c;
    const dml_spec *spec; /* of the first plan */
    int32_t n;            /* processes */
    uint64_t world;
    dml_recovery_state state;
    int64_t deadline_ns; /* of the state; INT64_MAX: none */

    uint32_t newest;     /* generation announced or fenced */
    bool begun;          /* a step was made: all were ready once */
    uint32_t now;        /* that whose memory workers hold */
    uint32_t told;       /* that of the newest PLAN event */
    dml_kept_plan *kept; /* [n_kept] owned, ascending */
    int32_t n_kept;

    /* who takes part in the tenure of now; has taken part in it, the dead included; enters with the move under way;
     * leaves with it */
    uint64_t active, members, entering, leaving;
    /* started, no JOIN yet; joined, not admitted; without a process; without whom it cannot go on */
    uint64_t spawning, joined, gone, needed;
    uint64_t unwell;                      /* to leave when it is time */
    dml_death illness;                    /* of the newest of them */
    uint64_t answered;                    /* in this state */
    uint64_t ended;                       /* END, in this tenure */
    int64_t respawn_ns[DML_HOST_WORKERS]; /* not before */
    int32_t starts[DML_HOST_WORKERS];     /* since a step was last committed */
    int32_t losses, rounds;               /* in all; recoveries since a step was last committed */
    bool dismissed;

    dml_base base;
    int64_t committed; /* steps, as reported */
    bool pinned[2];
    struct {
        uint32_t word; /* control->snapshot; 0: none is under way */
        uint32_t count;
        int32_t bank;
        uint64_t answered;
        int64_t bytes;
    } snapshot;

    int32_t blame[DML_HOST_WORKERS]; /* of SUSPECT; -1: it cannot say */
    uint64_t suspecting;
    int64_t suspected_ns;                /* of the first; 0: none */
    int64_t struck_ns[DML_HOST_WORKERS]; /* when a fault that was asked for struck it; 0: none */
    int64_t ops_then[DML_HOST_WORKERS];  /* finished at that time */
    int64_t clipped_step;  /* the newest that was clipped or skipped, from 1; 0: none */
    int64_t snapshot_step; /* committed when the newest snapshot was asked for */

    dml_plan_figures figures; /* of the plan that is about to be announced */
    dml_recovery_event event; /* of the change under way, or the newest */
    bool under_way, pending;  /* from the loss to ready; from there to the first step */
    char over[768];           /* "": the run goes on */
    dml_err over_err;         /* DML_ERR_OK: that of a loss */
};

int64_t dml_recovery_patience_ns(const dml_recovery *r); /* for an answer */

/* ---- recovery.c ---- */

/* The run cannot go on. */
void dml_recovery_end(dml_recovery *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Ends it when `err` is one, with the trail. */
bool dml_recovery_failed(dml_recovery *r, dml_err err);
/* Says that `what` is given up, with the trail; the run goes on. */
void dml_recovery_give_up(dml_recovery *r, const char *what);
void dml_recovery_enter(dml_recovery *r, dml_recovery_state state, int64_t patience_ns);
/* Begins an event, or goes on with the one that is not over. */
void dml_recovery_begin_event(dml_recovery *r, dml_recovery_reason reason);
/* Nobody may be at work any more; what follows is a move. */
void dml_recovery_fence(dml_recovery *r);
/* The state lies in the bank of the move: everyone who takes part opens its plan. */
void dml_recovery_moved(dml_recovery *r);

/* Nobody is needed any more, least of all who never came in. */
void dml_recovery_dismiss(dml_recovery *r);

/* ---- recovery_snapshot.c ---- */

void dml_recovery_snapshot_if_due(dml_recovery *r);
/* SAVED of a snapshot. */
void dml_recovery_take_snapshot(dml_recovery *r, int32_t rank, const dml_report_saved *s);
/* All have ended: asks for the state of the last step.  False: it is not wanted. */
bool dml_recovery_last(dml_recovery *r);
/* It will not come; everyone goes. */
void dml_recovery_give_up_last(dml_recovery *r, const char *why);

/* ---- recovery_members.c ---- */

/* Plans without those that are not well, and with those that came back, when the run is at ease. */
void dml_recovery_let_in_and_out(dml_recovery *r);
/* Starts who is to be started; returns when it is next time, INT64_MAX: never. */
int64_t dml_recovery_spawn_due(dml_recovery *r, int64_t now_ns);
/* Whoever has joined has no place: it is killed, and may be started again. */
void dml_recovery_turn_away(dml_recovery *r);
/* A SUSPECT; a look at them. */
void dml_recovery_suspect(dml_recovery *r, int32_t rank, const dml_report_suspect *s);
int64_t dml_recovery_judge(dml_recovery *r, int64_t now_ns);

/* ---- recovery_decide.c ---- */

/* All are parked: announces how to go on, or ends the run. */
void dml_recovery_decide(dml_recovery *r);
/* A bank that may be put to, the other being the newer where that matters. */
int32_t dml_recovery_free_bank(const dml_recovery *r);
/* Announces `planned` for after the step under way: `joined` enter, `leaving` leave.  Where that fails the plan of now
 * stays, whoever had joined is turned away, and who was to leave is lost. */
void dml_recovery_announce(dml_recovery *r, dml_planned *planned, dml_recovery_reason reason);

/* ---- recovery_plan.c ---- */

/* The plan without `lost`; *out NULL: the first.  DML_ERR_SPEC, DML_ERR_NOMEM  there is none: says why */
dml_err dml_recovery_replan(dml_recovery *r, uint64_t lost, dml_planned **out);
/* Into the event. */
void dml_recovery_tell_figures(dml_recovery *r);
/* Takes `planned`, moved, as the plan of `generation`, and writes its text where workers read it. */
dml_err dml_recovery_publish(dml_recovery *r, uint32_t generation, dml_planned *planned);
/* Takes `planned`, moved, as that of the generation; NULL: the first plan. */
dml_err dml_recovery_keep(dml_recovery *r, uint32_t generation, dml_planned *planned);
/* Writes the text of the plan of now again: the one published last is not to be. */
dml_err dml_recovery_withdraw(dml_recovery *r);
/* Drops plans that nobody runs or speaks of. */
void dml_recovery_prune(dml_recovery *r);

#endif
