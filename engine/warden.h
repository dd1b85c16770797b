/* engine/warden.h - the worker's side of detection: it holds the beacon and beats.
 *
 *   main thread   exec, open (holds the beacon) ....... works ........ close (lets go: an orderly end)
 *   beat thread          beat   beat   beat   beat   beat   beat
 *
 * The beat thread does nothing else, and as far as the user may has the highest priority there is: what it says is
 * that the process is let run, not that it gets on (that is for op deadlines and for the deadlines of waits).
 */
#ifndef DML_ENGINE_WARDEN_H
#define DML_ENGINE_WARDEN_H

#include "engine/control.h"

#include <semaphore.h>

typedef struct dml_warden {
    dml_worker_page *page; /* borrowed until close */
    int64_t every_ns;
    pthread_t thread;
    sem_t end;
} dml_warden;

/* First thing in a worker process, on its main thread, which must live as long as the process.
 * DML_ERR_BUG          the rank's beacon is held already
 * DML_ERR_UNAVAILABLE  no thread for the heartbeat */
dml_err dml_warden_open(dml_control *control, int32_t rank, dml_warden *out);

/* On the thread that opened it, when all has been reported: from here on the process' exit status is what tells of it.
 * A worker that failed does not come here: its death announces it.  A zeroed one is fine. */
void dml_warden_close(dml_warden *warden);

#endif
