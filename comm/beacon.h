/* comm/beacon.h - a worker's death, announced by the kernel within milliseconds.
 *
 * The worker's main thread holds a robust process-shared mutex for life.  The kernel releases it while
 * the dying process leaves its memory map, before its pages are freed; a socket's end of file or a pidfd
 * comes only after them, about 100 ms later for each resident GB.  Ending without letting go announces
 * the same.
 *
 *   agent    init ------------------------- watch ...................... lost
 *   worker         exec, hold, works, works, SIGKILL
 */
#ifndef DML_COMM_BEACON_H
#define DML_COMM_BEACON_H

#include "engine/base/err.h"
#include "engine/base/wait.h"

#include <pthread.h>
#include <stdbool.h>

/* Lies in memory that agent and worker share (a control page). */
typedef struct dml_beacon {
    pthread_mutex_t alive;
    _Atomic uint32_t held; /* 1 from `hold` on, 2 from `release` on */
} dml_beacon;

typedef enum dml_life {
    DML_LIFE_ON,   /* held, or not held yet */
    DML_LIFE_LEFT, /* let go in order */
    DML_LIFE_LOST, /* the holder is dead */
} dml_life;

/* By the agent, before the worker starts; a page may be initialised anew for the next worker. */
dml_err dml_beacon_init(dml_beacon *beacon);

/* By the main thread of the worker, after exec (which drops robust mutexes), once.
 * DML_ERR_BUG  it is held already */
dml_err dml_beacon_hold(dml_beacon *beacon);

/* By the same thread, at its orderly end: from here on its death is not announced. */
void dml_beacon_release(dml_beacon *beacon);

/* Blocks until the holder is dead or has let go, or the deadline (dml_clock_ns) passed (DML_LIFE_ON).  Any
 * number of threads may watch: one is told at once, the others within 100 ms; later watches say the same
 * at once.  A worker that dies before `hold` is not seen: until then the parent's wait for the
 * process is what tells.
 *
 * DML_ERR_BUG  the holder let it go otherwise */
dml_err dml_beacon_watch(dml_beacon *beacon, int64_t deadline_ns, dml_life *out);

#endif
