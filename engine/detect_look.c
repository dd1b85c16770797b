/* engine/detect_look.c - one look at everybody's vital signs.
 *
 * Silence is counted by a clock that stands still while this process does: `late_ns` adds up what looks came late, and
 * a span notes its value at its own begin.  What begins (a beat, an op) while a look is overdue begins with the part of
 * the lateness before it:
 *
 *   look       due ........... begin ....... now        at begin  late_ns + (begin - due)
 *                |<--------- late --------->|           now       late_ns + (now - due)
 */
#include "engine/detect_impl.h"

#include "engine/base/clock.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { STARVED_TIMES = 20 }; /* the limit, for a heartbeat that is ready to run and is not let */

#define MIN2(a, b) ((a) < (b) ? (a) : (b))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))

char dml_thread_state(int32_t tid)
{
    char path[32], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", tid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *name_end = strrchr(text, ')'); /* names may hold anything */
    return name_end && name_end[1] == ' ' ? name_end[2] : 0;
}

/* `begin_ns` is when the newest of it began; `due_ns` and `late_ns` are from before this look. */
static void follow(dml_span *s, int64_t begin_ns, int64_t due_ns, int64_t late_ns)
{
    if (begin_ns == s->begin_ns) return;
    *s = (dml_span){.begin_ns = begin_ns,
                    .late_ns = late_ns + (due_ns > 0 ? MAX2(begin_ns - due_ns, 0) : 0)};
}

static int64_t age_ns(const dml_detect *d, const dml_span *s, int64_t now_ns)
{
    return s->begin_ns == 0 ? 0 : now_ns - s->begin_ns - (d->late_ns - s->late_ns);
}

/* ---- signs ---- */

static bool has_died(const dml_watched *w, dml_sign *out)
{
    const int64_t died_ns = atomic_load(&w->died_ns);
    if (died_ns == 0) return false;
    out->kind = DML_SIGN_DIED;
    out->seen_ns = died_ns;
    snprintf(out->text, sizeof out->text, "the process died");
    return true;
}

static bool is_silent(const dml_detect *d, dml_watched *w, int64_t now_ns, dml_sign *out)
{
    const int64_t silent_ns = age_ns(d, &w->beat, now_ns);
    if (silent_ns < d->limit_ns) return false;
    const char state = dml_thread_state(atomic_load(&w->page->beat_tid));
    if (atomic_load(&w->page->beat_ns) != w->beat.begin_ns) return false; /* just now */
    if (state == 't') return false;                                       /* a debugger's */
    const bool stopped = state == 'T' || state == 0;
    if (!stopped && silent_ns < STARVED_TIMES * d->limit_ns) return false;
    out->kind = DML_SIGN_SILENT;
    out->fault_ns = w->beat.begin_ns;
    snprintf(out->text, sizeof out->text, "no heartbeat for %.0f ms: %s", (double)silent_ns * 1e-6,
             state == 'T' ? "the process is stopped"
             : state == 0 ? "its thread is gone"
                          : "the process is not let run");
    return true;
}

static bool is_stuck(const dml_detect *d, const dml_watched *w, int64_t now_ns, dml_sign *out)
{
    const dml_worker_page *p = w->page;
    const int64_t limit_ns = atomic_load_explicit(&p->op_limit_ns, memory_order_relaxed);
    const int64_t ran_ns = age_ns(d, &w->op, now_ns);
    if (limit_ns == 0 || ran_ns < limit_ns) return false;
    if (atomic_load(&p->op_begin_ns) != w->op.begin_ns) return false; /* over, just now */
    const dml_op_kind kind = (dml_op_kind)atomic_load(&p->op_kind);
    out->kind = DML_SIGN_STUCK;
    out->fault_ns = w->op.begin_ns;
    snprintf(out->text, sizeof out->text,
             "%s%d.%d has run for %.1f s, more than 2 s and 20 times as long as it takes",
             dml_op_info_of(kind)->text, atomic_load(&p->op_chunk), atomic_load(&p->op_mb),
             (double)ran_ns * 1e-9);
    return true;
}

static bool is_lost(dml_detect *d, dml_watched *w, int64_t now_ns, dml_sign *out)
{
    if (!w->runs || w->is_lost) return false;
    if (!has_died(w, out) && !is_silent(d, w, now_ns, out) && !is_stuck(d, w, now_ns, out))
        return false;
    return w->is_lost = true;
}

/* ---- the look ---- */

static void follow_all(dml_detect *d, int64_t now_ns)
{
    const int64_t due_ns = d->due_ns, late_ns = d->late_ns;
    for (int32_t r = 0; r < d->workers; r++) {
        dml_watched *w = &d->worker[r];
        if (!w->runs) continue;
        follow(&w->beat, atomic_load_explicit(&w->page->beat_ns, memory_order_acquire), due_ns,
               late_ns);
        follow(&w->op, atomic_load_explicit(&w->page->op_begin_ns, memory_order_acquire), due_ns,
               late_ns);
    }
    if (due_ns > 0 && now_ns > due_ns) d->late_ns += now_ns - due_ns;
}

/* When the oldest heartbeat is too old, but at least twice per heartbeat, so that a late look is known for one. */
static int64_t next_due_ns(const dml_detect *d, int64_t now_ns)
{
    int64_t due_ns = now_ns + d->heartbeat_ns / 2;
    for (int32_t r = 0; r < d->workers; r++) {
        const dml_watched *w = &d->worker[r];
        const int64_t left_ns = d->limit_ns - age_ns(d, &w->beat, now_ns);
        if (w->runs && !w->is_lost && w->beat.begin_ns > 0 && left_ns > 0)
            due_ns = MIN2(due_ns, now_ns + left_ns);
    }
    return due_ns;
}

bool dml_detect_next(dml_detect *d, int64_t now_ns, dml_sign *out)
{
    uint64_t told;
    (void)!read(d->fd, &told, sizeof told);
    follow_all(d, now_ns);
    d->due_ns = next_due_ns(d, now_ns);
    *out = (dml_sign){.seen_ns = now_ns};
    for (int32_t r = 0; r < d->workers; r++) {
        out->rank = r;
        if (is_lost(d, &d->worker[r], now_ns, out)) return true;
    }
    return dml_detect_straggler(d, out);
}
