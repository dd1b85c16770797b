/* engine/saver.h - checkpoints are written by a thread of the agent, from a bank, while training goes on.
 *
 *   agent    snapshot complete: bank b ... start(b) ............... done: unpin b, a line on the console
 *   thread                                  write, fsync, publish
 *   workers  ------------- train, train, train; a put goes to the other bank ----------------------->
 *
 * A save that fails is told and forgotten: the one before is still there, and the next is begun anew.
 */
#ifndef DML_ENGINE_SAVER_H
#define DML_ENGINE_SAVER_H

#include "engine/checkpoint.h"

typedef struct dml_saver dml_saver;

typedef struct dml_saved {
    dml_err err;   /* DML_ERR_OK: it is published */
    int64_t step;  /* committed in it */
    int32_t bank;  /* as start said */
    int64_t bytes; /* of its files */
    int64_t wall_ns;
    char text[2048]; /* its folder, or the error's trail */
} dml_saved;

/* Opens the folder (checkpoint.h) and starts the thread.  Borrows all until close.
 * DML_ERR_DATA  as dml_checkpoint_open;  DML_ERR_UNAVAILABLE  no thread */
dml_err dml_saver_open(const dml_spec *spec, const dml_checkpoint_identity *identity,
                       const char *folder, dml_saver **out);
/* Waits for the save under way.  NULL is fine. */
void dml_saver_close(dml_saver *s);

/* True from start until dml_saver_take gave its result. */
bool dml_saver_is_busy(const dml_saver *s);
/* Returns at once; the caller keeps everyone from putting to the bank until the result is there.  Not while busy.
 *   bank   which, for the result
 *   stamp  that all of `depot` carries
 *   plan   text, copied */
void dml_saver_start(dml_saver *s, int32_t bank, const dml_depot *depot, uint64_t stamp,
                     const char *plan);

/* Readable when there is a result. */
int dml_saver_fd(const dml_saver *s);
/* False: there is none. */
bool dml_saver_take(dml_saver *s, dml_saved *out);

#endif
