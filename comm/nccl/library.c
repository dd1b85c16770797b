/* comm/nccl/library.c - one module for every NCCL from 2.18 on: newer calls are looked for when it runs.
 *
 *   2.18     the oldest: what it lacks before are non-blocking communicators that work
 *   2.22     ncclCommAbort and ncclCommDestroy of several communicators inside one group
 *   2.28.7   ncclCommRevoke
 *
 * ncclCommRevoke is a weak reference: where the library has none, its address is NULL and the module loads all
 * the same.
 *
 * Several ranks on one GPU (tests, small machines): NCCL refuses two ranks of one host on one device.  So ranks that
 * share a GPU say they are on different hosts, by NCCL_HOSTID, and their data goes through the network transport,
 * over the loopback interface; ranks on different GPUs with the same place on theirs still see each other.
 */
#include "comm/nccl/library.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

ncclResult_t ncclCommRevoke(ncclComm_t comm, int flags) __attribute__((weak));

typedef struct version {
    int major, minor, patch;
} version;

/* NCCL's own coding, which changed with 2.9: 2804 is 2.8.4, 22809 is 2.28.9. */
static ncclResult_t loaded_version(version *out)
{
    int code = 0;
    const ncclResult_t status = ncclGetVersion(&code);
    const int unit = code < 10000 ? 1000 : 10000;
    *out = (version){code / unit, code % unit / 100, code % 100};
    return status;
}

static bool is_at_least(version v, int minor, int patch)
{
    return v.major > 2 ||
           (v.major == 2 && (v.minor > minor || (v.minor == minor && v.patch >= patch)));
}

static void name_of(version v, char *out, size_t bytes)
{
    snprintf(out, bytes, "NCCL %d.%d.%d", v.major, v.minor, v.patch);
}

const char *dml_nccl_library_name(void)
{
    static _Thread_local char name[24];
    version v;
    loaded_version(&v);
    name_of(v, name, sizeof name);
    return name;
}

dml_err dml_nccl_library_find(dml_nccl_library *out)
{
    version v;
    const ncclResult_t status = loaded_version(&v);
    if (status != ncclSuccess)
        DML_FAIL(DML_ERR_UNAVAILABLE, "ncclGetVersion: %s", ncclGetErrorString(status));
    dml_nccl_library found = {.ends_in_group = is_at_least(v, 22, 0),
                              .revoke = is_at_least(v, 28, 7) ? ncclCommRevoke : NULL};
    name_of(v, found.name, sizeof found.name);
    if (!is_at_least(v, 18, 0))
        DML_FAIL(DML_ERR_UNAVAILABLE, "%s was loaded, and 2.18 is the oldest that will do",
                 found.name);
    *out = found;
    return DML_ERR_OK;
}

void dml_nccl_configure(const dml_transport_config *config)
{
    const bool shared = config->ranks_per_device > 1;
    const char *const nvls[] = {
        [DML_NVLS_AUTO] = shared ? "0" : NULL, [DML_NVLS_ON] = "1", [DML_NVLS_OFF] = "0"};
    if (nvls[config->nvls]) setenv("NCCL_NVLS_ENABLE", nvls[config->nvls], 1);
    if (!shared) return;
    char host[64] = "", id[96];
    gethostname(host, sizeof host - 1);
    snprintf(id, sizeof id, "%s-%d", host, config->rank % config->ranks_per_device);
    setenv("NCCL_HOSTID", id, 0);
    setenv("NCCL_MNNVL_ENABLE", "0", 0); /* else the GPU itself says which ranks are near */
    setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0); /* from 2.30.3 on asked for too */
}
