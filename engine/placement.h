/* engine/placement.h - free placement: stages, their replicas, and which device is which.
 *
 *   layers   0 1 2 3 | 4 5 | 6 7        devices  0 1 2 | 3 | 5       (4 is too slow to help)
 *   shares   of 12 micro-batches        5 5 2 | 12 | 12
 *
 * A pure function of figures.  A stage is a range of layers on a set of devices, each in one stage at most, which share
 * out the M micro-batches of a step: one each, then one at a time to the device that would be done with it first by
 * its speed (of several the one with more memory, then the faster, then the first).  Of stage s with layers [i, j) on devices D, m_d micro-batches on d:
 *
 *   c_d        (sum of F + I + W) / speed of d, of one micro-batch
 *   x_in       latency + in / bandwidth of the outermost level of links that any two of the devices of s and of the
 *              stage before need; x_out likewise with the stage behind; in and out as in engine/partition.h
 *   compute    max over d of m_d c_d
 *   transfer   max over d of m_d (x_in + x_out): a device sends outputs on and input gradients back on one lane and
 *              receives on another, beside its compute
 *   reduce     2 (n - 1) latency + 2 (n - 1) / n bytes / bandwidth, n devices over the outermost level among them
 *   work       max(compute, transfer) + reduce + optimizer (that of the slowest device): reductions begin when the last
 *              backward ends; with reduce_overlaps max(compute, transfer, reduce) + optimizer
 *   bytes      of d: state + h_d (stash + in) + in + out
 *   h_d        micro-batches held between F and B, as 1F1B holds them: min(m_d, 1 + ceil(behind m_d / M)), behind
 *              being the number of devices of all stages behind s; 1 more where the devices of s and those behind are
 *              not all of one speed
 *
 * h: a stage of r replicas that keeps pace, a micro-batch every T, holds each of them r T, or, with unequal shares, r T on
 * the average; so of the micro-batches that pass s, `behind` are in the stages behind it at any time (Little's law), d has
 * its share of them, and one in itself.  With equal replicas it is PipeDream's ceil(devices at or behind s / replicas
 * of s), and with equal pipelines 1F1B's P - s.  Orders of the list scheduler keep that time with h, and not with one
 * less; where ops behind are longer than those of s (more replicas there, or counts that do not divide) they take up to
 * a fifth longer with h, and with one more next to nothing (test_placement_program.c).  A step of M micro-batches takes
 *
 *   max over s of  sum over k < s of way_k + 2 x_in of s + work_s      way_k: 2 x_in + the slowest c_d of stage k
 *
 * the stage's work between what fills the pipeline to it and what drains it: what 1F1B takes where one stage is the
 * slowest, (M + P - 1) T for P equal ones.  M T is the steady state, PipeDream's objective.
 */
#ifndef DML_ENGINE_PLACEMENT_H
#define DML_ENGINE_PLACEMENT_H

#include "engine/base/arena.h"
#include "engine/base/link.h"
#include "engine/partition.h"

typedef struct dml_placement_device {
    double speed;         /* > 0; 2 takes half the times */
    int64_t memory_bytes; /* limit; 0: none */
} dml_placement_device;

typedef enum dml_objective {
    DML_OBJECTIVE_THROUGHPUT, /* the least time of a step */
    DML_OBJECTIVE_MEMORY, /* the least bytes on the fullest device; of those, the least time of a step */
    DML_OBJECTIVE_LATENCY /* the least way of one micro-batch, forward and backward, through the slowest replica
                               * of every stage */
} dml_objective;

