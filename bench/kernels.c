/* bench/kernels.c - dml-bench kernels: time and rate of each kernel at the shapes of VGG-8 and ResNet-20.
 *
 *   rate   GFLOP/s of matrix products and convolutions (2 per multiply-add), GB/s of what only moves
 *          memory (bytes that must be read or written once)
 *
 * Each row is measured in four contexts in turn - 1 and 2 threads, fast and deterministic - so that all
 * of them see the same machine, and the least time of the rounds is shown.  Virtual processors sometimes
 * share a physical core, for seconds: the last line says how much faster two threads were than one, at
 * best and in the median of the run, and figures for 2 threads mean little when the best is far below 2.
 */
#include "bench/bench.h"

#include "engine/base/arena.h"
#include "engine/base/clock.h"
#include "kernels/backend.h"
#include "kernels/half.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXTS = 4, MAX_ROUNDS = 101, MIN_SAMPLE_NS = 2000000 };

static const struct {
    const char *title;
    dml_kctx_config config;
} modes[CONTEXTS] = {
    {"1 fast", {.threads = 1, .deterministic = false}},
    {"1 det.", {.threads = 1, .deterministic = true}},
    {"2 fast", {.threads = 2, .deterministic = false}},
    {"2 det.", {.threads = 2, .deterministic = true}},
};

/* ---- options ---- */

typedef struct options {
    int rounds;
    const char *backend, *filter; /* filter NULL: all */
} options;

