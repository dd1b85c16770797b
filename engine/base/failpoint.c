/* base/failpoint.c - a short table of rules; a point that is reached walks it. */
#include "engine/base/failpoint.h"

#include "engine/base/clock.h"

#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_RULES = 64, ANY_RANK = -2, TOKEN_BYTES = 64 };

typedef enum action { ACTION_KILL, ACTION_PAUSE, ACTION_ERROR, ACTION_PASS } action;

typedef struct rule {
    dml_failpoint point;
    int32_t rank; /* ANY_RANK */
    int64_t hit;  /* from 1 */
    bool always, joined;
    action action;
    int64_t pause_ns;
    dml_err err;
    _Atomic int64_t seen; /* times that it was reached by whom it is for */
} rule;

_Atomic uint32_t dml_failpoints_armed;

static rule rules[MAX_RULES];
static _Atomic int64_t counts[DML_FAILPOINTS];
static int32_t process_rank = DML_FAILPOINT_AGENT;
static _Thread_local int32_t thread_rank = ANY_RANK; /* that of the process */
static void (*kill_callback)(void *context, int32_t rank, dml_failpoint point);
static void *kill_context;

const char *dml_failpoint_name(dml_failpoint point)
{
    static const char *const names[] = {
#define X(id, name) name,
        DML_FAILPOINT_LIST(X)
#undef X
    };
    return names[point];
}

int64_t dml_failpoint_count(dml_failpoint point)
{
    return atomic_load_explicit(&counts[point], memory_order_relaxed);
}

/* ---- at a point ---- */

static dml_err act(const rule *r, int32_t rank)
{
    const char *name = dml_failpoint_name(r->point);
    switch (r->action) {
    case ACTION_KILL:
        if (!kill_callback) {
            raise(SIGKILL);
            pause(); /* until it has come */
        }
        kill_callback(kill_context, rank, r->point);
        DML_FAIL(DML_ERR_PEER, "killed at %s", name);
    case ACTION_PAUSE: dml_sleep_until_ns(dml_clock_ns() + r->pause_ns); return DML_ERR_OK;
    case ACTION_ERROR: DML_FAIL(r->err, "failpoint %s", name);
    case ACTION_PASS: return DML_ERR_OK;
    }
    return DML_ERR_OK;
}

dml_err dml_failpoint_reach(dml_failpoint point)
{
    atomic_fetch_add_explicit(&counts[point], 1, memory_order_relaxed);
    const int32_t rank = thread_rank == ANY_RANK ? process_rank : thread_rank;
    const uint32_t n = atomic_load_explicit(&dml_failpoints_armed, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++) {
        rule *r = &rules[i];
        if (r->point != point || (r->rank != ANY_RANK && r->rank != rank)) continue;
        const int64_t seen = 1 + atomic_fetch_add_explicit(&r->seen, 1, memory_order_relaxed);
        if (seen == r->hit || (r->always && seen > r->hit)) DML_TRY(act(r, rank));
    }
    return DML_ERR_OK;
}

/* ---- reading rules ---- */

typedef struct reader {
    const char *text, *at;
} reader;

static void skip_blanks(reader *in)
{
    while (isspace((unsigned char)*in->at))
        in->at++;
}

static bool take(reader *in, char c)
{
    skip_blanks(in);
    if (*in->at != c) return false;
    in->at++;
    return true;
}

/* A word up to what separates words, into out[TOKEN_BYTES]; what is longer is cut, and then known to nobody. */
static void take_word(reader *in, char *out)
{
    skip_blanks(in);
    const size_t n = strcspn(in->at, "@:;,= \t\n");
    const size_t kept = n < TOKEN_BYTES - 1 ? n : TOKEN_BYTES - 1;
    memcpy(out, in->at, kept);
    out[kept] = '\0';
    in->at += n;
}

static dml_err complain(const reader *in, const char *what)
{
    DML_FAIL(DML_ERR_SPEC, "failpoints '%s': character %td: %s", in->text, in->at - in->text + 1,
             what);
}

static dml_err read_whole(reader *in, int64_t least, int64_t *out)
{
    skip_blanks(in);
    char *end;
    const long long v = strtoll(in->at, &end, 10);
    if (end == in->at || v < least || v > INT32_MAX)
        return complain(in, "a whole number is wanted");
    in->at = end;
    *out = v;
    return DML_ERR_OK;
}

static dml_err read_pause(reader *in, int64_t *ns)
{
    static const struct {
        const char *unit;
        int64_t ns;
    } units[] = {
        {"us", 1000}, {"ms", DML_NS_PER_MS}, {"s", DML_NS_PER_S}, {"m", 60 * DML_NS_PER_S}};
    int64_t n;
    DML_TRY(read_whole(in, 0, &n));
    char word[TOKEN_BYTES];
    take_word(in, word);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(word, units[i].unit) == 0) {
            *ns = n * units[i].ns;
            return DML_ERR_OK;
        }
    }
    return complain(in, "a pause is a whole number of us, ms, s or m: pause=200ms");
}

