/* schedule/round_robin.c - each replica warms up, alternates and drains on its own micro-batches.
 *
 *   (2, 1), 6 micro-batches:
 *   stage 0, replica 0:  F0 F2 B0 F4 B2 B4
 *            replica 1:  F1 F3 B1 F5 B3 B5
 *   stage 1:             F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5
 */
#include "schedule/round_robin.h"

#include "schedule/versions.h"

#define MIN2(a, b) ((a) < (b) ? (a) : (b))

/* Workers from the stage on. */
static int32_t workers_from(const int32_t *replicas, int32_t stages, int32_t stage)
{
    int32_t n = 0;
    for (int32_t s = stage; s < stages; s++)
        n += replicas[s];
    return n;
}

int32_t dml_round_robin_warm_up(const int32_t *replicas, int32_t stages, int32_t stage)
{
    return (workers_from(replicas, stages, stage) - 1) / replicas[stage];
}

int32_t dml_round_robin_versions(const int32_t *replicas, int32_t stages, int32_t stage)
{
    return dml_round_robin_warm_up(replicas, stages, stage) + 1;
}

int32_t dml_round_robin_admitted(const int32_t *replicas, int32_t stages)
{
    return dml_round_robin_versions(replicas, stages, 0);
}

/* The smallest number that all counts divide, as far as it is below the limit. */
static int64_t common_multiple(const int32_t *replicas, int32_t stages)
{
    int64_t all = 1;
    for (int32_t s = 0; s < stages; s++) {
        int64_t step = all;
        while (all % replicas[s] != 0 && all <= DML_MAX_MBS)
            all += step;
    }
    return all;
}

static dml_err check_counts(const int32_t *replicas, int32_t stages, int32_t mbs)
{
    if (stages < 1) DML_FAIL(DML_ERR_SPEC, "a pipeline has at least one stage, not %d", stages);
    for (int32_t s = 0; s < stages; s++)
        if (replicas[s] < 1)
            DML_FAIL(DML_ERR_SPEC, "stage %d has at least one replica, not %d", s, replicas[s]);
    const int64_t unit = common_multiple(replicas, stages);
    if (mbs < 1 || mbs % unit != 0)
        DML_FAIL(DML_ERR_SPEC,
                 "replicas that take turns finish together after a multiple of %lld micro-batches, "
                 "not %d",
                 (long long)unit, mbs);
    return DML_ERR_OK;
}

static void push_replica(dml_program *out, int32_t w, int32_t s, int32_t replica, int32_t replicas,
                         int32_t warm_up)
{
    const int32_t n = out->mbs / replicas;
    int32_t f = 0, b = 0;
    while (f < MIN2(warm_up, n))
        dml_program_push(out, w, DML_OP_FWD, s, f++ * replicas + replica);
    while (b < n) {
        if (f < n) dml_program_push(out, w, DML_OP_FWD, s, f++ * replicas + replica);
        dml_program_push(out, w, DML_OP_BWD, s, b++ * replicas + replica);
    }
}

typedef struct reading {
    const int32_t *replicas;
    int32_t stages;
} reading;

static int32_t version_of(const void *ctx, int32_t chunk, int32_t mb)
{
    const reading *r = ctx;
    const int32_t late = dml_round_robin_warm_up(r->replicas, r->stages, chunk);
    return mb / r->replicas[chunk] > late ? mb / r->replicas[chunk] - late : 0;
}

dml_err dml_round_robin_order(const int32_t *replicas, int32_t stages, int32_t mbs,
                              dml_program *out)
{
    *out = (dml_program){0};
    DML_TRY(check_counts(replicas, stages, mbs));
    DML_TRY(dml_program_init(out, workers_from(replicas, stages, 0), stages, mbs));
    for (int32_t s = 0, w = 0; s < stages; s++) {
        out->update_mbs[s] = replicas[s];
        for (int32_t k = 0; k < replicas[s]; k++)
            push_replica(out, w++, s, k, replicas[s], dml_round_robin_warm_up(replicas, stages, s));
    }
    out->votes = !dml_program_is_async(out);
    dml_program_route_by_ops(out);
    const dml_err err = dml_versions_set(out, version_of, &(reading){replicas, stages});
    if (err != DML_ERR_OK) dml_program_free(out);
    return err;
}
