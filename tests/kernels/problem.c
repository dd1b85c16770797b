/* tests/kernels/problem.c - drawing, copying and printing problems. */
#include "tests/kernels/problem.h"

#include "engine/base/rng.h"
#include "kernels/ref/real.h"

#include <stdio.h>
#include <string.h>

uint32_t dml_problem_draw(dml_problem *p)
{
    uint32_t word[4];
    dml_rng_block(p->key, 0, p->draws++, word);
    return word[0];
}

int64_t dml_problem_between(dml_problem *p, int64_t low, int64_t high)
{
    return low + (int64_t)(dml_problem_draw(p) % (uint64_t)(high - low + 1));
}

static dml_problem_arg *add_arg(dml_problem *p, const char *name, dml_dtype dtype, int32_t rank,
                                const int64_t dim[])
{
    DML_ASSERT_OP(p->n_args, <, DML_PROBLEM_ARGS);
    dml_problem_arg *a = &p->arg[p->n_args++];
    a->name = name;
    a->same_as = -1;
    a->host = dml_tensor_of(NULL, dtype, rank, dim);
    a->host.data = dml_arena_alloc(&p->arena, dml_tensor_bytes(&a->host));
    return a;
}

/* Reals are uniform on [-1, 1), a stream for each argument of each kernel: those of a forward and of
 * its backward must not agree by chance.  Integers are drawn by the case. */
dml_problem_arg *dml_problem_in(dml_problem *p, const char *name, dml_dtype dtype, int32_t rank,
                                const int64_t dim[])
{
    dml_problem_arg *a = add_arg(p, name, dtype, rank, dim);
    const uint64_t stream = (uint64_t)p->kernel << 8 | (uint64_t)p->n_args;
    const uint64_t key = dml_rng_key(p->key, DML_RNG_TEST, stream);
    for (int64_t i = 0; dtype == DML_F32 && i < dml_tensor_elems(&a->host); i++) {
        uint32_t word[4];
        dml_rng_block(key, 0, (uint64_t)i, word);
        ((float *)a->host.data)[i] = 2.0f * dml_rng_unit(word[0]) - 1.0f;
    }
    return a;
}

/* Outputs start as NaN (or -1), so that what a kernel forgets to write is seen. */
dml_problem_arg *dml_problem_out(dml_problem *p, const char *name, dml_dtype dtype, int32_t rank,
                                 const int64_t dim[], dml_problem_scale scale, double tolerance)
{
    dml_problem_arg *a = add_arg(p, name, dtype, rank, dim);
    a->use = DML_OUT;
    a->scale = scale;
    a->tolerance = tolerance;
    memset(a->host.data, 0xff, (size_t)dml_tensor_bytes(&a->host));
    return a;
}

void dml_problem_spread(dml_problem_arg *a, double factor, double offset)
{
    for (int64_t i = 0; i < dml_tensor_elems(&a->host); i++) {
        float *v = (float *)a->host.data + i;
        *v = (float)((double)*v * factor + offset);
    }
}

/* Drawn as float, an argument takes the type of samples. */
static void narrow(dml_problem *p, dml_problem_arg *a)
{
    const float *from = a->host.data;
    a->host.dtype = p->type;
    uint16_t *to = dml_arena_alloc(&p->arena, dml_tensor_bytes(&a->host));
    for (int64_t i = 0; i < dml_tensor_elems(&a->host); i++)
        to[i] = p->type == DML_BF16 ? dml_bf16_of_float(from[i]) : dml_f16_of_float(from[i]);
    a->host.data = to;
}

void dml_problem_make_as(dml_problem *p, int32_t kernel, uint64_t key, dml_dtype type)
{
    *p = (dml_problem){.kernel = kernel, .key = key, .type = type, .words.loss_scale = 1.0f};
    dml_problem_case(p);
    for (int32_t i = 0; i < p->n_args && type != DML_F32; i++)
        if (p->arg[i].sample) narrow(p, &p->arg[i]);
}

void dml_problem_make(dml_problem *p, int32_t kernel, uint64_t key)
{
    dml_problem_make_as(p, kernel, key, DML_F32);
}

bool dml_problem_has_samples(int32_t kernel)
{
    dml_problem p;
    dml_problem_make(&p, kernel, 1);
    bool has = false;
    for (int32_t i = 0; i < p.n_args; i++)
        has = has || p.arg[i].sample;
    dml_problem_free(&p);
    return has;
}

double dml_problem_element(const dml_tensor *t, int64_t i)
{
    return dml_real_get(t, i);
}

void dml_problem_free(dml_problem *p)
{
    dml_arena_free(&p->arena);
    *p = (dml_problem){0};
}

dml_err dml_problem_run(dml_problem *p, const dml_kernel_table *table, dml_kctx *k)
{
    dml_tensor tensor[DML_PROBLEM_ARGS];
    for (int32_t i = 0; i < p->n_args; i++)
        tensor[i] = p->arg[i].host;
    if (k) DML_TRY(table->begin_step(k, &p->words));
    return p->call(table, k, p, tensor);
}

void dml_problem_widen(dml_problem *p)
{
    for (int32_t i = 0; i < p->n_args; i++) {
        dml_tensor *t = &p->arg[i].host;
        if (t->dtype != DML_F32) continue;
        const float *from = t->data;
        double *to = DML_NEW_N(&p->arena, double, dml_tensor_elems(t));
        for (int64_t e = 0; e < dml_tensor_elems(t); e++)
            to[e] = (double)from[e];
        t->data = to;
        t->dtype = DML_F64;
    }
}

dml_problem_arg *dml_problem_find(dml_problem *p, const char *name)
{
    for (int32_t i = 0; i < p->n_args; i++)
        if (strcmp(p->arg[i].name, name) == 0) return p->arg[i].absent ? NULL : &p->arg[i];
    return NULL;
}

const char *dml_problem_text(const dml_problem *p)
{
    static char text[512];
    int at =
        snprintf(text, sizeof text, "%s %s", dml_kernel_name(p->kernel), dml_dtype_name(p->type));
    for (int32_t i = 0; i < p->n_args && at < (int)sizeof text; i++) {
        const dml_problem_arg *a = &p->arg[i];
        at += snprintf(text + at, sizeof text - (size_t)at, " %s", a->name);
        if (a->absent) continue;
        for (int32_t j = 0; j < a->host.rank && at < (int)sizeof text; j++)
            at += snprintf(text + at, sizeof text - (size_t)at, "%c%lld", j ? ',' : '[',
                           (long long)a->host.dim[j]);
        if (at < (int)sizeof text) at += snprintf(text + at, sizeof text - (size_t)at, "]");
    }
    if (at < (int)sizeof text)
        snprintf(text + at, sizeof text - (size_t)at, " key %016llx", (unsigned long long)p->key);
    return text;
}
