/* engine/console_impl.h - what console.c, lines of a run that goes well, shares with console_recovery.c. */
#ifndef DML_ENGINE_CONSOLE_IMPL_H
#define DML_ENGINE_CONSOLE_IMPL_H

#include "engine/console.h"

enum { DML_WORD_BYTES = 40, DML_CONSOLE_HOW = 96 };

typedef struct dml_word {
    char text[DML_WORD_BYTES];
} dml_word;

/* "%.1f" and the unit, "-" when unknown. */
dml_word dml_console_figure(double x, const char *unit);
dml_word dml_console_bytes(int64_t n);

/* "was killed by signal 9 (SIGKILL)", "exited with code 6", "stopped answering" */
void dml_console_how_it_ended(const dml_failure_record *f, char out[DML_CONSOLE_HOW]);

#endif
