/* comm/nccl/nccl.h - the transport between GPUs: NCCL behind comm/transport.h. */
#ifndef DML_COMM_NCCL_NCCL_H
#define DML_COMM_NCCL_NCCL_H

#include "comm/transport.h"

/* Exported by libdml_cuda.so.  config->fds[r] is a memfd of rank r, of one page that only this transport
 * writes (comm/nccl/id_page.h); ranks on other hosts need another carrier for these 128 bytes. */
extern const dml_transport_api dml_nccl_transport;

#endif
