/* engine/placement_impl.h - placement's inside: tables of stages, and the space of sets of devices.
 *
 *   placement_price.c  layers -> tables; a range of them on a set of devices -> times, whether it fits
 *   placement_space.c  devices -> states and edges: which sets may stand before which
 *   placement.c        the recurrence over both, objectives, the way back
 *
 * A state is what the stages from some layer to the end stand on, seen from the stage before them; an edge puts one more
 * set of devices in front of a state.  State 0: no stages.
 */
#ifndef DML_ENGINE_PLACEMENT_IMPL_H
#define DML_ENGINE_PLACEMENT_IMPL_H

#include "engine/partition_impl.h"
#include "engine/placement.h"

/* ---- placement_price.c ---- */

/* Devices of one set that are alike; the largest share among them stands for all. */
typedef struct dml_placement_kind {
    int32_t speed; /* index into the table's */
    int32_t share;
    int64_t memory_bytes;
} dml_placement_kind;

typedef struct dml_placement_set {
    int32_t n, level; /* devices; the outermost level among them */
    int32_t speed;    /* of all; -1: of several */
    int32_t n_kinds;
    const dml_placement_kind *kind; /* [n_kinds] */
    int64_t key;                    /* who they are; placement_space.c */
} dml_placement_set;

/* Indices (a, b) of segments are a (n + 1) + b. */
typedef struct dml_placement_table {
    const dml_placement_problem *p;
    dml_partition_problem chain; /* its layers and skips */
    dml_partition_grid grid;
    int32_t n; /* segments */
    int32_t *at;
    int32_t n_links; /* >= 1 */
    int32_t n_speeds;
    double *speed;                /* [n_speeds] distinct */
    int32_t *speed_of;            /* [n_devices] */
    int64_t **c;                  /* [n_speeds] at (a, b): a micro-batch's compute */
    int64_t *once, *each;         /* [] at (a, b): bytes; once < 0: not asked for yet */
    int64_t **x_in, **x_out;      /* [n_links] at (a, b): one transfer */
    int64_t *reduce_bytes, *step; /* [n + 1] sums over the segments before */
    int64_t cap_bytes;            /* most on any device; INT64_MAX: its own limit alone counts */
    int64_t spare_bytes;          /* added to every limit */
} dml_placement_table;

typedef struct dml_placement_price {
    int64_t compute_ns, transfer_ns, reduce_ns, step_ns, work_ns;
    int64_t slowest_ns; /* a micro-batch's compute on the slowest device */
    int64_t x_in_ns;
} dml_placement_price;

/* Of the segments at[n + 1]; NULL: what legal borders cut the layers into.  `out` stays where it is. */
void dml_placement_table_of(const dml_placement_problem *p, const int32_t *at, int32_t n,
                            dml_arena *arena, dml_placement_table *out);

/* m_d of device[n], n <= mbs. */
void dml_placement_shares(const dml_placement_device *device, int32_t n, int32_t mbs,
                          int32_t *share);

/* The level of the link between two devices. */
int32_t dml_placement_level(const dml_placement_problem *p, int32_t a, int32_t b);

/* A set of the devices device[n], ascending: its kinds are the arena's. */
dml_placement_set dml_placement_set_of(const dml_placement_table *t, const int32_t *device,
                                       int32_t n, dml_arena *arena);

/* h_d of a device with this share. */
int32_t dml_placement_in_flight(int32_t share, int32_t behind, bool mixed, int32_t mbs);
int64_t dml_placement_bytes(const dml_placement_table *t, int32_t a, int32_t b, int32_t in_flight);

/* Whether a stage of segments [a, b) fits on all devices of the set. */
bool dml_placement_fits(const dml_placement_table *t, const dml_placement_set *set, int32_t a,
                        int32_t b, int32_t behind, bool mixed);
/* Its times.  Levels: of the links before and behind it. */
dml_placement_price dml_placement_price_at(const dml_placement_table *t,
                                           const dml_placement_set *set, int32_t a, int32_t b,
                                           int32_t in_level, int32_t out_level);
/* The largest m_d c_d. */
int64_t dml_placement_compute(const dml_placement_table *t, const dml_placement_set *set, int32_t a,
                              int32_t b);
int64_t dml_placement_slowest(const dml_placement_table *t, const dml_placement_set *set, int32_t a,
                              int32_t b);

/* ---- placement_space.c ---- */

typedef struct dml_placement_edge {
    int32_t set, next; /* the state behind it */
    int8_t level;      /* of the link between them */
    bool mixed;        /* not all devices from here on are of one speed */
} dml_placement_edge;

typedef struct dml_placement_space {
    dml_placement_how how;
    int32_t n_states;
    int32_t *used;  /* [n_states] devices */
    int64_t *first; /* [n_states + 1] edge of each; edges lead to states before */
    dml_placement_edge *edge;
    dml_placement_set *set;
    int32_t n_classes; /* CLASSES: */
    int32_t *class_of; /* [n_devices] */
} dml_placement_space;

dml_placement_space dml_placement_space_of(const dml_placement_table *t, dml_arena *arena);

/* The devices of the set, ascending, into out[set->n]; `taken` marks those of stages named before, and these. */
void dml_placement_devices(const dml_placement_table *t, const dml_placement_space *space,
                           const dml_placement_set *set, bool *taken, int32_t *out);

#endif
