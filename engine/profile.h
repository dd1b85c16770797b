/* engine/profile.h - what a machine takes for a model's layers, links and all-reduces, measured (dml-plan profile) and
 * kept as JSON.
 *
 *   dml-plan profile net.yaml -o net.json      the measuring job: engine/profile_run.h
 *   profile: net.json                          in a spec: read, held against the spec and this machine, and then
 *                                              spec->costs, which every process of a run gets in the resolved spec
 *
 * Times are whole nanoseconds.  A layer's are those of one micro-batch of rows[i] samples that is not the first of
 * its step; what the first takes more (weights packed again, gradients stored and not added) is begin_ns.  A layer that
 * a product beside it computes has no time of its own: `within` names the layer that carries it.
 */
#ifndef DML_ENGINE_PROFILE_H
#define DML_ENGINE_PROFILE_H

#include "engine/model.h"

enum { DML_PROFILE_VERSION = 1 };
#define DML_PROFILE_ESTIMATED "estimated" /* backend of a profile that nobody measured */

/* Of n samples; quartiles by nearest rank. */
typedef struct dml_spread {
    int64_t median_ns, p25_ns, p75_ns;
    int64_t n;
} dml_spread;

typedef struct dml_profile_layer {
    const char *name, *kind;
    const char *within; /* ""; or the layer whose time has its */
    int64_t parameter_bytes, gradient_bytes, optimizer_bytes;
    int64_t activation_bytes,
        stash_bytes;            /* of one sample: its output; what it leaves for the backward */
    dml_spread *ns[DML_PASSES]; /* [n_rows] */
    int64_t begin_ns;           /* once a step, mean of the sizes */
    int64_t step_ns,
        norm_ns; /* once a step: optimizer; sum of the squared gradients.  The whole model's, shared
                                 * out by parameters */
} dml_profile_layer;

/* The whole model on one worker with micro-batches of `rows`. */
typedef struct dml_profile_whole {
    int64_t rows;
    int64_t forward_ns, backward_ns, step_ns, norm_ns; /* medians, as the executor takes them */
    int64_t wall_ns;                                   /* of a step of `micro_batches`, median */
    int64_t overhead_ns; /* of it: neither the compute lane's work nor the norm */
    int64_t stash_bytes; /* of one micro-batch */
} dml_profile_whole;

/* `bytes` between two neighbours (members 2, reduce false) or summed up among `members`. */
typedef struct dml_profile_transfer {
    int64_t members, bytes, ns;
} dml_profile_transfer;

/* latency_ns + bytes / bytes_per_s, least squares of relative errors over the sizes from_bytes .. to_bytes. */
typedef struct dml_profile_fit {
    int64_t members;
    int64_t latency_ns, bytes_per_s; /* 0: bytes take no time */
    int64_t from_bytes, to_bytes;
} dml_profile_fit;

typedef struct dml_profile {
    const char *file; /* where it was read; for texts */
    struct {
        const char *date, *version;
    } made;
    struct { /* where it holds */
        const char *host, *cpu;
        int64_t cores;
        const char *backend, *device, *libraries, *transport; /* "cuda", "NVIDIA H100", "..." */
        const char *link;                                     /* "real", or how it is emulated */
    } machine;
    struct { /* what it holds for */
        const char *name, *hash, *precision, *numerics, *optimizer;
        int64_t threads;
    } model;
    int64_t workers, iterations, micro_batches; /* processes at once; of each size; of a step */
    int32_t n_rows, n_layers, n_transfers, n_sums, n_reduces;
    int64_t *rows;                  /* [n_rows] ascending */
    dml_profile_layer *layer;       /* [n_layers] */
    dml_profile_whole *whole;       /* [n_rows] */
    dml_profile_transfer *transfer; /* [n_transfers] */
    dml_profile_transfer *sum;      /* [n_sums] */
    dml_profile_fit link;           /* members 0: no link was measured */
    dml_profile_fit *reduce;        /* [n_reduces] ascending members */
    int64_t vote_ns;
} dml_profile;

/* Reads a file; everything is the arena's.
 *
 * DML_ERR_SPEC  not readable, not JSON (file:line:column), or a field is unknown, missing or out of its range: the text
 *               names it, "net.json: layers[3].forward_ns[0]: ..." */
dml_err dml_profile_read(const char *path, dml_arena *arena, dml_profile *out);
dml_err dml_profile_write(const dml_profile *p, const char *path);

/* Who computes here: fills machine but for the link.  `backend` NULL: the machine alone. */
struct dml_backend;
void dml_profile_machine(const struct dml_backend *backend, dml_arena *arena, dml_profile *out);

/* Of what layers' times depend on: kinds, shapes, parameters in their order. */
const char *dml_profile_model_hash(const dml_model *model, dml_arena *arena);

/* Fills in `model` but for the threads. */
void dml_profile_describe(const dml_spec *spec, const dml_model *model, dml_arena *arena,
                          dml_profile *out);

/* Whether it is this spec's model, and its precision, numerics, optimizer and threads; with `machine`, too, whether it was
 * made on a machine like this one.
 * DML_ERR_SPEC  no: the text says what differs and what mends it */
dml_err dml_profile_check(const dml_profile *p, const dml_spec *spec, const dml_model *model,
                          bool machine);

/* Reads the spec's profile, checks it and fills spec->costs, where the spec names one and has no costs.  Called by
 * dml_spec_load.  DML_ERR_SPEC  as the two above */
dml_err dml_profile_apply(dml_spec *spec);

/* The table that planners read; the arena's.  Layers are scaled so that they add up to the whole passes. */
const dml_costs *dml_profile_costs(const dml_profile *p, dml_arena *arena);

/* latency and rate of `n` measurements of like members; n >= 1. */
dml_profile_fit dml_profile_fit_of(const dml_profile_transfer *t, int32_t n, int64_t from_bytes,
                                   int64_t to_bytes);

#endif
