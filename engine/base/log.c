/* base/log.c - one line, one write. */
#include "engine/base/log.h"

#include "engine/base/clock.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static dml_log_level max_level = DML_LOG_WARN;
static char who_am_i[16] = "dml";
static int64_t start_ns;

void dml_log_setup(dml_log_level level, const char *who)
{
    max_level = level;
    snprintf(who_am_i, sizeof who_am_i, "%s", who);
    start_ns = dml_clock_ns();
}

void dml_log(dml_log_level level, const char *module, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if (level > max_level) return;
    char line[1024];
    const double s = (double)(dml_clock_ns() - start_ns) * 1e-9;
    int n = snprintf(line, sizeof line, "%.3fs %s %s %s: ", s, who_am_i, names[level], module);
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
    line[n] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n + 1) < 0) return; /* nowhere left to say so */
}
