/* engine/depot.h - the whole model's committed state, in memory that all processes of a run share.
 *
 *   marks | run | exponents | w m v of parameter 0 | w m v of parameter 1 | ... | state 0 | state 1 | ...
 *
 * A piece is a parameter, with all that its optimizer step moves, or a running moment; the last piece is what the run
 * itself has come to.  Where a piece lies follows from the model and the optimizer alone, never from a cut: what
 * workers leave under one plan, they find under any other, and a checkpoint can be written from it.
 *
 * A piece is put by one worker, the first that holds it, and marked with a stamp that says of what it is:
 *
 *   stamp = generation << 40 | steps committed + 1          0: nothing was put, or a put is under way
 *
 * The depot is whole when all pieces carry one stamp.  A put that ends halfway leaves it in parts; so a run has two of
 * them, the banks, and what puts into one leaves the other alone.  Between the last put and the first get everyone
 * hears that all is there (control->moved).
 */
#ifndef DML_ENGINE_DEPOT_H
#define DML_ENGINE_DEPOT_H

#include "engine/chunk.h"

#include <stdatomic.h>

/* What is committed beside tensors: the same on every worker. */
typedef struct dml_depot_run {
    int64_t step;    /* the next one, from 0 */
    int64_t commits; /* optimizer steps made: those that were not skipped */
    int32_t skipped; /* steps in a row that were, the newest ones */
    int32_t good_steps;
    float loss_scale; /* as dml_loss_scale of engine/update.h */
    int64_t
        evaluated_at; /* steps made when it was last evaluated; -1: never, or that is to be done again */
    uint32_t snapshot; /* newest control->snapshot that was answered */
} dml_depot_run;

typedef struct dml_depot {
    const dml_model *model; /* borrowed */
    char *memory;           /* owned mapping */
    int64_t bytes;
    _Atomic uint64_t *mark; /* [pieces] stamp of what lies there */
    dml_depot_run *run;
    int32_t *exponent;      /* [n_params] of exact's scales */
    float **param, **state; /* [n_params], [n_states] */
    int32_t values;         /* of an element of a parameter: w, then m, then v */
    dml_arena arena;        /* owns the tables */
} dml_depot;

/* A memfd for the model as `spec` trains it, mapped, nothing put; its pages take memory once they are put.  The caller
 * closes *fd when all have it.
 * DML_ERR_NOMEM, DML_ERR_UNAVAILABLE  there is no such file: says how large */
dml_err dml_depot_create(const dml_spec *spec, const dml_model *model, dml_depot *out, int *fd);
/* Maps what another process created for the same model and optimizer.
 * DML_ERR_BUG  it is of another size */
dml_err dml_depot_map(const dml_spec *spec, const dml_model *model, int fd, dml_depot *out);
void dml_depot_close(dml_depot *d); /* {0} is fine */

static inline uint64_t dml_depot_stamp(uint32_t generation, int64_t steps)
{
    return (uint64_t)generation << 40 | (uint64_t)(steps + 1);
}
static inline uint32_t dml_depot_stamp_generation(uint64_t stamp)
{
    return (uint32_t)(stamp >> 40);
}
static inline int64_t dml_depot_stamp_steps(uint64_t stamp)
{
    return (int64_t)(stamp & ((UINT64_C(1) << 40) - 1)) - 1;
}

/* Copies all of a chunk's committed state there and marks it.  Through the queue, which it waits for.  Whatever the
 * error, pieces that are not whole carry no stamp. */
dml_err dml_depot_put(dml_depot *d, uint64_t stamp, const dml_chunk *c,
                      const dml_device_api *device, dml_queue *queue);
void dml_depot_put_run(dml_depot *d, uint64_t stamp, const dml_depot_run *run);

/* Whether all pieces carry one and the same stamp, and which; 0 where they do not. */
bool dml_depot_complete(const dml_depot *d, uint64_t *stamp);
/* Of what the run itself has come to. */
uint64_t dml_depot_run_stamp(const dml_depot *d);
/* DML_ERR_BUG  a piece carries another stamp: the text names the first */
dml_err dml_depot_check(const dml_depot *d, uint64_t stamp);

/* For who fills a depot by other ways: all pieces and the run carry the stamp; 0: none is whole. */
void dml_depot_mark(dml_depot *d, uint64_t stamp);

/* Fills a chunk that was placed (dml_chunk_place) from a depot that was checked.  Through the queue, which it waits for;
 * kernels are to be told that weights changed. */
dml_err dml_depot_get(const dml_depot *d, dml_chunk *c, const dml_device_api *device,
                      dml_queue *queue);

#endif
