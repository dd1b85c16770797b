/* engine/migration.h - what changes hands between two plans: whose state goes where, how much of it, and how long it takes.
 *
 *   from   stage 0: workers 0 1 2    stage 2: workers 6 7 8       worker 7 is lost, worker 0 takes its place
 *   to     stage 0: workers 1 2      stage 2: workers 0 6 8
 *
 *   transfer       stage 2, from worker 6 to worker 0             what a new holder did not hold: once, from who lives
 *   puts, gets     1 puts stage 0, 6 puts stage 2; all get        how a run carries it out (engine/depot.h)
 *
 * A run copies all state into memory that nobody owns before anybody closes what held it, and everybody fetches from there
 * what it is to hold: a worker may be lost at any instant in between.  So those who keep their stage copy it as well, and
 * what is put is the whole model, once, whatever the change; what is fetched grows with the holders.
 */
#ifndef DML_ENGINE_MIGRATION_H
#define DML_ENGINE_MIGRATION_H

#include "engine/plan.h"

enum { DML_FROM_BANK = -1 }; /* no holder lives: a snapshot, or a checkpoint */

typedef struct dml_transfer {
    int32_t stage;                  /* of the plan that begins; the source may have other stages */
    int32_t layer_begin, layer_end; /* of the model */
    int32_t param_begin, param_end; /* of the model */
    int32_t from, to;               /* workers; DML_FROM_BANK */
    int64_t bytes;                  /* parameters, optimizer state, running moments */
} dml_transfer;

typedef struct dml_migration {
    dml_transfer *transfer; /* [transfers] by `to`, then by layer */
    int32_t transfers;
    int32_t movers;                 /* workers that come to hold what they did not */
    int32_t workers;                /* of both plans */
    int64_t *in_bytes, *out_bytes;  /* [workers] of the transfers */
    int64_t *put_bytes, *get_bytes; /* [workers] of the copies that a run makes */
    int64_t moved_bytes;            /* all transfers */
    int64_t copied_bytes;           /* all puts: what a recovery reports as moved */
    dml_arena arena;                /* owns the tables */
} dml_migration;

/* Who puts the chunk's state: who runs its first micro-batch, else the lowest of its other holders; DML_FROM_BANK: all are
 * lost.  lost: [workers] */
int32_t dml_state_source(const dml_program *program, int32_t chunk, const bool *lost);

/* Bytes of what is committed of the model's layers [begin, end). */
int64_t dml_state_bytes(const dml_spec *spec, const dml_model *model, int32_t begin, int32_t end);

/* Of one model under two plans, none made by dml_plan_make_one; checked.
 *
 *   lost  [from->workers] those whose memory is gone, though `from` may name them
 *   out   {0} on failure
 *
 * DML_ERR_BUG  as dml_migration_check */
dml_err dml_migration_make(const dml_plan *from, const dml_plan *to, const bool *lost,
                           dml_migration *out);
void dml_migration_free(dml_migration *m);

/* Every holder of `to` gets each layer of its stages that it did not hold exactly once, from a worker that lives and holds
 * it, or from the bank where none does; and nothing else.
 *
 * DML_ERR_BUG  names the worker and the layer */
dml_err dml_migration_check(const dml_migration *m, const dml_plan *from, const dml_plan *to,
                            const bool *lost);

/* Bytes a second that a process copies into shared memory or out of it, while others do: assumed, a fraction of what a
 * core copies alone. */
#define DML_COPY_BYTES_PER_S 2e9

/* How long the state is under way.  Where links are known or emulated (cluster.links, parallelism.link) the transfers
 * over these: the longest that one worker sends or receives.  Else the copies of one host: the largest put, then the
 * largest get, at DML_COPY_BYTES_PER_S. */
int64_t dml_migration_ns(const dml_migration *m, const dml_links *links);

/* Appends a line for each transfer, and one for the copies. */
void dml_migration_print(const dml_migration *m, dml_str *out);

#endif
