/* base/log.h - lines for people, on stderr.  The level is one of the three hidden states (base/err.h
 * and base/failpoint.h hold the others).  Libraries never print except through here.
 *
 *   12.345s w2 info replan: worker 3 lost at step 881
 */
#ifndef DML_BASE_LOG_H
#define DML_BASE_LOG_H

typedef enum dml_log_level {
    DML_LOG_ERROR,
    DML_LOG_WARN,
    DML_LOG_INFO,
    DML_LOG_DEBUG
} dml_log_level;

/* Lines above `level` are dropped.  `who` (at most 15 bytes are kept) names this process, e.g. "w2". */
void dml_log_setup(dml_log_level level, const char *who);

/* Writes one line with a single write(2), so lines of several processes do not mix. */
void dml_log(dml_log_level level, const char *module, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