static dml_err read_error(reader *in, dml_err *out)
{
    static const struct {
        const char *word;
        dml_err err;
    } codes[] = {{"unavailable", DML_ERR_UNAVAILABLE},
                 {"nomem", DML_ERR_NOMEM},
                 {"data", DML_ERR_DATA},
                 {"peer", DML_ERR_PEER},
                 {"bug", DML_ERR_BUG}};
    char word[TOKEN_BYTES];
    take_word(in, word);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        if (strcmp(word, codes[i].word) == 0) {
            *out = codes[i].err;
            return DML_ERR_OK;
        }
    }
    return complain(in, "an error is unavailable, nomem, data, peer or bug");
}

static dml_err read_condition(reader *in, rule *r)
{
    char word[TOKEN_BYTES];
    take_word(in, word);
    if (strcmp(word, "always") == 0) {
        r->always = true;
    } else if (strcmp(word, "joined") == 0) {
        r->joined = true;
    } else if (strcmp(word, "rank") == 0 && take(in, '=')) {
        int64_t rank;
        DML_TRY(read_whole(in, DML_FAILPOINT_AGENT, &rank));
        r->rank = (int32_t)rank;
    } else if (strcmp(word, "hit") == 0 && take(in, '=')) {
        DML_TRY(read_whole(in, 1, &r->hit));
    } else {
        return complain(in, "a condition is rank=R, hit=N, always or joined");
    }
    return DML_ERR_OK;
}

static dml_err read_action(reader *in, rule *r)
{
    char word[TOKEN_BYTES];
    take_word(in, word);
    if (strcmp(word, "kill") == 0) {
        r->action = ACTION_KILL;
    } else if (strcmp(word, "pass") == 0) {
        r->action = ACTION_PASS;
    } else if (strcmp(word, "pause") == 0 && take(in, '=')) {
        r->action = ACTION_PAUSE;
        DML_TRY(read_pause(in, &r->pause_ns));
    } else if (strcmp(word, "error") == 0) {
        r->action = ACTION_ERROR;
        if (take(in, '=')) DML_TRY(read_error(in, &r->err));
    } else {
        return complain(in, "an action is kill, pause=T, error, error=CODE or pass");
    }
    return DML_ERR_OK;
}

static dml_err read_point(reader *in, dml_failpoint *out)
{
    char word[TOKEN_BYTES];
    take_word(in, word);
    for (int i = 0; i < DML_FAILPOINTS; i++) {
        if (strcmp(word, dml_failpoint_name((dml_failpoint)i)) == 0) {
            *out = (dml_failpoint)i;
            return DML_ERR_OK;
        }
    }
    return complain(in, "no such point; base/failpoint.h lists them");
}

static dml_err read_rule(reader *in, rule *r)
{
    *r = (rule){.rank = ANY_RANK, .hit = 1, .err = DML_ERR_UNAVAILABLE};
    DML_TRY(read_point(in, &r->point));
    if (take(in, '@')) {
        do
            DML_TRY(read_condition(in, r));
        while (take(in, ','));
    }
    if (!take(in, ':')) return complain(in, "':' and an action are wanted");
    DML_TRY(read_action(in, r));
    skip_blanks(in);
    if (*in->at && *in->at != ';') return complain(in, "';' and the next rule are wanted");
    return DML_ERR_OK;
}

/* ---- arming ---- */

/* NULL `joined`: rules for processes of both kinds. */
static dml_err add(const char *text, const bool *joined)
{
    reader in = {.text = text, .at = text};
    const uint32_t before = atomic_load(&dml_failpoints_armed);
    uint32_t n = before;
    for (;;) {
        while (take(&in, ';'))
            ;
        if (!*in.at) break;
        if (n == MAX_RULES) return complain(&in, "there are too many rules");
        rule *r = &rules[n];
        DML_TRY(read_rule(&in, r));
        if (!joined || r->joined == *joined) n++;
    }
    atomic_store_explicit(&dml_failpoints_armed, n, memory_order_release);
    return DML_ERR_OK;
}

dml_err dml_failpoints_arm(const char *text)
{
    return add(text, NULL);
}

dml_err dml_failpoints_from_environment(int32_t rank, bool joined)
{
    process_rank = rank;
    const char *text = getenv("DML_FAILPOINTS");
    return text ? add(text, &joined) : DML_ERR_OK;
}

void dml_failpoints_disarm(void)
{
    atomic_store_explicit(&dml_failpoints_armed, 0, memory_order_release);
    for (int i = 0; i < DML_FAILPOINTS; i++)
        atomic_store_explicit(&counts[i], 0, memory_order_relaxed);
    kill_callback = NULL;
    kill_context = NULL;
}

void dml_failpoints_be(int32_t rank)
{
    thread_rank = rank;
}

void dml_failpoints_on_kill(void (*kill)(void *context, int32_t rank, dml_failpoint point),
                            void *context)
{
    kill_callback = kill;
    kill_context = context;
}
