/* tests/kernels/gradient.c - backward kernels against differences of the reference's forward.
 *
 * With L(x) = <dy, f(x)> in double and a random direction v,
 *
 *   (L(x + h v) - L(x - h v)) / 2h  =  <dL/dx, v>  + O(h^2)
 *
 * where dL/dx comes from the backend's backward in float.  Forward and backward are problems drawn
 * from one key, joined by name: the backward's dx is the gradient of the forward's x, and what else it
 * reads (x, w, y, which, mean ...) is the forward's argument of that name.
 */
#include "tests/kernels/conform.h"

#include "engine/base/rng.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

/* clang-format off */
/*    forward         backward             output of the forward that dy weighs; loss: weighs 1 */
#define PAIR_LIST(X)                                                                            \
    X(linear_fwd,     linear_bwd_input,    "y")                                                 \
    X(linear_fwd,     linear_bwd_weight,   "y")                                                 \
    X(conv2d_fwd,     conv2d_bwd_input,    "y")                                                 \
    X(conv2d_fwd,     conv2d_bwd_weight,   "y")                                                 \
    X(max_pool_fwd,   max_pool_bwd,        "y")                                                 \
    X(avg_pool_fwd,   avg_pool_bwd,        "y")                                                 \
    X(batch_norm_fwd, batch_norm_bwd,      "y")                                                 \
    X(relu_fwd,       relu_bwd,            "y")                                                 \
    X(gelu_fwd,       gelu_bwd,            "y")                                                 \
    X(gelu_tanh_fwd,  gelu_tanh_bwd,       "y")                                                 \
    X(tanh_fwd,       tanh_bwd,            "y")                                                 \
    X(softmax_xent,   softmax_xent,        "loss")                                              \
    X(mse_onehot,     mse_onehot,          "loss")
/* clang-format on */

enum {
#define X(name, args) KERNEL_##name,
    DML_KERNEL_LIST(X)
#undef X
};

static const struct pair {
    int32_t forward, backward;
    const char *output;
} pairs[] = {
#define X(forward, backward, output) {KERNEL_##forward, KERNEL_##backward, output},
    PAIR_LIST(X)
#undef X
};

static const double STEP = 1e-6, TOLERANCE = 2e-5;

/* Keeps x away from where relu and the maximum have a kink: multiples of the golden ratio, modulo 1,
 * are all apart. */
static void avoid_kinks(dml_problem *forward)
{
    dml_problem_arg *x = dml_problem_find(forward, "x");
    float *v = x->host.data;
    for (int64_t i = 0; i < dml_tensor_elems(&x->host); i++) {
        if (!(fabsf(v[i]) >= 0.01f)) v[i] = 0.01f;
        if (forward->kernel == KERNEL_max_pool_fwd)
            v[i] = (float)fmod((double)i * 0.61803398874989485, 1.0);
    }
}

/* Gives the backward what it reads of the forward, rounded to float. */
static void join(const dml_problem *forward, dml_problem *backward)
{
    for (int32_t i = 0; i < backward->n_args; i++) {
        dml_problem_arg *to = &backward->arg[i];
        const dml_problem_arg *from = dml_problem_find((dml_problem *)(uintptr_t)forward, to->name);
        if (to->use != DML_IN || !from) continue;
        const dml_tensor *f = &from->host;
        DML_ASSERT_OP(dml_tensor_elems(f), ==, dml_tensor_elems(&to->host));
        if (f->dtype != DML_F64) {
            memcpy(to->host.data, f->data, (size_t)dml_tensor_bytes(f));
            continue;
        }
        for (int64_t e = 0; e < dml_tensor_elems(f); e++)
            ((float *)to->host.data)[e] = (float)((const double *)f->data)[e];
    }
}

