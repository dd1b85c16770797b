/* engine/checkpoint.h - the committed state of a run, on disk: written so that the newest one always loads, read so that
 * whatever loads is what was written.
 *
 *   checkpoints/
 *     step-00000100/
 *       model.safetensors        parameters and running moments by their global names
 *       optimizer.safetensors    "<parameter>.m", ".v": moments; ".scale": exponents of numerics: exact
 *       train_state.json         what the run has come to, and what it is a run of
 *       MANIFEST.json            length of each file, hash of each 4 MiB of it, and of itself; written last
 *     step-00000200/
 *     latest                     "step-00000200": for people and scripts; loading does not look at it
 *
 * Publishing: files into .step-00000200.tmp, fsync of each; the manifest, fsync; fsync of the folder; rename; fsync of
 * the folder above; `latest` by a rename of its own.  Hashes are of what is handed to write(2), never of what a disk gave
 * back.  A step that is saved again takes the old one's place in one rename (RENAME_EXCHANGE).
 *
 * Nothing in it depends on a layout, so any layout goes on from any other's.  What a run must have in common with its
 * checkpoint, and what may differ, is the table below.
 */
#ifndef DML_ENGINE_CHECKPOINT_H
#define DML_ENGINE_CHECKPOINT_H

#include "engine/depot.h"

/* Exit code of a run that was asked to stop by SIGTERM and has saved its state: EX_TEMPFAIL, "try again". */
enum { DML_EXIT_SAVED = 75, DML_CHECKPOINT_NAME = 32 };

/* clang-format off */
/*    key                 when it differs     what it is                                                             */
#define DML_CHECKPOINT_LIST(X)                                                                                       \
    X(MODEL,              "model",              REFUSE)  /* hash of layers, names, loss                             */ \
    X(OPTIMIZER,          "optimizer",          REFUSE)  /* its name, and which moments it keeps                    */ \
    X(NUMERICS,           "numerics",           REFUSE)                                                                \
    X(PRECISION,          "precision",          REFUSE)                                                                \
    X(SEED,               "seed",               REFUSE)  /* order of samples, dropout                               */ \
    X(DATA,               "data",               REFUSE)  /* kind, size, preparation, hash of the first labels       */ \
    X(GLOBAL_BATCH,       "global_batch_size",  REFUSE)  /* which samples a step takes                              */ \
    X(MICRO_BATCH,        "micro_batch_size",   EXACT)   /* sums inside a micro-batch, batch norm: other bits       */ \
    X(RATES,              "optimizer settings", TELL)    /* learning rate, decay, momentum, clipping                */ \
    X(SCHEDULE_OF_RATES,  "lr schedule",        TELL)                                                                  \
    X(TOTAL_STEPS,        "steps",              TELL)    /* a learning rate that falls to the end falls otherwise   */ \
    X(UPDATES,            "updates",            TELL)    /* synchronous, or how late they are                       */
/* clang-format on */
typedef enum dml_checkpoint_when {
    DML_CHECKPOINT_REFUSE, /* it is no checkpoint of this run: DML_ERR_SPEC */
    DML_CHECKPOINT_EXACT,  /* refused under numerics: exact and exact_wide, told under fast */
    DML_CHECKPOINT_TELL,   /* told, gone on with */
} dml_checkpoint_when;
typedef enum dml_checkpoint_key {
#define X(id, ...) DML_CHECKPOINT_##id,
    DML_CHECKPOINT_LIST(X)
#undef X
} dml_checkpoint_key;
#define X(...) +1
enum { DML_CHECKPOINT_KEYS = 0 DML_CHECKPOINT_LIST(X) };
#undef X

/* What a run is a run of, as text; compared with that of a checkpoint. */
typedef struct dml_checkpoint_identity {
    char value[DML_CHECKPOINT_KEYS][256];
} dml_checkpoint_identity;

/* Reads the labels of the first steps.  DML_ERR_DATA, DML_ERR_SPEC  as dml_data_open */
dml_err dml_checkpoint_identify(const dml_spec *spec, dml_checkpoint_identity *out);

/* What to write: a bank that is complete, and that nobody puts to until the call returns. */
typedef struct dml_checkpoint_job {
    const dml_spec *spec;
    const dml_checkpoint_identity *identity;
    const dml_depot *bank;
    uint64_t stamp;   /* that all of it carries, before and after */
    const char *plan; /* text of the plan it was trained under; "" is fine */
} dml_checkpoint_job;

/* Where checkpoints are kept, by one run at a time. */
typedef struct dml_checkpoint_folder {
    char path[4096];
    int fd; /* locked while open */
} dml_checkpoint_folder;

/* Makes the folder and those above it where needed, locks it, and removes what a broken save left.
 * DML_ERR_DATA  it cannot be made or written to, or another run saves there */
dml_err dml_checkpoint_open(const char *path, dml_checkpoint_folder *out);
void dml_checkpoint_close(dml_checkpoint_folder *f);

/* Writes and publishes one, then removes the oldest of those before it until `keep` are left.
 *   bytes  of its files
 * DML_ERR_DATA  the disk is full, read-only or fails: the text names file and call; what was there is untouched
 * DML_ERR_BUG   the bank is not complete, or was put to meanwhile */
dml_err dml_checkpoint_write(const dml_checkpoint_folder *f, const dml_checkpoint_job *job,
                             int32_t keep, int64_t *bytes);

/* Loads the checkpoint at `path` into a bank and marks it with stamp(generation, *step).
 *   told  [arena] "" or what differs and is gone on with, one line
 * DML_ERR_DATA  it is damaged: the text names file and place, the bank is not marked
 * DML_ERR_SPEC  it is another run's: says what differs, down to the tensor */
dml_err dml_checkpoint_load(const char *path, const dml_spec *spec,
                            const dml_checkpoint_identity *identity, dml_depot *bank,
                            uint32_t generation, dml_arena *arena, int64_t *step,
                            const char **told);

/* The newest one under `folder` that loads, older ones after those that are damaged.
 *   path  [arena] which; NULL: there is none
 *   told  [arena] the same, and each that was passed over, with the reason
 * DML_ERR_SPEC  the newest undamaged one is another run's */
dml_err dml_checkpoint_newest(const char *folder, const dml_spec *spec,
                              const dml_checkpoint_identity *identity, dml_depot *bank,
                              uint32_t generation, dml_arena *arena, int64_t *step,
                              const char **path, const char **told);

/* checkpoint.resume of the spec.
 *   step  0: the run begins from its start, and nothing was loaded: *path is NULL
 * DML_ERR_DATA  as above; resume: latest, and there is none that loads
 * DML_ERR_SPEC  as above; or the folder holds newer ones than the run begins with, which it would mix with its own */
dml_err dml_checkpoint_resume(const dml_spec *spec, const dml_checkpoint_identity *identity,
                              dml_depot *bank, dml_arena *arena, int64_t *step, const char **path,
                              const char **told);

/* Whether the run saves at all: an interval or a folder is given. */
bool dml_checkpoint_wanted(const dml_spec *spec);
/* Where: checkpoint.folder, or checkpoints in run.output_dir; the arena's. */
const char *dml_checkpoint_where(const dml_spec *spec, dml_arena *arena);

#endif
