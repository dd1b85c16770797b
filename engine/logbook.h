/* engine/logbook.h - what an agent that is killed leaves to the next one: its state after each thing that it has dealt
 * with, in memory that the supervisor keeps a descriptor of.
 *
 *   half 0   state after event 6        state after event 8
 *   half 1          state after event 7        state after ...
 *   notes             7                   8          even: half 0 is whole; one word, set last
 *
 * State is copied as it is, byte by byte, by the same program; pointers in it mean nothing to the next process, but for
 * those to the program's own texts, which lie a fixed distance from where they lay.
 *
 * A report is gone from its socket once it is received.  So it is noted before, and whoever comes next deals with it
 * if the state does not say that this was done:
 *
 *   look at the report, note it | receive it | deal with it | note the state
 */
#ifndef DML_ENGINE_LOGBOOK_H
#define DML_ENGINE_LOGBOOK_H

#include "engine/control.h"

enum { DML_LOGBOOK_PARTS = 20 };

typedef struct dml_logbook_part {
    void *at; /* borrowed as long as the book is open */
    int64_t bytes;
} dml_logbook_part;

typedef struct dml_logbook {
    struct dml_logbook_page *page; /* NULL: closed */
    int64_t bytes;                 /* of a half */
    uintptr_t anchor;              /* of who wrote what was read */
    dml_logbook_part part[DML_LOGBOOK_PARTS];
    int32_t n_parts;
} dml_logbook;

/* A new one, empty, and the memfd it lies in, owned by the caller.  Parts are copied by every note. */
dml_err dml_logbook_create(const dml_logbook_part *part, int32_t n_parts, dml_logbook *out,
                           int *fd);
/* That of an agent before: its newest state is copied into the parts, which have the same sizes.
 * DML_ERR_BUG  they have not, or nothing was noted */
dml_err dml_logbook_map(int fd, const dml_logbook_part *part, int32_t n_parts, dml_logbook *out);
void dml_logbook_close(dml_logbook *b); /* a zeroed one is fine */

/* The parts as they are now; what was expected is dealt with. */
void dml_logbook_note(dml_logbook *b);

/* This report, still in its socket, is dealt with next. */
void dml_logbook_expect(dml_logbook *b, const dml_report *report);
/* The one that was expected and is not known to have been dealt with; NULL: none. */
const dml_report *dml_logbook_expected(const dml_logbook *b);

/* A pointer to a text of the program, as the agent before noted it, in this process.  NULL stays NULL. */
const char *dml_logbook_text(const dml_logbook *b, const char *noted);

#endif
