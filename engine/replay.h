/* engine/replay.h - a trace of losses and returns, and how much each policy gets done in it.
 *
 *   rate   1.0 |-----+       +----------        steps a second, of those without a fault
 *              |     |   +---+
 *              |     |   |                      done = sum of rate x time / step_ns, less what is run again
 *          0.0 |     +---+                      stall: nothing is done
 *                  loss  ready
 *
 * Between two changes a policy makes steps at one rate.  A change costs a stall, and a loss the part of the step under
 * way; a step under way at a return is ended first.  A change during a stall begins it anew.
 *
 * `ours` and `slipstream` go on with plans that this engine's planner makes and prices, `drop` and `restart` follow
 * from the layout's closed form.  Others are not run here but follow published throughputs (engine/replay_published.c),
 * so their rows are as good as those figures are for another layout.
 */
#ifndef DML_ENGINE_REPLAY_H
#define DML_ENGINE_REPLAY_H

#include "engine/outages.h"

/* clang-format off */
/*    policy       text            what becomes of a loss                                                             */
#define DML_REPLAY_POLICY_LIST(X)                                                                                            \
    X(OURS,        "ours",         "the best of all repairs, state from peers")                                       \
    X(SLIPSTREAM,  "slipstream",   "re-routing alone: decoupled, staggered, losses spread over stages")               \
    X(DROP,        "drop",         "a pipeline that lost a worker rests until it is whole")                           \
    X(RESTART,     "restart",      "all start again from a checkpoint, in as many whole pipelines as there are")      \
    X(RECYCLE,     "recycle",      "published throughput by live GPUs, no transition charged, as published")          \
    X(OOBLECK,     "oobleck",      "published throughput by live GPUs, and a stall at each change")                   \
    X(BAMBOO,      "bamboo",       "the same: redundant computation")                                                 \
    X(SCALED,      "fault-scaled", "no system: fault-free throughput x live workers / all")
/* clang-format on */
typedef enum dml_replay_policy {
#define X(policy, ...) DML_REPLAY_##policy,
    DML_REPLAY_POLICY_LIST(X)
#undef X
} dml_replay_policy;
#define X(...) +1
enum { DML_REPLAY_POLICIES = 0 DML_REPLAY_POLICY_LIST(X) };
#undef X
const char *dml_replay_policy_text(dml_replay_policy policy);    /* static */
const char *dml_replay_policy_meaning(dml_replay_policy policy); /* static */

/* How a run goes on without some of its workers. */
typedef struct dml_replay_way {
    int64_t step_ns;    /* 0: it cannot */
    bool staggered;     /* a loss may undo the step before the one under way, too */
    const char *repair; /* for people */
    const bool *holds;  /* [workers][layers] whose state a worker has; NULL where step_ns is 0 */
} dml_replay_way;

/* The run, and who plans for it. */
typedef struct dml_replay_planner {
    int32_t workers, layers;
    int32_t ranks, replicas,
        mbs; /* equal pipelines: worker = rank * replicas + replica; of a step, all together */
    int64_t step_ns;            /* without a loss */
    const int64_t *state_bytes; /* [layers] parameters and what the optimizer keeps; borrowed */
    void *ctx;
    /* The way without `lost`, 0: the first plan; the planner's, as long as it lives.  reroute_only: as SlipStream.
     * That there is none is no error but step_ns 0. */
    dml_err (*plan)(void *ctx, uint64_t lost, bool reroute_only, dml_replay_way *out);
} dml_replay_planner;

/* Whose figures stand for the systems that are not run: GPT-3 in two sizes on 24 GPUs. */
typedef enum dml_published { DML_PUBLISHED_LARGE, DML_PUBLISHED_350M } dml_published;

typedef struct dml_replay_charges {
    int64_t recovery_ns; /* of ours, slipstream and drop: from the fault to ready, state apart */
    double link_bytes_per_s; /* of a worker, each way: what moves goes over it */
    int64_t restart_ns;      /* of a start from a checkpoint */
    int64_t checkpoint_ns;   /* between two of them; saving is not charged */
    dml_published published;
} dml_replay_charges;

typedef struct dml_replay_span {
    int64_t from_ns, to_ns;
    double rate;      /* 1: as without a fault; 0: a stall */
    const char *what; /* repair, or "transition" */
} dml_replay_span;

typedef struct dml_replay_result {
    dml_replay_policy policy;
    double mean;              /* steps done in all, of those without a fault */
    double steps, steps_lost; /* done; begun or done, and run again */
    int64_t transition_ns;
    int32_t transitions;
    int32_t rollbacks;     /* went back to a checkpoint */
    dml_replay_span *span; /* [n] ascending without gaps, the arena's */
    int32_t n;
} dml_replay_result;

/* Errors are the planner's. */
dml_err dml_replay_run(const dml_outages *outages, const dml_replay_planner *planner,
                       const dml_replay_charges *charges, dml_replay_policy policy,
                       dml_arena *arena, dml_replay_result *out);

/* ---- replay_published.c ---- */

/* Throughput of the system with `live` of `workers`, of plain training without a fault; the stall of each change.
 * RECYCLE, OOBLECK and BAMBOO. */
double dml_published_rate(dml_replay_policy policy, dml_published model, int32_t live,
                          int32_t workers);
int64_t dml_published_stall_ns(dml_replay_policy policy, dml_published model);

#endif
