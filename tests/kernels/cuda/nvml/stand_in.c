/* tests/kernels/cuda/nvml/stand_in.c - a libnvidia-ml.so.1 that says what a file says.
 *
 * The environment variable NVML_STAND_IN names the file: lines of "BUS_ID XID", each an event of that device, told
 * once to every process that waits for it.  XID 0 stands for a wait that finds the GPU lost.
 */
#include "kernels/cuda/nvml.h"

#include "engine/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct nvmlDevice_st {
    char bus_id[32];
};

struct nvmlEventSet_st {
    dml_nvml_device *device;
    int told; /* lines of the file that were */
};

static int initialized;

#define X(member, symbol, args) int nvml_##member args __asm__(symbol);
DML_NVML_LIST(X)
#undef X
const char *nvmlErrorString(int status);

int nvml_init(void)
{
    initialized++;
    return getenv("NVML_STAND_IN") ? DML_NVML_SUCCESS : 9; /* driver not loaded */
}

int nvml_shutdown(void)
{
    initialized--;
    return DML_NVML_SUCCESS;
}

int nvml_find(const char *bus_id, dml_nvml_device **out)
{
    static dml_nvml_device device[8];
    static int n;
    if (initialized <= 0) return 1;
    *out = &device[n++ % 8];
    snprintf((*out)->bus_id, sizeof(*out)->bus_id, "%s", bus_id);
    return DML_NVML_SUCCESS;
}

int nvml_create(dml_nvml_events **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? DML_NVML_SUCCESS : 20;
}

int nvml_subscribe(dml_nvml_device *device, unsigned long long types, dml_nvml_events *events)
{
    if (types != DML_NVML_EVENT_XID) return 3; /* not supported */
    events->device = device;
    return DML_NVML_SUCCESS;
}

/* The Xid of the first line of this device that was not told yet; -1: there is none. */
static int newest(dml_nvml_events *events)
{
    FILE *f = fopen(getenv("NVML_STAND_IN"), "r");
    int line = 0, xid, found = -1;
    char bus_id[32];
    if (!f) return -1;
    while (found < 0 && fscanf(f, "%31s %d", bus_id, &xid) == 2)
        if (line++ >= events->told && strcmp(bus_id, events->device->bus_id) == 0) found = xid;
    events->told = line;
    fclose(f);
    return found;
}

int nvml_wait(dml_nvml_events *events, dml_nvml_event *out, unsigned ms)
{
    const int64_t deadline_ns = dml_clock_ns() + ms * DML_NS_PER_MS;
    do {
        const int xid = newest(events);
        if (xid == 0) return DML_NVML_GPU_IS_LOST;
        if (xid > 0) {
            *out = (dml_nvml_event){.device = events->device,
                                    .type = DML_NVML_EVENT_XID,
                                    .data = (unsigned long long)xid};
            return DML_NVML_SUCCESS;
        }
        dml_sleep_until_ns(dml_clock_ns() + DML_NS_PER_MS);
    } while (dml_clock_ns() < deadline_ns);
    return DML_NVML_TIMEOUT;
}

int nvml_destroy(dml_nvml_events *events)
{
    free(events);
    return DML_NVML_SUCCESS;
}

const char *nvmlErrorString(int status)
{
    return status == 9 ? "Driver Not Loaded" : "Unknown Error";
}
