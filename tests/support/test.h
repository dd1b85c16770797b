/* tests/support/test.h - cmocka with our words.  Include this first; it brings what cmocka needs. */
#ifndef DML_TEST_H
#define DML_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/err.h"

/* `expr` is a dml_err: prints its trail when it is not DML_ERR_OK. */
#define DML_CHECK_OK(expr)                                                            \
    do {                                                                              \
        const dml_err check_err_ = (expr);                                            \
        if (check_err_ != DML_ERR_OK)                                                 \
            fail_msg("%s: %s: %s", #expr, dml_err_text(check_err_), dml_err_trail()); \
    } while (0)

/* `expr` fails with `code` and its trail contains `text`. */
#define DML_CHECK_FAILS(code, text, expr)                                             \
    do {                                                                              \
        const dml_err check_err_ = (expr);                                            \
        if (check_err_ != (code))                                                     \
            fail_msg("%s gave '%s', not '%s': %s", #expr, dml_err_text(check_err_),   \
                     dml_err_text(code), dml_err_trail());                            \
        if (!strstr(dml_err_trail(), (text)))                                         \
            fail_msg("%s: the trail lacks '%s': %s", #expr, (text), dml_err_trail()); \
    } while (0)

#define DML_CHECK_EQ(want, got)                                                       \
    do {                                                                              \
        const int64_t check_want_ = (int64_t)(want), check_got_ = (int64_t)(got);     \
        if (check_want_ != check_got_)                                                \
            fail_msg("%s is %lld, not %s = %lld", #got, (long long)check_got_, #want, \
                     (long long)check_want_);                                         \
    } while (0)

#define DML_CHECK(cond)                                                              \
    do {                                                                             \
        if (!(cond)) fail_msg("%s:%d: %s does not hold", __FILE__, __LINE__, #cond); \
    } while (0)

#endif
