/* base/err.h - a code for the program, a trail for the person.
 *
 * A function that can meet a bad world returns dml_err.  The code says who acts; the text says what
 * happened, innermost line first, one line per caller that added something:
 *
 *   schedule/lower.c:17: a step needs at least one micro-batch, not 0
 *     in dml_plan_make (engine/plan.c:80)
 *
 * The trail is a fixed per-thread buffer, so it works when memory is gone.  dml_err_set starts a new
 * trail; clean-up code that fails afterwards must not call it, so the first cause survives.
 */
#ifndef DML_BASE_ERR_H
#define DML_BASE_ERR_H

#include <stddef.h>
#include <stdint.h>

/* clang-format off */
/*    name         exit  text                        who acts                                   */
#define DML_ERR_LIST(X)                                                                            \
    X(OK,          0,    "ok")                     /*                                          */ \
    X(BUG,         1,    "internal error")         /* us                                       */ \
    X(SPEC,        2,    "usage or spec error")    /* the user                                 */ \
    X(UNAVAILABLE, 3,    "environment")            /* the user's machine, or the planner       */ \
    X(DATA,        4,    "data")                   /* data or checkpoint missing or damaged    */ \
    X(DIVERGED,    5,    "training diverged")      /* non-finite loss beyond policy            */ \
    X(PEER,        6,    "worker lost")            /* the coordinator                          */ \
    X(CHECK,       7,    "a check failed")         /* benchmark floors, comparisons            */ \
    X(NOMEM,       3,    "out of memory")          /* the planner                              */
/* clang-format on */
typedef enum dml_err {
#define X(name, exit, text) DML_ERR_##name,
    DML_ERR_LIST(X)
#undef X
} dml_err;

/* Text of a code, static. */
const char *dml_err_text(dml_err err);

/* Process exit code that goes with a code (ecosystem convention: 2 spec, 3 environment, ...). */
int dml_err_exit_code(dml_err err);

/* Starts this thread's trail with one formatted line and returns `err`. */
dml_err dml_err_set(dml_err err, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Adds "  in <func> (file:line)" to this thread's trail and returns `err`. */
dml_err dml_err_add(dml_err err, const char *func, const char *file, int line);

/* This thread's trail, NUL-terminated, empty when nothing failed; valid until the next set. */
const char *dml_err_trail(void);

/* Replaces this thread's trail, to carry one across a thread or a process. */
void dml_err_trail_put(const char *text);

#define DML_FAIL(err, ...) return dml_err_set((err), __FILE__, __LINE__, __VA_ARGS__)
#define DML_TRY(expr)                                                                           \
    do {                                                                                        \
        const dml_err dml_try_ = (expr);                                                        \
        if (dml_try_ != DML_ERR_OK) return dml_err_add(dml_try_, __func__, __FILE__, __LINE__); \
    } while (0)

/* We can be wrong: on in every build, prints both values and aborts. */
void dml_assert_failed(const char *expr, int64_t a, int64_t b, const char *file, int line)
    __attribute__((noreturn));
#define DML_ASSERT(cond) ((cond) ? (void)0 : dml_assert_failed(#cond, 0, 0, __FILE__, __LINE__))
#define DML_ASSERT_OP(a, op, b) \
    (((a)op(b))                 \
         ? (void)0              \
         : dml_assert_failed(#a " " #op " " #b, (int64_t)(a), (int64_t)(b), __FILE__, __LINE__))
#ifdef NDEBUG
#define DML_DCHECK(cond) ((void)0)
#else
#define DML_DCHECK(cond) DML_ASSERT(cond)
#endif

#endif
