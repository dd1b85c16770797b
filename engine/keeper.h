/* engine/keeper.h - when checkpoints are taken, and what a run begins with: between the recovery, which has snapshots
 * taken, and the saver, which writes them.
 *
 *   step k n - 1 reported: dml_recovery_snapshot ...... SNAPSHOT event: bank pinned, saver writes ...... take: unpinned
 *
 * A snapshot lands after the step under way when it is asked for, so one is asked for a step before it is due.  The agent
 * and tests/support/run_threads.c use it alike.
 */
#ifndef DML_ENGINE_KEEPER_H
#define DML_ENGINE_KEEPER_H

#include "engine/recovery.h"
#include "engine/saver.h"

typedef struct dml_keeper dml_keeper;

typedef struct dml_keeper_config {
    const dml_plan *plan; /* the first, with its spec; borrowed */
    int plan_fd;          /* text of the newest plan, kept with each checkpoint; -1: none */
    dml_control *control; /* borrowed */
    dml_depot *bank[2];   /* borrowed */
    bool
        again; /* for an agent that was started again: the banks hold the run's state, nothing is resumed */
    /* A line for people and metrics: what was saved, or why not. */
    void (*note)(void *context, bool failed, const char *text);
    void *context;
} dml_keeper_config;

/* Before any worker starts: does what checkpoint.resume says, into bank 0, and opens the saver where
 * the spec saves.
 *   step  after which the run begins; 0: from its start
 * DML_ERR_DATA, DML_ERR_SPEC  as dml_checkpoint_resume and dml_saver_open */
dml_err dml_keeper_open(const dml_keeper_config *config, dml_keeper **out, int64_t *step);
/* What of it goes into the logbook; and when that was read: writes again what was being written.  Publication is atomic, so
 * that it was broken off, or was not, makes no difference. */
dml_logbook_part dml_keeper_part(dml_keeper *k);
void dml_keeper_again(dml_keeper *k);
/* Waits for what is being written, and takes it.  NULL is fine. */
void dml_keeper_close(dml_keeper *k);

/* A step was reported: a snapshot is asked for when one is due. */
void dml_keeper_step(dml_keeper *k, dml_recovery *r, int64_t step);
/* DML_RECOVERY_SNAPSHOT. */
void dml_keeper_snapshot(dml_keeper *k, dml_recovery *r, const dml_recovery_event *e);
/* DML_RECOVERY_FAILED: none will come.  The next step asks again; a run that is to end does so without. */
void dml_keeper_no_snapshot(dml_keeper *k);
/* dml_recovery_config.last, with a keeper: a run that came to its end saves its last step, unless it has. */
bool dml_keeper_wants_last(dml_keeper *k, int64_t step);
/* Readable when something is written; -1: nothing ever is. */
int dml_keeper_fd(const dml_keeper *k);
void dml_keeper_take(dml_keeper *k, dml_recovery *r);

/* One is to be saved now, whenever the next is due.  False: the run saves none. */
bool dml_keeper_want(dml_keeper *k, dml_recovery *r);

/* The run is to end: saves first, and then raises control->stop.  Without a saver: raises it.
 * True: it saves. */
bool dml_keeper_stop(dml_keeper *k, dml_recovery *r);
/* After dml_keeper_finish: what dml_keeper_stop wanted is published. */
bool dml_keeper_is_saved(const dml_keeper *k);
/* All workers have ended: waits for what is being written, and takes it. */
void dml_keeper_finish(dml_keeper *k);

/* dml_recovery_config.restore, with a keeper. */
bool dml_keeper_restore(dml_keeper *k, dml_depot *bank, uint32_t generation, int64_t *step);

#endif
