/* kernels/cuda/numa.c - a GPU's PCI address -> its node's CPUs -> this thread's affinity.
 *
 *   /sys/bus/pci/devices/0000:1b:00.0/local_cpulist      "0-23,48-71"
 */
#include "kernels/cuda/numa.h"

#include <ctype.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

enum { LIST_BYTES = 4096 };

/* One "a" or "a-b" at *text, moved behind it and a comma. */
static bool next_range(const char **text, long *first, long *last)
{
    char *end;
    if (!isdigit((unsigned char)**text)) return false;
    *first = *last = strtol(*text, &end, 10);
    if (*end == '-') {
        if (!isdigit((unsigned char)end[1])) return false;
        *last = strtol(end + 1, &end, 10);
    }
    *text = *end == ',' ? end + 1 : end;
    return *first <= *last;
}

bool dml_numa_narrow(const char *list, cpu_set_t *cpus)
{
    cpu_set_t near;
    CPU_ZERO(&near);
    while (*list && *list != '\n') {
        long first, last;
        if (!next_range(&list, &first, &last)) return false;
        for (long cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
            CPU_SET((size_t)cpu, &near);
    }
    CPU_AND(&near, &near, cpus);
    if (CPU_COUNT(&near) == 0 || CPU_EQUAL(&near, cpus)) return false;
    *cpus = near;
    return true;
}

/* The list of CPUs near the PCI device; "" when the kernel does not say. */
static void read_list(const char *bus_id, char list[LIST_BYTES])
{
    char path[96];
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/local_cpulist", bus_id);
    for (char *c = path; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    list[0] = '\0';
    FILE *f = fopen(path, "re");
    if (!f) return;
    const size_t n = fread(list, 1, LIST_BYTES - 1, f);
    list[n] = '\0';
    fclose(f);
}

void dml_cuda_bind_near(int32_t index)
{
    char bus_id[32], list[LIST_BYTES];
    if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, index) != cudaSuccess) {
        cudaGetLastError(); /* no answer */
        return;
    }
    read_list(bus_id, list);
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0 && dml_numa_narrow(list, &cpus))
        (void)sched_setaffinity(0, sizeof cpus, &cpus); /* refused: stay where we are */
}
