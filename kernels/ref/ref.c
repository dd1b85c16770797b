/* kernels/ref/ref.c - the reference backend's table and context.  It makes no plans, so sealing
 * changes nothing, and its context holds what a step is told. */
#include "kernels/ref/ref.h"

#include "engine/base/clock.h"

#include <stdlib.h>

struct dml_kctx {
    dml_step_words words;
};

static dml_err open_context(dml_device *device, dml_queue *queue, const dml_kctx_config *config,
                            dml_kctx **out)
{
    (void)device;
    (void)queue;
    (void)config;
    dml_kctx *k = calloc(1, sizeof *k);
    if (!k) DML_FAIL(DML_ERR_NOMEM, "no memory for a kernel context");
    k->words.loss_scale = 1.0f;
    *out = k;
    return DML_ERR_OK;
}

static void close_context(dml_kctx *k)
{
    free(k);
}

static void nothing(dml_kctx *k)
{
    (void)k;
}

static dml_err begin_step(dml_kctx *k, const dml_step_words *words)
{
    k->words = *words;
    return DML_ERR_OK;
}

dml_step_words dml_ref_step(const dml_kctx *k)
{
    return k ? k->words : (dml_step_words){.loss_scale = 1.0f};
}

dml_err dml_ref_delay(dml_kctx *k, int64_t ns)
{
    dml_sleep_until_ns(dml_clock_ns() + dml_paced_ns(ns, dml_ref_step(k).pace));
    return DML_ERR_OK;
}

const dml_kernel_table dml_ref_kernels = {.open = open_context,
                                          .close = close_context,
                                          .weights_changed = nothing,
                                          .seal = nothing,
                                          .begin_step = begin_step,
#define X(name, args) .name = dml_ref_##name,
                                          DML_KERNEL_LIST(X)
#undef X
};
