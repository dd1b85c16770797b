/* comm/nccl/library.h - which NCCL was loaded, what it can do, and what it must be told beforehand. */
#ifndef DML_COMM_NCCL_LIBRARY_H
#define DML_COMM_NCCL_LIBRARY_H

#include "comm/transport.h"

#include <nccl.h>

typedef struct dml_nccl_library {
    char name[24];      /* "NCCL 2.28.9" */
    bool ends_in_group; /* several communicators may be aborted or destroyed in one group: 2.22 */
    ncclResult_t (*revoke)(ncclComm_t comm, int flags); /* NULL before 2.28.7 */
} dml_nccl_library;

/* DML_ERR_UNAVAILABLE  older than 2.18 */
dml_err dml_nccl_library_find(dml_nccl_library *out);

/* "NCCL 2.28.9", whatever its age; valid until this thread asks again. */
const char *dml_nccl_library_name(void);

/* Sets what NCCL reads from the environment when its first communicator is made; a user's own settings stay,
 * but for what the spec decides.  Call it before, while no other thread reads the environment. */
void dml_nccl_configure(const dml_transport_config *config);

#endif
