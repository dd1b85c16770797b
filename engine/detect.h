/* engine/detect.h - who is dead, who stands still, who is slow: the agent's side.
 *
 *   beacon      the kernel lets go of a dying worker's robust mutex DIED    at once, however large it is
 *   heartbeat   older than the limit, and the process is stopped    SILENT  limit after its last beat
 *   op          a compute op runs for max(2 s, 20 x its median)     STUCK
 *   work        1.5 x its peers' compute time for 20 steps          SLOW    a note, nobody dies
 *
 * Nobody is accused for time in which this process did not run itself.  Each look knows when it was due; what it comes
 * late is nobody's silence:
 *
 *   agent     look ........ due |~~~~ stopped, or starved ~~~~| look      late = look - due
 *   worker    beat  beat        (^Z stops it too)               beat      silence = now - beat - late
 *
 * And a heartbeat thread that is ready to run, but is not let, is starved, not stopped: it has 20 times the limit.
 * Looking is pure in the time it is given; only beacons have threads here, one each, asleep in the kernel.
 */
#ifndef DML_ENGINE_DETECT_H
#define DML_ENGINE_DETECT_H

#include "engine/control.h"
#include "engine/plan.h"

enum { DML_DETECT_TEXT = 192 };

/* clang-format off */
/*    kind     text           loss?   meaning                                                          */
#define DML_SIGN_LIST(X)                                                                                  \
    X(DIED,    "beacon",      true)  /* its process is dead or dying; it may not have been reaped yet */  \
    X(SILENT,  "heartbeat",   true)  /* stopped, or out of time for too long: to be killed            */  \
    X(STUCK,   "op deadline", true)  /* its compute op does not end: to be killed                     */  \
    X(SLOW,    "step times",  false) /* a straggler                                                   */
/* clang-format on */
typedef enum dml_sign_kind {
#define X(kind, ...) DML_SIGN_##kind,
    DML_SIGN_LIST(X)
#undef X
} dml_sign_kind;

/* What `detected_by` of a failure record says. */
const char *dml_sign_name(dml_sign_kind kind);
/* Whether the worker is to be killed and counted lost. */
bool dml_sign_is_loss(dml_sign_kind kind);

typedef struct dml_sign {
    dml_sign_kind kind;
    int32_t rank;
    int64_t fault_ns; /* earliest that it can have happened; 0: not known */
    int64_t seen_ns;  /* when it was noticed here */
    char text[DML_DETECT_TEXT];
} dml_sign;

typedef struct dml_detect dml_detect;

typedef struct dml_detect_config {
    dml_control *control; /* borrowed; its heartbeat_ns is set here */
    int32_t workers;
    int64_t heartbeat_ns; /* failures.heartbeat */
    int64_t limit_ns;     /* failures.heartbeat_timeout; 0: chosen, see dml_detect_limit */
    int32_t cores;        /* that this process may run on; 0: counted */
} dml_detect_config;

/* 350 ms, or 1 s where workers outnumber cores, and at least 3.5 heartbeats. */
int64_t dml_detect_limit(int32_t workers, int32_t cores, int64_t heartbeat_ns);

/* Before the first worker is started.  DML_ERR_UNAVAILABLE  no eventfd */
dml_err dml_detect_open(const dml_detect_config *config, dml_detect **out);
void dml_detect_close(dml_detect *d); /* NULL is fine */

/* Before a process is started for `rank`, the first or the next one: its beacon and vital signs are new, then watched.
 * The one before has ended.
 * DML_ERR_UNAVAILABLE  no thread, no robust mutex */
dml_err dml_detect_expect(dml_detect *d, int32_t rank);
/* For a process that lives already: after the agent itself was started again. */
dml_err dml_detect_resume(dml_detect *d, int32_t rank);
/* Its process has ended: nothing is said of it any more. */
void dml_detect_forget(dml_detect *d, int32_t rank);

/* Who is to be compared with whom, from here on: holders of the same stages, by micro-batch. */
void dml_detect_plan(dml_detect *d, const dml_plan *plan);

/* Readable as soon as a beacon tells; for poll. */
int dml_detect_fd(const dml_detect *d);
/* When dml_detect_next is to be called again at the latest, on dml_clock_ns. */
int64_t dml_detect_due_ns(const dml_detect *d);
/* The next sign that has not been told, until false.  Call it in a loop whenever the descriptor is readable or it is due;
 * more often does no harm.  Of a worker one loss is told, then nothing until expect. */
bool dml_detect_next(dml_detect *d, int64_t now_ns, dml_sign *out);

#endif
