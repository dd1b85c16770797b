/* engine/depot.h - the whole model's committed state, in memory that all processes of a run share.
 *
 *   marks | run | exponents | w m v of parameter 0 | w m v of parameter 1 | ... | state 0 | state 1 | ...
 *
 * A piece is a parameter, with all that its optimizer step moves, or a running moment; the last piece is what the run
 * itself has come to.  Where a piece lies follows from the model and the optimizer alone, never from a cut: what
 * workers leave under one plan, they find under any other, and a checkpoint can be written from it.
 *
 * A piece is put by one worker, the first that holds it, and marked with the generation that it was put in.  Whoever
 * gets state first looks whether all pieces are of that generation; between the last put and the first get all workers
 * meet (the transports of the next generation open when everyone has closed the last).
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
} dml_depot_run;

typedef struct dml_depot {
    const dml_model *model; /* borrowed */
    char *memory;           /* owned mapping */
    int64_t bytes;
    _Atomic uint32_t *mark; /* [pieces] generation of the newest put, 0: none */
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

/* Copies all of a chunk's committed state there and marks it.  Through the queue, which it waits for.
 *   generation  >= 1, larger than that of the put before */
dml_err dml_depot_put(dml_depot *d, uint32_t generation, const dml_chunk *c,
                      const dml_device_api *device, dml_queue *queue);
void dml_depot_put_run(dml_depot *d, uint32_t generation, const dml_depot_run *run);

/* DML_ERR_BUG  a piece is not of this generation: the text names the first */
dml_err dml_depot_check(const dml_depot *d, uint32_t generation);

/* Fills a chunk that was placed (dml_chunk_place) from a depot that was checked.  Through the queue, which it waits for;
 * kernels are to be told that weights changed. */
dml_err dml_depot_get(const dml_depot *d, dml_chunk *c, const dml_device_api *device,
                      dml_queue *queue);

#endif