typedef struct dml_placement_problem {
    const dml_partition_layer *layer; /* [n_layers] borrowed, as all arrays here */
    const int64_t *reduce_bytes;      /* [n_layers] that replicas sum up once a step; NULL: none */
    const int64_t *step_ns;         /* [n_layers] optimizer, once a step, at speed 1; NULL: none */
    const dml_partition_skip *skip; /* [n_skips] */
    const dml_placement_device *device; /* [n_devices] */
    dml_links links;                    /* workers are devices; its levels borrowed */
    int32_t n_layers, n_skips, n_devices;
    int32_t mbs; /* M >= 1: micro-batches of a step, over all replicas */
    dml_objective objective;
    bool reduce_overlaps;
    /* Bytes of layers [begin, end) as a stage: held once, and by each micro-batch in flight, in the place of
     * state + in + out and stash + in.  NULL: those.  Asked for at most once for each pair. */
    void (*bytes)(void *of, int32_t begin, int32_t end, int64_t *once, int64_t *each);
    void *of;        /* its first argument */
    int64_t most_ns; /* steps longer than that do not count; 0: any.  Not for LATENCY */
} dml_placement_problem;

/* clang-format off */
/*    how          text          what was searched                                                                  */
#define DML_PLACEMENT_LIST(X)                                                                                        \
    X(SETS,       "all sets")   /* every stage on any set of devices: up to 8 behind links of several levels        */ \
    X(CLASSES,    "classes")    /* the same, by counts of equal devices: links of one level                         */ \
    X(CONTIGUOUS, "contiguous") /* stages on neighbours, the last devices behind: not exact where devices or links \
                                 * differ; beyond 128 devices, sets are parts of an innermost block or whole ones   */
/* clang-format on */
typedef enum dml_placement_how {
#define X(how, text) DML_PLACEMENT_##how,
    DML_PLACEMENT_LIST(X)
#undef X
} dml_placement_how;

typedef enum dml_placement_term {
    DML_PLACEMENT_COMPUTE,
    DML_PLACEMENT_TRANSFER,
    DML_PLACEMENT_REDUCE
} dml_placement_term;

/* Of one stage; times are those of a step. */
typedef struct dml_placement_stage {
    int32_t begin, end; /* layers [begin, end) */
    int32_t replicas;
    const int32_t *device; /* [replicas] ascending */
    const int32_t *share;  /* [replicas] m_d, >= 1: of the mbs micro-batches of a step */
    int32_t *in_flight;    /* [replicas] h_d */
    int64_t *bytes;        /* [replicas] */
    int64_t compute_ns, transfer_ns, reduce_ns, step_ns;
    int64_t work_ns;
    int64_t x_in_ns, way_ns; /* of one micro-batch; way with 2 x_in */
} dml_placement_stage;

typedef struct dml_placement {
    dml_placement_how how;
    int32_t n_stages;
    dml_placement_stage
        *stage;         /* [n_stages] in the order of the chain; the arena's, with all in it */
    int64_t step_ns;    /* of a step, fill and drain included */
    int64_t mb_ns;      /* T: the largest work / M, a micro-batch's time in steady state */
    int64_t latency_ns; /* sum of the ways */
    int64_t bytes;      /* of the fullest device */
    int32_t slowest;    /* the stage with the largest work */
    dml_placement_term binds; /* the largest of its terms */
} dml_placement;

/* Finds the best placement; devices may be left out.  `how` says over what it is the best.  Everything *out points to is
 * the arena's; written only on success.
 *
 * O(n^2 / 2) stages for each set of devices and each set before it: 4^k of k devices, by classes of c devices each
 * the product of (c + 1)(c + 2) / 2, of k neighbours k^2 / 2.  MEMORY solves it 40 times, for one limit after another.
 *
 * DML_ERR_SPEC   no layers, devices or micro-batches, a speed that is not above 0, levels that do not grow
 * DML_ERR_NOMEM  nothing fits: names the layer that no device can hold and the bytes it is short; where each fits
 *                somewhere, the bytes that would have to be added to every limit.  Or nothing keeps within most_ns */
dml_err dml_placement_find(const dml_placement_problem *p, dml_arena *arena, dml_placement *out);

/* Prices a placement from elsewhere, legal or not: `out` has n_stages and of each stage begin, end, replicas and device;
 * the rest is written, shares by the rule above where share is NULL. */
void dml_placement_price_of(const dml_placement_problem *p, dml_arena *arena, dml_placement *out);

const char *dml_placement_how_text(dml_placement_how how);

#endif
