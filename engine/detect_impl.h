/* engine/detect_impl.h - what detect.c and detect_look.c share. */
#ifndef DML_ENGINE_DETECT_IMPL_H
#define DML_ENGINE_DETECT_IMPL_H

#include "engine/detect.h"

/* How long something has been going on, less what of that time this process did not run. */
typedef struct dml_span {
    int64_t begin_ns; /* 0: nothing is */
    int64_t late_ns;  /* of dml_detect, when it began */
} dml_span;

/* A worker's compute time since some step. */
typedef struct dml_pace_mark {
    int64_t step, worked_ns; /* of its page */
} dml_pace_mark;

typedef struct dml_watched {
    /* its thread's, and for it */
    dml_worker_page *page;
    int fd;
    _Atomic bool ends;
    _Atomic int64_t died_ns; /* 0: it lives */
    pthread_t thread;
    bool runs; /* there is a thread to join; somebody is expected, or there */
    /* the looks' */
    bool is_lost; /* told */
    dml_span beat, op;
    /* stragglers */
    int32_t group, share; /* of the plan: first worker that holds the same; forwards of a step */
    dml_pace_mark mark;
    int64_t slow_steps; /* in a row */
    bool is_slow;       /* told */
} dml_watched;

struct dml_detect {
    dml_control *control; /* borrowed */
    int32_t workers;
    int64_t heartbeat_ns, limit_ns;
    int fd;
    int64_t due_ns;  /* of the next look; 0: there was none */
    int64_t late_ns; /* by which all looks together came after they were due */
    dml_watched worker[DML_HOST_WORKERS];
};

/* State of a thread as in /proc/TID/stat: 'R' 'S' 'D' 'T' 't' ...; 0: there is none. */
char dml_thread_state(int32_t tid);

/* ---- detect_pace.c ---- */

/* A straggler that has not been named yet. */
bool dml_detect_straggler(dml_detect *d, dml_sign *out);

#endif
