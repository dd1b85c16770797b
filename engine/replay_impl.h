/* engine/replay_impl.h - a replay on its way, and what a policy says to a change.  For replay*.c only. */
#ifndef DML_ENGINE_REPLAY_IMPL_H
#define DML_ENGINE_REPLAY_IMPL_H

#include "engine/replay.h"

typedef struct dml_replay_clock {
    const dml_replay_planner *planner;
    const dml_replay_charges *charges;
    dml_replay_policy policy;
    dml_arena *arena;
    int64_t now_ns, ready_ns; /* before ready_ns nothing is done */
    double rate;
    const char *what;
    double done, begun, saved; /* steps: so far, when last ready, in the last checkpoint */
    uint64_t lost;             /* before the change */
    dml_replay_way way, next;  /* whose state lies where; what is being opened until ready_ns */
    bool gone;       /* a layer has no holder: all start from the checkpoint, once it is possible */
    uint64_t steady; /* who has held its part of `way` since it was opened */
    uint64_t used;   /* restart: who runs in a pipeline */
    dml_replay_result *out;
    int32_t room;
} dml_replay_clock;

/* What a change comes to.  {0}: nothing changes. */
typedef struct dml_replay_turn {
    bool acts;
    double rate;
    const char *what;
    int64_t stall_ns;
    double undone; /* steps, <= done */
    bool rollback;
} dml_replay_turn;

/* `lost` is who is gone from now on; run->lost who was.  Of a way that moves state: run->next. */
dml_err dml_replay_turn_of(dml_replay_clock *run, uint64_t lost, dml_replay_turn *out);

/* The part of the step under way that is done. */
double dml_replay_part(const dml_replay_clock *run);

/* Failure normalisation as plain SlipStream has it, equal stages assumed: workers of ranks with few losses take the
 * places of lost ones, as few as can be.
 *
 *   place  [ranks * replicas] whose place each worker takes
 *
 * Returns the places that are empty then, as bits. */
uint64_t dml_replay_spread(int32_t ranks, int32_t replicas, uint64_t lost, int32_t *place);

#endif
