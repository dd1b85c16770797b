/* engine/launch_impl.h - what agent and supervisor say to each other beside events. */
#ifndef DML_ENGINE_LAUNCH_IMPL_H
#define DML_ENGINE_LAUNCH_IMPL_H

#include "engine/launch.h"

#include <stddef.h>

/* The agent's; RECALL is also its own answer. */
typedef struct dml_launch_request {
    enum {
        DML_LAUNCH_START,
        DML_LAUNCH_KILL,
        DML_LAUNCH_KILL_ALL,
        DML_LAUNCH_KEEP,
        DML_LAUNCH_RECALL,
        DML_LAUNCH_RESUME
    } kind;
    int32_t rank; /* KEEP, RECALL: the slot */
} dml_launch_request;

/* One message with descriptors; false: errno says why. */
bool dml_launch_put(int socket, const void *message, size_t bytes, const int *fds, int n_fds);
/* *n < 0: some descriptors did not fit under this process' limit, and none is there. */
bool dml_launch_get(int socket, void *message, size_t bytes, int fds[DML_LAUNCH_FDS], int *n);

#endif
