/* tests/kernels/conform.c - runs problems on a backend and on the reference, and compares. */
#include "tests/kernels/conform.h"

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "kernels/ref/ref.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, GUARD_BYTE = 0xa5, SHOWN_FAILURES = 20 };

void dml_conform_fail(dml_conform_env *env, const dml_problem *p, const char *fmt, ...)
{
    if (env->failures++ >= SHOWN_FAILURES) return;
    printf("%s: ", env->backend->name);
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n    %s\n", dml_problem_text(p));
}

dml_err dml_conform_open(dml_conform_env *env, const dml_backend *b, int32_t threads,
                         bool deterministic)
{
    return dml_conform_open_at(env, b, 0, threads, deterministic);
}

dml_err dml_conform_open_at(dml_conform_env *env, const dml_backend *b, int32_t index,
                            int32_t threads, bool deterministic)
{
    *env = (dml_conform_env){.backend = b};
    const dml_device_config device = {.index = index, .threads = threads, .queue_capacity = 64};
    const dml_kctx_config config = {.threads = threads, .deterministic = deterministic};
    DML_TRY(b->device->open(&device, &env->device));
    dml_err err = b->device->queue_open(env->device, "conform", &env->queue);
    if (err != DML_ERR_OK) goto fail_queue;
    err = b->kernels->open(env->device, env->queue, &config, &env->k);
    if (err != DML_ERR_OK) goto fail_kernels;
    return DML_ERR_OK;
fail_kernels:
    b->device->queue_close(env->queue);
fail_queue:
    b->device->close(env->device);
    return err;
}

void dml_conform_close(dml_conform_env *env)
{
    env->backend->kernels->close(env->k);
    env->backend->device->queue_close(env->queue);
    env->backend->device->close(env->device);
}

/* --- running ----------------------------------------------------------------------------------- */

/* A problem's tensors on the device, each between two guards. */
typedef struct placed {
    dml_conform_env *env;
    dml_problem *p;
    unsigned char *image[DML_PROBLEM_ARGS]; /* host: guard, data, guard; owned */
    void *memory[DML_PROBLEM_ARGS];         /* device, of the same bytes; owned */
    dml_tensor tensor[DML_PROBLEM_ARGS];
} placed;

static int64_t image_bytes(const dml_problem_arg *a)
{
    return dml_tensor_bytes(&a->host) + 2 * GUARD;
}

static dml_err wait_for(dml_conform_env *env)
{
    return env->backend->device->sync(env->queue, dml_clock_ns() + 60 * DML_NS_PER_S);
}

static dml_err place(placed *s, bool in_place)
{
    const dml_device_api *device = s->env->backend->device;
    for (int32_t i = 0; i < s->p->n_args; i++) {
        const dml_problem_arg *a = &s->p->arg[i];
        s->tensor[i] = a->host;
        s->image[i] = malloc((size_t)image_bytes(a));
        DML_ASSERT(s->image[i]);
        memset(s->image[i], GUARD_BYTE, (size_t)image_bytes(a));
        memcpy(s->image[i] + GUARD, a->host.data, (size_t)dml_tensor_bytes(&a->host));
        DML_TRY(device->alloc(s->env->device, image_bytes(a), &s->memory[i]));
        DML_TRY(device->copy(s->env->queue, s->memory[i], s->image[i], image_bytes(a)));
        s->tensor[i].data = (char *)s->memory[i] + GUARD;
    }
    for (int32_t i = 0; i < s->p->n_args && in_place; i++)
        if (s->p->arg[i].same_as >= 0) s->tensor[i].data = s->tensor[s->p->arg[i].same_as].data;
    return wait_for(s->env);
}

static dml_err run_job(void *arg)
{
    const placed *s = arg;
    const dml_kernel_table *table = s->env->backend->kernels;
    table->weights_changed(s->env->k); /* other weights may lie where the last problem's were */
    DML_TRY(table->begin_step(s->env->k, &s->p->words));
    return s->p->call(table, s->env->k, s->p, s->tensor);
}

static bool guards_hold(const unsigned char *image, int64_t bytes)
{
    for (int64_t i = 0; i < GUARD; i++)
        if (image[i] != GUARD_BYTE || image[bytes - 1 - i] != GUARD_BYTE) return false;
    return true;
}

static bool overwritten(const placed *s, int32_t i, bool in_place)
{
    for (int32_t j = 0; j < s->p->n_args && in_place; j++)
        if (s->p->arg[j].same_as == i && !s->p->arg[j].absent) return true;
    return false;
}

