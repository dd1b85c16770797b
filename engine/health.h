/* engine/health.h - what the driver says of a worker's device ends the worker, or has it handed over.
 *
 *   the device is lost   FAIL with DML_ERR_UNAVAILABLE and the driver's words, and the process ends at once: nothing may
 *                        be asked of such a device, and a call into it may never return
 *   a link of it is      SUSPECT of this worker itself: it leaves after the step, as an unhealthy one does
 *
 * For worker processes: threads share what ends here.
 */
#ifndef DML_ENGINE_HEALTH_H
#define DML_ENGINE_HEALTH_H

#include "engine/control.h"
#include "kernels/backend.h"

typedef struct dml_health {
    const dml_backend *backend; /* borrowed until close */
    int32_t rank;
    dml_reporter reporter;
    dml_watch *watch; /* NULL: nobody says anything of such a device, or not on this machine */
} dml_health;

/* Watches device `index` from now on.  A driver that tells nothing is noted in the log and no error. */
void dml_health_open(const dml_backend *backend, int32_t index, int32_t rank,
                     const dml_reporter *reporter, dml_health *out);

/* A zeroed one is fine. */
void dml_health_close(dml_health *health);

#endif
