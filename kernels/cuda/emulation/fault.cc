/* kernels/cuda/emulation/fault.cc - faults that were found, and faults on purpose. */
#include "kernels/cuda/emulation/fault.h"

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/emulation/host_step.h"
#include "kernels/cuda/emulation/stream.h"

#include <set>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace emu
{
/* ---- found ---- */

enum { KEPT = 16, TEXT_BYTES = 320 };
static char kept[KEPT][TEXT_BYTES];
static int32_t faults;

/* The device is unusable from now on, as after any fault of a kernel. */
void fault(const char *fmt, ...)
{
    if (faults < KEPT) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(kept[faults], TEXT_BYTES, fmt, ap);
        va_end(ap);
    }
    faults++;
    if (sticky == cudaSuccess) sticky = cudaErrorLaunchFailure;
}

/* ---- on purpose ---- */

static struct {
    int device;   /* calls count while this is the thread's; -1: any */
    int64_t site; /* which place in the code, by first visit, from 1; 0: none fails */
    bool hangs;
} plan;
static std::set<void *> sites;
static const char *struck; /* the call that was made to fail */

__attribute__((constructor)) static void read_plan()
{
    const char *text = getenv("DML_EMULATED_FAIL");
    if (!text) return;
    char *end;
    plan.device = static_cast<int>(strtol(text, &end, 10));
    plan.site = *end == ':' ? strtoll(end + 1, &end, 10) : 0;
    plan.hangs = strcmp(end, ":hang") == 0;
}

bool hangs_on_purpose()
{
    return struck && plan.hangs;
}

verdict judge_at(const char *call, void *site, bool can_hang)
{
    EMU_HOLD();
    if (plan.site == 0 || struck || (plan.hangs && !can_hang)) return verdict::go;
    if (plan.device >= 0 && plan.device != current_device) return verdict::go;
    if (!sites.insert(site).second) return verdict::go;
    if (static_cast<int64_t>(sites.size()) != plan.site) return verdict::go;
    struck = call;
    fprintf(stderr, "emulated-cuda: %s of device %d %s on purpose\n", call, current_device,
            plan.hangs ? "hangs" : "fails");
    return plan.hangs ? verdict::hang : verdict::fail;
}
} // namespace emu

int dml_emu_judge(const char *call, void *site)
{
    return static_cast<int>(emu::judge_at(call, site, false));
}

void dml_emu_fail(int32_t device, int64_t site, bool hang)
{
    EMU_HOLD();
    emu::plan = {device, site, hang};
    emu::sites.clear();
    emu::struck = nullptr;
}

const char *dml_emu_failed(void)
{
    return emu::struck ? emu::struck : "";
}

int32_t dml_emu_faults(void)
{
    return emu::faults;
}

const char *dml_emu_fault(int32_t i)
{
    return i >= 0 && i < emu::KEPT && i < emu::faults ? emu::kept[i] : "";
}

void dml_emu_clear(void)
{
    EMU_HOLD();
    emu::drop_steps();
    emu::faults = 0;
    emu::sticky = emu::last_error = cudaSuccess;
}

void dml_emu_reset(void)
{
    EMU_HOLD();
    dml_emu_clear();
    emu::drop_handles();
    emu::memory_free_all();
}