static dml_err collect(placed *s, bool in_place)
{
    for (int32_t i = 0; i < s->p->n_args; i++) {
        dml_problem_arg *a = &s->p->arg[i];
        DML_TRY(s->env->backend->device->copy(s->env->queue, s->image[i], s->memory[i],
                                              image_bytes(a)));
        DML_TRY(wait_for(s->env));
        if (!guards_hold(s->image[i], image_bytes(a)))
            DML_FAIL(DML_ERR_CHECK, "bytes around %s were written", a->name);
        const size_t bytes = (size_t)dml_tensor_bytes(&a->host);
        if ((a->use == DML_IN || a->absent) && !overwritten(s, i, in_place) &&
            memcmp(s->image[i] + GUARD, a->host.data, bytes) != 0)
            DML_FAIL(DML_ERR_CHECK, "the input %s was written", a->name);
    }
    for (int32_t i = 0; i < s->p->n_args; i++) {
        dml_problem_arg *a = &s->p->arg[i];
        const int32_t from = in_place && a->same_as >= 0 ? a->same_as : i;
        if (a->use != DML_IN && !a->absent)
            memcpy(a->host.data, s->image[from] + GUARD, (size_t)dml_tensor_bytes(&a->host));
    }
    return DML_ERR_OK;
}

static dml_err place_and_run(placed *s, bool in_place)
{
    DML_TRY(place(s, in_place));
    DML_TRY(s->env->backend->device->submit(s->env->queue, run_job, s));
    DML_TRY(wait_for(s->env));
    return collect(s, in_place);
}

dml_err dml_conform_execute(dml_conform_env *env, dml_problem *p, bool in_place)
{
    placed s = {.env = env, .p = p};
    const dml_err err = place_and_run(&s, in_place);
    for (int32_t i = 0; i < p->n_args; i++) {
        free(s.image[i]);
        env->backend->device->free(env->device, s.memory[i]);
    }
    return err;
}

/* --- comparing --------------------------------------------------------------------------------- */

/* The scale of an element's error; 0: it must be equal. */
static double scale_of(const dml_problem_arg *a, const dml_tensor *terms, double want, int64_t i)
{
    switch (a->scale) {
    case DML_UNCHECKED:
    case DML_BITWISE: return 0.0;
    case DML_BY_ELEMENT: return fabs(want);
    case DML_BY_UNIT: return 1.0 + fabs(want);
    case DML_BY_TERMS: return fabs(dml_problem_element(terms, i));
    }
    return 0.0;
}

static bool is_real(dml_dtype dtype)
{
    return dtype == DML_F32 || dtype == DML_F64 || dtype == DML_BF16 || dtype == DML_F16;
}

/* Both sides are rounded to the type, so a value near the middle between two may go either way: one unit in
 * the last place, that of subnormals for F16. */
static double rounding(dml_dtype dtype, double want)
{
    if (dtype == DML_BF16) return fabs(want) * 0x1.02p-7;
    if (dtype == DML_F16) return fabs(want) * 0x1.01p-10 + 0x1p-24;
    return 0.0;
}

/* The same bits, but one NaN is as good as another. */
static bool same_element(const dml_tensor *a, const dml_tensor *b, int64_t i)
{
    const int64_t bytes = dml_dtype_bytes(a->dtype);
    const char *x = (const char *)a->data + i * bytes, *y = (const char *)b->data + i * bytes;
    return memcmp(x, y, (size_t)bytes) == 0 ||
           (is_real(a->dtype) && isnan(dml_problem_element(a, i)) &&
            isnan(dml_problem_element(b, i)));
}

static void compare_bits(dml_conform_env *env, const dml_problem *got, const dml_problem *want,
                         int32_t i)
{
    const dml_tensor *g = &got->arg[i].host, *w = &want->arg[i].host;
    for (int64_t e = 0; e < dml_tensor_elems(w); e++) {
        if (same_element(g, w, e)) continue;
        dml_conform_fail(env, got, "%s[%" PRId64 "] differs in bits", got->arg[i].name, e);
        return;
    }
}

static void compare(dml_conform_env *env, const dml_problem *got, const dml_problem *want,
                    const dml_problem *terms, int32_t i)
{
    const dml_problem_arg *a = &want->arg[i];
    const dml_tensor *g = &got->arg[i].host, *w = &a->host;
    if (a->use == DML_IN || a->absent || a->scale == DML_UNCHECKED) return;
    if (a->scale == DML_BITWISE) {
        compare_bits(env, got, want, i);
        return;
    }
    const dml_dtype type = a->loose ? want->type : w->dtype;
    for (int64_t e = 0; e < dml_tensor_elems(w); e++) {
        const double x = dml_problem_element(g, e), y = dml_problem_element(w, e);
        const double scale = scale_of(a, &terms->arg[i].host, y, e);
        const double allowed = a->tolerance * scale * 0x1p-24 + rounding(type, y) + 0x1p-120;
        if (fabs(x - y) <= allowed) continue; /* false for NaN */
        dml_conform_fail(env, got, "%s[%" PRId64 "] is %.9g, not %.9g: error %.3g of %.3g allowed",
                         a->name, e, x, y, fabs(x - y), allowed);
        return;
    }
}

