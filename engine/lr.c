/* engine/lr.c - closed forms, nothing carried from step to step: a redo or a resume needs no state. */
#include "engine/lr.h"

#include <math.h>

/* Part of the way from the end of warm-up to the end of the run, 0 .. 1. */
static double progress(const dml_spec *spec, int64_t total_steps, int64_t step)
{
    const int64_t warmup = spec->lr_scheduler.warmup_steps;
    if (step >= total_steps) return 1.0;
    return (double)(step - warmup) / (double)(total_steps - warmup);
}

double dml_lr_at(const dml_spec *spec, int64_t total_steps, int64_t step)
{
    const double peak = (double)spec->optimizer.lr;
    const double low = peak * (double)spec->lr_scheduler.min_lr_ratio;
    const int64_t warmup = spec->lr_scheduler.warmup_steps;
    if (step < warmup) return peak * (double)(step + 1) / (double)warmup;
    switch (spec->lr_scheduler.name) {
    case DML_LR_CONSTANT: return peak;
    case DML_LR_STEP: {
        DML_ASSERT_OP(spec->lr_scheduler.step_size, >, 0);
        const int64_t drops = step / spec->lr_scheduler.step_size;
        return peak * pow((double)spec->lr_scheduler.gamma, (double)drops);
    }
    case DML_LR_LINEAR: return peak + progress(spec, total_steps, step) * (low - peak);
    case DML_LR_COSINE: {
        const double p = progress(spec, total_steps, step);
        return low + (peak - low) * 0.5 * (1.0 + cos(3.14159265358979323846 * p));
    }
    }
    dml_assert_failed("a known learning rate schedule", spec->lr_scheduler.name, 0, __FILE__,
                      __LINE__);
}
