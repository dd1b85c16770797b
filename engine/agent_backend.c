/* engine/agent_backend.c - which backend runs the plan, and with how many threads. */
#include "engine/agent.h"

#include <hwloc.h>
#include <stdio.h>
#include <string.h>

/* The backend called `name`, if it can run the plan; the trail says why not. */
static dml_err find(const dml_plan *plan, const char *name, const dml_backend **out)
{
    DML_TRY(dml_backend_find(name, out));
    char why[256] = "";
    const int32_t devices = (*out)->device->count(why, sizeof why);
    if (devices == 0) DML_FAIL(DML_ERR_UNAVAILABLE, "%s: no device: %s", name, why);
    const int32_t per_device = plan->spec->parallelism.workers_per_device;
    if (!(*out)->on_host && (int64_t)devices * per_device < plan->workers)
        DML_FAIL(DML_ERR_UNAVAILABLE,
                 "%s: %d device%s for %d workers; parallelism.workers_per_device, now %d, lets "
                 "several share one",
                 name, devices, devices == 1 ? "" : "s", plan->workers, per_device);
    if (!(*out)->on_host && plan->updates > 1 && plan->train.votes)
        DML_FAIL(DML_ERR_UNAVAILABLE,
                 "%s: the host reads every vote, and a GPU's queues do not wait for it in the "
                 "middle of a "
                 "segment; schedule %s runs there without %s",
                 name, plan->spec->parallelism.schedule,
                 plan->spec->parallelism.vertical_sync ? "parallelism.vertical_sync"
                                                       : "training.grad_clip");
    return dml_model_check_kernels(&plan->model, (*out)->kernels, name);
}

/* The first line of the trail, without where in our sources it was written. */
static void explain(char *why, int64_t why_bytes)
{
    const char *text = dml_err_trail(), *at = strstr(text, ": ");
    if (at && strstr(text, ".c:") && strstr(text, ".c:") < at) text = at + 2;
    snprintf(why, (size_t)why_bytes, "%.*s", (int)strcspn(text, "\n"), text);
}

dml_err dml_agent_backend(const dml_plan *plan, const dml_backend **out, char *why,
                          int64_t why_bytes)
{
    const char *name = plan->spec->parallelism.backend;
    why[0] = '\0';
    if (strcmp(name, "auto") != 0) return find(plan, name, out);
    int32_t n;
    const char *const *names = dml_backend_auto(&n);
    for (int32_t i = 0; i + 1 < n; i++) {
        if (find(plan, names[i], out) == DML_ERR_OK) return DML_ERR_OK;
        if (why[0] == '\0') explain(why, why_bytes); /* why not the best one */
    }
    return find(plan, names[n - 1], out);
}

static int32_t cores(void)
{
    hwloc_topology_t topology;
    int n = 0;
    if (hwloc_topology_init(&topology) == 0) {
        if (hwloc_topology_load(topology) == 0)
            n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
        hwloc_topology_destroy(topology);
    }
    return n > 0 ? n : 1;
}

int32_t dml_agent_threads(const dml_spec *spec, int32_t workers)
{
    const int32_t asked = spec->parallelism.threads_per_worker;
    if (asked > 0) return asked;
    const int32_t share = cores() / workers;
    return share > 0 ? share : 1;
}