static void check_same_bits(dml_conform_env *env, const dml_problem *a, const dml_problem *b,
                            const char *what)
{
    for (int32_t i = 0; i < a->n_args; i++)
        if (a->arg[i].use != DML_IN && !a->arg[i].absent &&
            memcmp(a->arg[i].host.data, b->arg[i].host.data,
                   (size_t)dml_tensor_bytes(&a->arg[i].host)) != 0)
            dml_conform_fail(env, a, "%s: %s has other bits", what, a->arg[i].name);
}

static bool reference(dml_conform_env *env, dml_problem *p)
{
    dml_kctx *k;
    dml_err err = dml_ref_kernels.open(NULL, NULL, NULL, &k);
    if (err == DML_ERR_OK) {
        err = dml_problem_run(p, &dml_ref_kernels, k);
        dml_ref_kernels.close(k);
    }
    if (err != DML_ERR_OK) dml_conform_fail(env, p, "the reference fails: %s", dml_err_trail());
    return err == DML_ERR_OK;
}

/* The inputs' magnitudes, for the sums of |terms|. */
static void take_magnitudes(dml_problem *p)
{
    for (int32_t i = 0; i < p->n_args; i++) {
        const dml_tensor *t = &p->arg[i].host;
        for (int64_t e = 0; e < dml_tensor_elems(t); e++) {
            if (t->dtype == DML_F32) ((float *)t->data)[e] = fabsf(((float *)t->data)[e]);
            if (t->dtype == DML_BF16 || t->dtype == DML_F16) ((uint16_t *)t->data)[e] &= 0x7fff;
        }
    }
}

static bool has_alias(const dml_problem *p)
{
    for (int32_t i = 0; i < p->n_args; i++)
        if (p->arg[i].same_as >= 0 && !p->arg[i].absent) return true;
    return false;
}

static void check_problem(dml_conform_env *env, int32_t kernel, uint64_t key, dml_dtype type)
{
    enum { FIRST, AGAIN, REFERENCE, TERMS, PROBLEMS };
    dml_problem p[PROBLEMS];
    for (int i = 0; i < PROBLEMS; i++)
        dml_problem_make_as(&p[i], kernel, key, type);
    take_magnitudes(&p[TERMS]);
    const bool in_place = has_alias(&p[AGAIN]);
    if (dml_conform_execute(env, &p[FIRST], false) != DML_ERR_OK ||
        dml_conform_execute(env, &p[AGAIN], in_place) != DML_ERR_OK) {
        dml_conform_fail(env, &p[FIRST], "%s", dml_err_trail());
    } else if (reference(env, &p[REFERENCE]) && reference(env, &p[TERMS])) {
        for (int32_t i = 0; i < p[FIRST].n_args; i++)
            compare(env, &p[FIRST], &p[REFERENCE], &p[TERMS], i);
        check_same_bits(env, &p[FIRST], &p[AGAIN], in_place ? "in place" : "a second run");
        const char *wrong = p[FIRST].check ? p[FIRST].check(&p[FIRST]) : NULL;
        if (wrong) dml_conform_fail(env, &p[FIRST], "%s", wrong);
    }
    for (int i = 0; i < PROBLEMS; i++)
        dml_problem_free(&p[i]);
}

static void check_types(dml_conform_env *env, int32_t kernel, uint64_t key)
{
    check_problem(env, kernel, key, DML_F32);
    if (!dml_problem_has_samples(kernel)) return;
    check_problem(env, kernel, key, DML_BF16);
    check_problem(env, kernel, key, DML_F16);
}

int dml_conform_run_with(const dml_backend *b, const dml_conform_config *config)
{
    dml_conform_env env;
    if (dml_conform_open_at(&env, b, config->device, config->threads, config->deterministic) !=
        DML_ERR_OK) {
        printf("%s: %s\n", b->name, dml_err_trail());
        return 1;
    }
    int32_t run = 0, skipped = 0;
    for (int32_t kernel = 0; kernel < DML_KERNELS; kernel++) {
        const char *name = dml_kernel_name(kernel);
        if (config->filter && !strstr(name, config->filter)) continue;
        if (!dml_kernel_here(b->kernels, kernel)) {
            printf("%s: %s skipped: not here\n", b->name, name);
            skipped++;
            continue;
        }
        for (int32_t round = 0; round < config->rounds; round++)
            check_types(&env, kernel,
                        dml_rng_key(config->seed, DML_RNG_TEST, (uint64_t)(kernel << 16 | round)));
        run++;
    }
    dml_conform_gradients(&env, config);
    printf("%s, %d threads%s: %d kernels, %d problems each, %d skipped, %d failures\n", b->name,
           config->threads, config->deterministic ? ", deterministic" : "", run, config->rounds,
           skipped, env.failures);
    dml_conform_close(&env);
    return env.failures;
}

int dml_conform_run(const dml_backend *b, const char *filter)
{
    const dml_conform_config config = {
        .filter = filter, .threads = 1, .deterministic = true, .rounds = 6, .seed = 1};
    return dml_conform_run_with(b, &config);
}
