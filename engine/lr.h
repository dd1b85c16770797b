/* engine/lr.h - the learning rate of each step.
 *
 * With peak = optimizer.lr, w = lr_scheduler.warmup_steps and T steps in all, step t (from 0) has
 *
 *   t < w      peak (t + 1) / w                        linear warm-up, whatever follows
 *   constant   peak
 *   step       peak gamma^floor(t / step_size)         PyTorch's StepLR, counted from step 0
 *   linear     peak + p (low - peak)                   p = (t - w) / (T - w),  low = min_lr_ratio peak
 *   cosine     low + (peak - low) (1 + cos(pi p)) / 2  Loshchilov and Hutter, SGDR, 2017, eq. 5
 */
#ifndef DML_ENGINE_LR_H
#define DML_ENGINE_LR_H

#include "engine/spec.h"

/* In double; the same bits on every worker of one build.  t >= T gives the value at T. */
double dml_lr_at(const dml_spec *spec, int64_t total_steps, int64_t step);

#endif