/* L at the forward's present inputs. */
static double loss_of(dml_problem *forward, const char *output, const dml_tensor *dy)
{
    if (dml_problem_run(forward, &dml_ref_kernels, NULL) != DML_ERR_OK) return NAN;
    const dml_tensor *y = &dml_problem_find(forward, output)->host;
    double sum = 0.0;
    for (int64_t e = 0; e < dml_tensor_elems(y); e++)
        sum += ((const double *)y->data)[e] * (dy ? (double)((const float *)dy->data)[e] : 1.0);
    return sum;
}

/* Moves an input along the direction that `seed` names. */
static double direction(uint64_t seed, int64_t e)
{
    uint32_t word[4];
    dml_rng_block(seed, 1, (uint64_t)e, word);
    return 2.0 * (double)dml_rng_unit(word[0]) - 1.0;
}

static void move(const dml_tensor *x, uint64_t seed, double h)
{
    for (int64_t e = 0; e < dml_tensor_elems(x); e++)
        ((double *)x->data)[e] += h * direction(seed, e);
}

static void check_one(dml_conform_env *env, const struct pair *pair, dml_problem *forward,
                      const dml_problem *backward, const dml_problem_arg *gradient,
                      const dml_tensor *dy)
{
    const dml_tensor *x = &dml_problem_find(forward, gradient->name + 1)->host; /* "dx" of "x" */
    move(x, backward->key, STEP);
    const double above = loss_of(forward, pair->output, dy);
    move(x, backward->key, -2.0 * STEP);
    const double below = loss_of(forward, pair->output, dy);
    move(x, backward->key, STEP);
    double got = 0.0, terms = 0.0;
    for (int64_t e = 0; e < dml_tensor_elems(x); e++) {
        const double term =
            (double)((const float *)gradient->host.data)[e] * direction(backward->key, e);
        got += term;
        terms += fabs(term);
    }
    const double want = (above - below) / (2.0 * STEP);
    if (!(fabs(got - want) <= TOLERANCE * (terms + 0.01 * fabs(want) + 1e-3)))
        dml_conform_fail(env, backward, "%s along a direction is %.9g, the difference %.9g of %.3g",
                         gradient->name, got, want, terms);
}

static void check_pair(dml_conform_env *env, const struct pair *pair, uint64_t key)
{
    dml_problem forward, backward;
    dml_problem_make(&forward, pair->forward, key);
    dml_problem_make(&backward, pair->backward, key);
    avoid_kinks(&forward);
    backward.words.loss_scale = 1.0f;
    if (pair->forward == pair->backward) { /* a loss is its own backward; it needs its dx */
        forward.arg[2].absent = backward.arg[2].absent = false;
    }
    dml_problem_widen(&forward);
    if (dml_problem_run(&forward, &dml_ref_kernels, NULL) != DML_ERR_OK)
        dml_conform_fail(env, &forward, "the reference fails: %s", dml_err_trail());
    join(&forward, &backward);
    const dml_problem_arg *dy = dml_problem_find(&backward, "dy");
    if (dml_conform_execute(env, &backward, false) != DML_ERR_OK)
        dml_conform_fail(env, &backward, "%s", dml_err_trail());
    for (int32_t i = 0; i < backward.n_args; i++) {
        const dml_problem_arg *a = &backward.arg[i];
        if (a->use == DML_OUT && !a->absent && a->name[0] == 'd')
            check_one(env, pair, &forward, &backward, a, dy ? &dy->host : NULL);
    }
    dml_problem_free(&forward);
    dml_problem_free(&backward);
}

void dml_conform_gradients(dml_conform_env *env, const dml_conform_config *config)
{
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const struct pair *pair = &pairs[i];
        if (!dml_kernel_here(env->backend->kernels, pair->backward)) continue;
        if (config->filter && !strstr(dml_kernel_name(pair->backward), config->filter)) continue;
        for (int32_t round = 0; round < config->rounds; round++)
            check_pair(
                env, pair,
                dml_rng_key(config->seed, DML_RNG_TEST, (uint64_t)(i << 40 | (size_t)round)));
    }
}