static const struct argp_option argp_options[] = {
    {"rounds", 'n', "N", 0, "samples of each kernel and context (9)", 0},
    {"backend", 'b', "NAME", 0, "backend (cpu)", 0},
    {"kernel", 'k', "TEXT", 0, "only kernels whose name contains it", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'n':
        o->rounds = (int)strtol(arg, NULL, 10);
        if (o->rounds < 1 || o->rounds > MAX_ROUNDS)
            argp_error(state, "rounds are 1 .. %d, not '%s'", MAX_ROUNDS, arg);
        return 0;
    case 'b': o->backend = arg; return 0;
    case 'k': o->filter = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* ---- what is measured ---- */

typedef struct row row;
typedef dml_err (*call)(const dml_kernel_table *t, dml_kctx *k, const row *r);

struct row {
    const char *kernel;
    char shape[48];
    call run;
    double flops, bytes; /* one of them 0 */
    dml_conv2d conv;
    dml_pool2d pool;
    dml_tensor x, y, w, b, dw, db, x2, y2, which, labels, loss, correct, acc, max;
};

enum { MAX_ROWS = 256 };

typedef struct bench {
    dml_arena arena;
    row rows[MAX_ROWS];
    int n_rows;
} bench;

static float *noise(dml_arena *arena, int64_t n)
{
    float *v = dml_arena_alloc(arena, n * (int64_t)sizeof(float) + 64);
    v += (64 - (uintptr_t)v % 64) % 64 / sizeof(float);
    for (int64_t i = 0; i < n; i++)
        v[i] = (float)(int32_t)((uint32_t)i * UINT32_C(2654435761)) * 0x1p-31f;
    return v;
}

static dml_tensor tensor(dml_arena *arena, dml_dtype type, int32_t rank, const int64_t dim[])
{
    dml_tensor t = dml_tensor_of(NULL, type, rank, dim);
    const int64_t elems = dml_tensor_elems(&t);
    float *v = noise(arena, type == DML_BF16 ? elems : dml_tensor_bytes(&t) / (int64_t)sizeof *v);
    t.data = v;
    for (int64_t i = 0; type == DML_BF16 && i < elems; i++)
        ((dml_bf16 *)t.data)[i] = dml_bf16_of_float(v[i]); /* written behind what is read */
    if (type != DML_F32 && type != DML_BF16) memset(t.data, 0, (size_t)dml_tensor_bytes(&t));
    return t;
}

#define TENSOR(arena, type, rank, ...) tensor((arena), DML_##type, (rank), (int64_t[]){__VA_ARGS__})
#define CALL(name, entry, ...)                                                \
    static dml_err name(const dml_kernel_table *t, dml_kctx *k, const row *r) \
    {                                                                         \
        return t->entry(k, __VA_ARGS__);                                      \
    }

CALL(conv_fwd, conv2d_fwd, &r->conv, &r->y, &r->x, &r->w, NULL)
CALL(conv_bwd_input, conv2d_bwd_input, &r->conv, &r->x, &r->y, &r->w)
CALL(conv_bwd_weight, conv2d_bwd_weight, &r->conv, &r->dw, NULL, &r->y, &r->x)
CALL(linear_fwd, linear_fwd, &r->y, &r->x, &r->w, &r->b)
CALL(linear_bwd_input, linear_bwd_input, &r->x, &r->y, &r->w)
CALL(linear_bwd_weight, linear_bwd_weight, &r->dw, &r->db, &r->y, &r->x)
CALL(norm_fwd, batch_norm_fwd, 1e-5f, &r->y, &r->b, &r->w, &r->x, &r->labels, &r->acc)
CALL(norm_bwd, batch_norm_bwd, 1e-5f, &r->y, &r->max, &r->acc, &r->y2, &r->x, &r->b, &r->w,
     &r->labels)
CALL(relu_fwd, relu_fwd, &r->y, &r->x)
CALL(relu_bwd, relu_bwd, &r->y, &r->x, &r->y2)
CALL(gelu_fwd, gelu_fwd, &r->y, &r->x)
CALL(tanh_fwd, tanh_fwd, &r->y, &r->x)
CALL(add, add, &r->y, &r->x, &r->y2)
CALL(max_pool_fwd, max_pool_fwd, &r->pool, &r->y, &r->which, &r->x)
CALL(max_pool_bwd, max_pool_bwd, &r->pool, &r->x, &r->y, &r->which)
CALL(avg_pool_fwd, avg_pool_fwd, &r->pool, &r->y, &r->x)
CALL(layout, nhwc_to_nchw, &r->y, &r->x)
CALL(xent, softmax_xent, &r->loss, &r->correct, &r->y, &r->x, &r->labels)
CALL(accumulate, accumulate, &r->y, &r->x, false)
CALL(accumulate_exact, accumulate_exact, &r->acc, &r->max, &r->x, 20, false)
CALL(finish_exact, finish_exact, &r->y, &r->acc, 20)
CALL(sum_squares, sum_squares, &r->loss, &r->x)

static dml_err dropout(const dml_kernel_table *t, dml_kctx *k, const row *r)
{
    const dml_dropout p = {.rate = 0.5f, .key = 1};
    return t->dropout(k, &p, &r->y, &r->x);
}

static dml_err sgd(const dml_kernel_table *t, dml_kctx *k, const row *r)
{
    const dml_sgd p = {.lr = 1e-6f, .momentum = 0.9f, .grad_scale = 1.0f};
    const dml_opt_tensor o = {
        .w = r->y.data, .g = r->x.data, .m = r->y2.data, .n = dml_tensor_elems(&r->x)};
    return t->sgd(k, &p, &o, 1);
}

static dml_err adamw(const dml_kernel_table *t, dml_kctx *k, const row *r)
{
    const dml_adamw p = {.lr = 1e-6f,
                         .beta1 = 0.9f,
                         .beta2 = 0.99f,
                         .eps = 1.0f,
                         .grad_scale = 1.0f,
                         .bias1 = 1.0f,
                         .sqrt_bias2 = 1.0f};
    const dml_opt_tensor o = {.w = r->y.data,
                              .g = r->x.data,
                              .m = r->y2.data,
                              .v = r->x2.data,
                              .n = dml_tensor_elems(&r->x)};
    return t->adamw(k, &p, &o, 1);
}

static row *push(bench *b, const char *kernel, call run, const row *like)
{
    row *r = &b->rows[b->n_rows++];
    *r = *like;
    r->kernel = kernel;
    r->run = run;
    return r;
}

/* Three kernels of a 3x3 convolution of stride s on n images of hw x hw. */
static void add_conv(bench *b, dml_dtype type, int64_t n, int64_t hw, int64_t in, int64_t out,
                     int32_t s)
{
    row r = {.conv = {{3, 3}, {s, s}, {1, 1}, {1, 1}, 1}};
    const int64_t o = (hw - 1) / s + 1;
    snprintf(r.shape, sizeof r.shape, "%3lld x %2lldx%-2lld %3lld -> %3lld%s%s", (long long)n,
             (long long)hw, (long long)hw, (long long)in, (long long)out, s > 1 ? " /2" : "",
             type == DML_BF16 ? " bf16" : "");
    r.x = tensor(&b->arena, type, 4, (int64_t[]){n, hw, hw, in});
    r.y = tensor(&b->arena, type, 4, (int64_t[]){n, o, o, out});
    r.w = tensor(&b->arena, type, 4, (int64_t[]){out, in, 3, 3});
    r.dw = TENSOR(&b->arena, F32, 4, out, in, 3, 3);
    r.flops = 2.0 * (double)(n * o * o * out * in * 9);
    push(b, "conv2d_fwd", conv_fwd, &r);
    if (in > 1) push(b, "conv2d_bwd_input", conv_bwd_input, &r);
    push(b, "conv2d_bwd_weight", conv_bwd_weight, &r);
}

static void add_linear(bench *b, dml_dtype type, int64_t n, int64_t in, int64_t out)
{
    row r = {.flops = 2.0 * (double)(n * in * out)};
    snprintf(r.shape, sizeof r.shape, "%3lld x %lld -> %lld%s", (long long)n, (long long)in,
             (long long)out, type == DML_BF16 ? " bf16" : "");
    r.x = tensor(&b->arena, type, 2, (int64_t[]){n, in});
    r.y = tensor(&b->arena, type, 2, (int64_t[]){n, out});
    r.w = tensor(&b->arena, type, 2, (int64_t[]){out, in});
    r.b = tensor(&b->arena, type, 1, &out);
    r.dw = TENSOR(&b->arena, F32, 2, out, in);
    r.db = TENSOR(&b->arena, F32, 1, out);
    push(b, "linear_fwd", linear_fwd, &r);
    push(b, "linear_bwd_input", linear_bwd_input, &r);
    push(b, "linear_bwd_weight", linear_bwd_weight, &r);
}

/* What lies between the convolutions: normalisation, relu, add, pooling. */
static void add_between(bench *b, int64_t n, int64_t hw, int64_t c)
{
    row r = {.pool = {{2, 2}, {2, 2}, {0, 0}, true}};
    const double bytes = (double)(n * hw * hw * c * 4);
    snprintf(r.shape, sizeof r.shape, "%3lld x %2lldx%-2lld %3lld", (long long)n, (long long)hw,
             (long long)hw, (long long)c);
    r.x = TENSOR(&b->arena, F32, 4, n, hw, hw, c);
    r.y = TENSOR(&b->arena, F32, 4, n, hw, hw, c);
    r.y2 = TENSOR(&b->arena, F32, 4, n, hw, hw, c);
    r.b = TENSOR(&b->arena, F32, 1, c);
    r.w = r.labels = r.acc = r.max = r.b;
    r.w.data = noise(&b->arena, c);
    r.labels.data = noise(&b->arena, c);
    r.acc.data = noise(&b->arena, c);
    r.max.data = noise(&b->arena, c);
    push(b, "batch_norm_fwd", norm_fwd, &r)->bytes = 2 * bytes;
    push(b, "batch_norm_bwd", norm_bwd, &r)->bytes = 3 * bytes;
    push(b, "relu_fwd", relu_fwd, &r)->bytes = 2 * bytes;
    push(b, "relu_bwd", relu_bwd, &r)->bytes = 3 * bytes;
    push(b, "add", add, &r)->bytes = 3 * bytes;
    r.y = TENSOR(&b->arena, F32, 4, n, hw / 2, hw / 2, c);
    r.which = TENSOR(&b->arena, I32, 4, n, hw / 2, hw / 2, c);
    push(b, "max_pool_fwd", max_pool_fwd, &r)->bytes = 1.5 * bytes;
    push(b, "max_pool_bwd", max_pool_bwd, &r)->bytes = 1.5 * bytes;
    push(b, "avg_pool_fwd", avg_pool_fwd, &r)->bytes = 1.25 * bytes;
}

/* What passes over parameters or over features, n elements. */
static void add_flat(bench *b, int64_t n)
{
    row r = {0};
    const double bytes = (double)(4 * n);
    snprintf(r.shape, sizeof r.shape, "%lld elements", (long long)n);
    const int64_t rows = n / 500; /* of 500 features, for dropout */
    r.x = TENSOR(&b->arena, F32, 2, rows, 500);
    r.y = TENSOR(&b->arena, F32, 2, rows, 500);
    r.y2 = TENSOR(&b->arena, F32, 2, rows, 500);
    r.x2 = TENSOR(&b->arena, F32, 1, n);
    for (int64_t i = 0; i < n; i++)
        ((float *)r.x2.data)[i] = 1.0f;
    r.acc = TENSOR(&b->arena, I64, 2, rows, 500);
    r.max = TENSOR(&b->arena, U32, 1, 1);
    r.loss = TENSOR(&b->arena, F64, 1, (n + DML_NORM_CHUNK - 1) / DML_NORM_CHUNK);
    push(b, "accumulate", accumulate, &r)->bytes = 3 * bytes;
    push(b, "accumulate_exact", accumulate_exact, &r)->bytes = 5 * bytes;
    push(b, "finish_exact", finish_exact, &r)->bytes = 3 * bytes;
    push(b, "sum_squares", sum_squares, &r)->bytes = bytes;
    push(b, "sgd", sgd, &r)->bytes = 5 * bytes;
    push(b, "adamw", adamw, &r)->bytes = 7 * bytes;
    push(b, "gelu_fwd", gelu_fwd, &r)->bytes = 2 * bytes;
    push(b, "tanh_fwd", tanh_fwd, &r)->bytes = 2 * bytes;
    push(b, "dropout", dropout, &r)->bytes = 2 * bytes;
}

static void add_head(bench *b, int64_t n)
{
    row r = {.bytes = (double)(2 * 4 * 10 * n)};
    snprintf(r.shape, sizeof r.shape, "%3lld x 10", (long long)n);
    r.x = TENSOR(&b->arena, F32, 2, n, 10);
    r.y = TENSOR(&b->arena, F32, 2, n, 10);
    r.loss = TENSOR(&b->arena, F64, 1, 1);
    r.correct = TENSOR(&b->arena, I32, 1, 1);
    r.labels = TENSOR(&b->arena, I32, 1, n);
    push(b, "softmax_xent", xent, &r);
    snprintf(r.shape, sizeof r.shape, "%3lld x  3x3  256", (long long)n);
    r.x = TENSOR(&b->arena, F32, 4, n, 3, 3, 256);
    r.y = TENSOR(&b->arena, F32, 4, n, 256, 3, 3);
    r.bytes = 2.0 * (double)dml_tensor_bytes(&r.x);
    push(b, "nhwc_to_nchw", layout, &r);
}

static void add_all(bench *b)
{
    for (int64_t n = 32; n <= 64; n += 32) {
        add_conv(b, DML_F32, n, 28, 1, 64, 1); /* VGG-8 */
        add_conv(b, DML_F32, n, 28, 64, 64, 1);
        add_conv(b, DML_F32, n, 14, 64, 128, 1);
        add_conv(b, DML_F32, n, 14, 128, 128, 1);
        add_conv(b, DML_F32, n, 7, 128, 256, 1);
        add_conv(b, DML_F32, n, 7, 256, 256, 1);
        add_linear(b, DML_F32, n, 2304, 512);
        add_linear(b, DML_F32, n, 512, 10);
        add_conv(b, DML_F32, n, 32, 1, 16, 1); /* ResNet-20 */
        add_conv(b, DML_F32, n, 32, 16, 16, 1);
        add_conv(b, DML_F32, n, 32, 16, 32, 2);
        add_conv(b, DML_F32, n, 16, 32, 32, 1);
        add_conv(b, DML_F32, n, 8, 64, 64, 1);
        add_between(b, n, 28, 64);
        add_between(b, n, 32, 16);
        add_between(b, n, 8, 256);
        add_head(b, n);
    }
    add_conv(b, DML_BF16, 32, 14, 128, 128, 1);
    add_conv(b, DML_BF16, 32, 32, 16, 16, 1);
    add_linear(b, DML_BF16, 64, 2304, 512);
    add_flat(b, 100000);
    add_flat(b, 2000000);
}

/* ---- measuring ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Repeats that fill a sample. */
static dml_err calibrate(const dml_backend *b, dml_kctx *k, const row *r, int64_t *repeats)
{
    DML_TRY(r->run(b->kernels, k, r));
    const int64_t start = dml_clock_ns();
    DML_TRY(r->run(b->kernels, k, r));
    const int64_t ns = dml_clock_ns() - start;
    *repeats = ns < MIN_SAMPLE_NS ? MIN_SAMPLE_NS / (ns + 1) + 1 : 1;
    return DML_ERR_OK;
}

static dml_err measure(const dml_backend *b, dml_kctx *k[CONTEXTS], const row *r, int rounds)
{
    double best[CONTEXTS] = {0};
    int64_t repeats[CONTEXTS];
    for (int c = 0; c < CONTEXTS; c++)
        DML_TRY(calibrate(b, k[c], r, &repeats[c]));
    for (int round = 0; round < rounds; round++)
        for (int c = 0; c < CONTEXTS; c++) {
            const int64_t start = dml_clock_ns();
            for (int64_t i = 0; i < repeats[c]; i++)
                DML_TRY(r->run(b->kernels, k[c], r));
            const double ns = (double)(dml_clock_ns() - start) / (double)repeats[c];
            if (round == 0 || ns < best[c]) best[c] = ns;
        }
    printf("%-18s %-26s", r->kernel, r->shape);
    for (int c = 0; c < CONTEXTS; c++)
        printf(" %9.1f %6.1f", best[c] * 1e-3, (r->flops > 0 ? r->flops : r->bytes) / best[c]);
    printf("  %s\n", r->flops > 0 ? "GFLOP/s" : "GB/s");
    return DML_ERR_OK;
}

static dml_err run(const options *o)
{
    const dml_backend *b;
    DML_TRY(dml_backend_find(o->backend, &b));
    if (!b->on_host)
        DML_FAIL(DML_ERR_SPEC, "backend %s: this program calls kernels on host memory", b->name);
    static bench all;
    dml_kctx *k[CONTEXTS] = {0};
    for (int c = 0; c < CONTEXTS; c++)
        DML_TRY(b->kernels->open(NULL, NULL, &modes[c].config, &k[c]));
    add_all(&all);
    printf("%-18s %-26s", "us and rate", "");
    for (int c = 0; c < CONTEXTS; c++)
        printf(" %16s", modes[c].title);
    printf("\n");
    double speed_up[MAX_ROWS];
    int measured = 0;
    for (int i = 0; i < all.n_rows; i++) {
        if (o->filter && !strstr(all.rows[i].kernel, o->filter)) continue;
        DML_TRY(measure(b, k, &all.rows[i], o->rounds));
        speed_up[measured++] = bench_two_thread_speed_up();
    }
    qsort(speed_up, (size_t)measured, sizeof *speed_up, by_size);
    if (measured > 0)
        printf("# two threads against one: %.2fx at best, %.2fx in the median\n",
               speed_up[measured - 1], speed_up[measured / 2]);
    for (int c = 0; c < CONTEXTS; c++)
        b->kernels->close(k[c]);
    dml_arena_free(&all.arena);
    return DML_ERR_OK;
}

int dml_bench_kernels(int argc, char **argv)
{
    options o = {.rounds = 9, .backend = "cpu"};
    static const struct argp argp = {
        argp_options, parse_option,
        NULL,         "Measures the kernels of a backend at the shapes of VGG-8 and ResNet-20.",
        NULL,         NULL,
        NULL};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    const dml_err err = run(&o);
    if (err != DML_ERR_OK) fprintf(stderr, "dml-bench kernels: %s\n", dml_err_trail());
    return dml_err_exit_code(err);
}
