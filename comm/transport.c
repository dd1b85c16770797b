/* comm/transport.c - the transports, by name. */
#include "comm/host.h"
#include "kernels/backend.h"

#include <string.h>

dml_err dml_transport_find(const char *name, const dml_transport_api **out)
{
    static const dml_transport_api *const here[] = {&dml_shm_transport, &dml_local_transport};
    for (size_t i = 0; i < sizeof here / sizeof *here; i++)
        if (strcmp(name, here[i]->name) == 0) {
            *out = here[i];
            return DML_ERR_OK;
        }
    if (strcmp(name, "nccl") != 0)
        DML_FAIL(DML_ERR_SPEC, "no transport '%s'; there are shm, local and nccl", name);
    char why[256];
    const dml_transport_api *nccl = dml_module_symbol("dml_nccl_transport", why, sizeof why);
    if (!nccl) DML_FAIL(DML_ERR_UNAVAILABLE, "transport 'nccl': %s", why);
    *out = nccl;
    return DML_ERR_OK;
}
