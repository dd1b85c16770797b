/* engine/health.c - from the driver's events to reports. */
#include "engine/health.h"

#include "engine/base/log.h"

#include <stdio.h>
#include <unistd.h>

static void leave(const dml_health *h, const dml_news *news)
{
    dml_report r = {.kind = DML_REPORT_SUSPECT, .rank = h->rank, .suspect = {.rank = h->rank}};
    snprintf(r.suspect.why, sizeof r.suspect.why, "%s", news->text);
    h->reporter.put(h->reporter.context, &r);
}

/* On the watch's thread. */
static void take(void *context, const dml_news *news)
{
    const dml_health *h = context;
    switch (news->kind) {
    case DML_NEWS_LINK: leave(h, news); return;
    case DML_NEWS_LOST: break;
    }
    const dml_err err = dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "%s", news->text);
    dml_report_failure(&h->reporter, h->rank, err);
    _exit(dml_err_exit_code(err));
}

void dml_health_open(const dml_backend *backend, int32_t index, int32_t rank,
                     const dml_reporter *reporter, dml_health *out)
{
    *out = (dml_health){.backend = backend, .rank = rank, .reporter = *reporter};
    if (!backend->device->watch) return;
    if (backend->device->watch(index, take, out, &out->watch) == DML_ERR_OK) return;
    dml_log(DML_LOG_DEBUG, "health", "device %d is not watched: %s", index, dml_err_trail());
}

void dml_health_close(dml_health *health)
{
    if (health->watch) health->backend->device->unwatch(health->watch);
    *health = (dml_health){0};
}
