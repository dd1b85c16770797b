/* tests/kernels/problem.h - one call of one kernel as data: tensors by name, parameters, a way to call.
 *
 * The suite, the gradient check and the thread-count test all draw problems from the same table
 * (cases.c), which has a row per entry of the kernel list.  A problem is a function of (kernel, key):
 * the kernels of one family draw the same geometry from the same key.
 */
#ifndef DML_TESTS_KERNELS_PROBLEM_H
#define DML_TESTS_KERNELS_PROBLEM_H

#include "engine/base/arena.h"
#include "kernels/kernels.h"

enum { DML_PROBLEM_ARGS = 12 };

/* clang-format off */
typedef enum dml_problem_use { DML_IN, DML_OUT, DML_INOUT } dml_problem_use;

/* What the error of an output element is measured against; `tolerance` counts 2^-24 of it. */
typedef enum dml_problem_scale {
    DML_BITWISE,     /* nothing: the same bits                                               */
    DML_BY_ELEMENT,  /* |want|                                                               */
    DML_BY_UNIT,     /* 1 + |want|                                                           */
    DML_BY_TERMS,    /* what the reference makes of the inputs' magnitudes: sum of |terms|   */
    DML_UNCHECKED,   /* the problem's own check looks at it                                  */
} dml_problem_scale;
/* clang-format on */

typedef struct dml_problem_arg {
    const char *name;
    dml_problem_use use;
    bool absent;     /* passed as NULL */
    int32_t same_as; /* -1, or the argument this output may share memory with */
    dml_problem_scale scale;
    double tolerance;
    bool sample;     /* holds samples: of the problem's type */
    bool loose;      /* F32, but may have been rounded to the type of samples on its way */
    dml_tensor host; /* data: inputs before the call, outputs after it; the problem's arena */
} dml_problem_arg;

typedef struct dml_problem dml_problem;
typedef dml_err (*dml_problem_call)(const dml_kernel_table *table, dml_kctx *k,
                                    const dml_problem *p, const dml_tensor tensor[]);
/* NULL, or what is wrong with the outputs. */
typedef const char *(*dml_problem_check)(const dml_problem *p);

struct dml_problem {
    int32_t kernel;
    uint64_t key, draws;
    dml_arena arena;
    int32_t n_args;
    dml_problem_arg arg[DML_PROBLEM_ARGS];
    dml_problem_call call;
    dml_problem_check check; /* or NULL */
    dml_dtype type;          /* of samples: F32, BF16, F16 */
    dml_step_words words;    /* given to the context before the call */
    /* parameters; each kernel reads its own */
    dml_conv2d conv;
    dml_pool2d pool;
    dml_dropout drop;
    dml_sgd sgd;
    dml_adamw adamw;
    dml_act act;
    dml_moments moments;
    float value; /* eps, or what to fill with */
    int32_t scale_log2;
    bool first;
};

/* Number `kernel` of the list with shapes and data drawn from `key`. */
void dml_problem_make(dml_problem *p, int32_t kernel, uint64_t key);
/* The same with samples of another type, the data rounded to it. */
void dml_problem_make_as(dml_problem *p, int32_t kernel, uint64_t key, dml_dtype type);
/* Whether the kernel has arguments that hold samples. */
bool dml_problem_has_samples(int32_t kernel);
void dml_problem_free(dml_problem *p);

/* Calls it on the host memory of its arguments, so only for backends whose memory that is.  `k` NULL, which
 * the reference takes, leaves p->words aside. */
dml_err dml_problem_run(dml_problem *p, const dml_kernel_table *table, dml_kctx *k);

/* Element i of a real tensor. */
double dml_problem_element(const dml_tensor *t, int64_t i);

/* Turns every F32 argument into F64, data included: for the reference alone. */
void dml_problem_widen(dml_problem *p);

/* NULL when there is none of that name. */
dml_problem_arg *dml_problem_find(dml_problem *p, const char *name);

/* "linear_fwd x[3,7] w[5,7] ..." for messages; static storage, of the newest call. */
const char *dml_problem_text(const dml_problem *p);

/* For the cases: random numbers, and arguments in the order of the kernel's. */
uint32_t dml_problem_draw(dml_problem *p);
int64_t dml_problem_between(dml_problem *p, int64_t low, int64_t high); /* both inclusive */
dml_problem_arg *dml_problem_in(dml_problem *p, const char *name, dml_dtype dtype, int32_t rank,
                                const int64_t dim[]);
dml_problem_arg *dml_problem_out(dml_problem *p, const char *name, dml_dtype dtype, int32_t rank,
                                 const int64_t dim[], dml_problem_scale scale, double tolerance);
/* Multiplies the data of a real input, then adds. */
void dml_problem_spread(dml_problem_arg *a, double factor, double offset);

/* cases.c: fills in arguments, parameters and call of p->kernel. */
void dml_problem_case(dml_problem *p);

#endif
