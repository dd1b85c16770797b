/* tests/kernels/cases.h - what the cases of kernels share: drawing shapes, adding arguments, calling.
 *
 * A case is a function of one problem that fills in its arguments, parameters and call; dml_case_<entry> for
 * each entry of the kernel list, over three files by what the entries work on.
 */
#ifndef DML_TESTS_KERNELS_CASES_H
#define DML_TESTS_KERNELS_CASES_H

#include "tests/kernels/problem.h"

#include <math.h>
#include <string.h>

#define DIMS(...)   \
    (int64_t[])     \
    {               \
        __VA_ARGS__ \
    }
#define RANK(dims) ((int32_t)(sizeof(dims) / sizeof(int64_t)))
#define SHAPE(...) RANK(((int64_t[]){__VA_ARGS__})), DIMS(__VA_ARGS__)

/* Argument i of the call, NULL where it is absent. */
#define T(i) (p->arg[i].absent ? NULL : &tensor[i])
#define CALL(entry, ...)                                                                          \
    static dml_err call_##entry(const dml_kernel_table *table, dml_kctx *k, const dml_problem *p, \
                                const dml_tensor tensor[])                                        \
    {                                                                                             \
        return table->entry(k, __VA_ARGS__);                                                      \
    }

static inline dml_problem_arg *in(dml_problem *p, const char *name, int32_t rank,
                                  const int64_t dim[])
{
    return dml_problem_in(p, name, DML_F32, rank, dim);
}

static inline dml_problem_arg *out(dml_problem *p, const char *name, int32_t rank,
                                   const int64_t dim[], dml_problem_scale scale, double tolerance)
{
    return dml_problem_out(p, name, DML_F32, rank, dim, scale, tolerance);
}

/* The same for arguments that hold samples: of the problem's type in the end. */
static inline dml_problem_arg *sample_in(dml_problem *p, const char *name, int32_t rank,
                                         const int64_t dim[])
{
    dml_problem_arg *a = in(p, name, rank, dim);
    a->sample = true;
    return a;
}

static inline dml_problem_arg *sample_out(dml_problem *p, const char *name, int32_t rank,
                                          const int64_t dim[], dml_problem_scale scale,
                                          double tolerance)
{
    dml_problem_arg *a = out(p, name, rank, dim, scale, tolerance);
    a->sample = true;
    return a;
}

static inline bool coin(dml_problem *p)
{
    return dml_problem_between(p, 0, 1) == 1;
}

/* Samples: often few, now and then more than any block. */
static inline int64_t samples(dml_problem *p)
{
    static const int64_t n[] = {1, 2, 3, 4, 5, 7, 8, 13, 17, 64, 67, 70};
    return n[dml_problem_between(p, 0, 11)];
}

/* A sum of `terms` in some order: sqrt(terms) roundings, and some. */
static inline double sum_of(int64_t terms)
{
    return 8.0 + sqrt((double)terms);
}

static inline dml_problem_arg *inout(dml_problem *p, const char *name, int32_t rank,
                                     const int64_t dim[], dml_problem_scale scale, double tolerance)
{
    dml_problem_arg *a = in(p, name, rank, dim);
    a->use = DML_INOUT;
    a->scale = scale;
    a->tolerance = tolerance;
    return a;
}

/* Windows that fit along one side. */
static inline int64_t cells(int64_t size, int32_t kernel, int32_t stride, int32_t pad,
                            int32_t dilation)
{
    return (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
}

/* Rows of a matrix, small. */
static inline void draw_matrix(dml_problem *p, int64_t dim[2])
{
    dim[0] = dml_problem_between(p, 1, 20);
    dim[1] = dml_problem_between(p, 1, 150);
}

#define X(name, args) void dml_case_##name(dml_problem *p);
DML_KERNEL_LIST(X)
#undef X

#endif
