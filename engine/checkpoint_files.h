/* engine/checkpoint_files.h - what the writing and the reading half of engine/checkpoint.h agree on.  Private to them. */
#ifndef DML_ENGINE_CHECKPOINT_FILES_H
#define DML_ENGINE_CHECKPOINT_FILES_H

#include "engine/checkpoint.h"
#include "engine/safetensors.h"

enum { DML_CKPT_FORMAT = 1, DML_CKPT_CHUNK = 4 << 20 };

/* clang-format off */
/*    id          name                                                       */
#define DML_CKPT_FILE_LIST(X)                                                  \
    X(MODEL,      "model.safetensors")                                         \
    X(OPTIMIZER,  "optimizer.safetensors")                                     \
    X(STATE,      "train_state.json")
/* clang-format on */
typedef enum dml_ckpt_file {
#define X(id, name) DML_CKPT_##id,
    DML_CKPT_FILE_LIST(X)
#undef X
} dml_ckpt_file;
#define X(...) +1
enum { DML_CKPT_FILES = 0 DML_CKPT_FILE_LIST(X) };
#undef X
#define DML_CKPT_MANIFEST "MANIFEST.json"
const char *dml_ckpt_file_name(dml_ckpt_file file);

/* ---- tensors: a file's, and where in a depot each lies ---- */

typedef struct dml_ckpt_tensors {
    dml_safetensors
        st;      /* as dml_st_layout takes it; tensors in the order of `data` once laid out */
    void **data; /* [st.n] */
} dml_ckpt_tensors;

/* What file MODEL or OPTIMIZER holds, laid out; `header` gets what comes before the data.  All the arena's. */
void dml_ckpt_tensors_of(const dml_spec *spec, const dml_depot *bank, dml_ckpt_file file,
                         dml_arena *arena, dml_ckpt_tensors *out, dml_str *header);

/* ---- the manifest ---- */

typedef struct dml_ckpt_entry {
    int64_t bytes;
    uint64_t *hash; /* [chunks] of DML_CKPT_CHUNK bytes, the last one of what is left */
} dml_ckpt_entry;

typedef struct dml_ckpt_manifest {
    int64_t step;
    dml_ckpt_entry file[DML_CKPT_FILES];
} dml_ckpt_manifest;

static inline int64_t dml_ckpt_chunks(int64_t bytes)
{
    return (bytes + DML_CKPT_CHUNK - 1) / DML_CKPT_CHUNK;
}

void dml_ckpt_manifest_print(const dml_ckpt_manifest *m, dml_str *out);
/* DML_ERR_DATA  "'<path>': ..." */
dml_err dml_ckpt_manifest_parse(const char *path, const char *text, int64_t bytes, dml_arena *arena,
                                dml_ckpt_manifest *out);

/* ---- train_state.json ---- */

typedef struct dml_ckpt_state {
    dml_depot_run run;
    dml_checkpoint_identity identity;
} dml_ckpt_state;

void dml_ckpt_state_print(const dml_checkpoint_job *job, dml_str *out);
/* DML_ERR_DATA  "'<path>': ..." */
dml_err dml_ckpt_state_parse(const char *path, const char *text, int64_t bytes,
                             dml_ckpt_state *out);
/* Refuses or tells.  *other_model: the model's hash differs, and nothing before it: the caller finds which tensor.
 * DML_ERR_SPEC  something else differs that must not */
dml_err dml_ckpt_state_compare(const char *path, const dml_ckpt_state *there,
                               const dml_checkpoint_identity *here, bool is_exact, dml_str *told,
                               bool *other_model);

/* ---- folders ---- */

/* "step-00000120" */
void dml_ckpt_step_name(int64_t step, char out[DML_CHECKPOINT_NAME]);
/* The steps of which there are folders, newest first; the arena's.  A folder that is not there has none.
 * DML_ERR_DATA  it cannot be read */
dml_err dml_ckpt_list(const char *folder, dml_arena *arena, int64_t **steps, int32_t *n);

#endif
