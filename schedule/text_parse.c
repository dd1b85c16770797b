/* schedule/text_parse.c - reading, by recursive descent over one line at a time. */
#include "schedule/text.h"

#include "engine/base/arena.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const char *name;
    const char *line; /* start of the current line */
    const char *at;
    int32_t line_no;
    dml_program *p;
    dml_arena *arena;
    bool *routed;   /* [chunks] has a route line */
    dml_skip *skip; /* [n_skips] read so far */
    int32_t n_skips;
    int32_t worker; /* whose ops come now, -1 none yet */
} reader;

#define FAIL_AT(r, where, fmt, ...)                                                   \
    return dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__, "%s:%d:%d: " fmt, (r)->name, \
                       (r)->line_no, (int)((where) - (r)->line) + 1, __VA_ARGS__)

static void skip_blanks(reader *r)
{
    while (*r->at == ' ' || *r->at == '\t' || *r->at == '\r')
        r->at++;
    if (*r->at == '#') r->at += strcspn(r->at, "\n");
}

static bool at_line_end(const reader *r)
{
    return *r->at == '\n' || *r->at == '\0';
}

/* Goes from the start of the text, or the end of a line, to the next line that says something;
 * false at the end of the text. */
static bool next_line(reader *r)
{
    for (;;) {
        if (r->line_no > 0 && *r->at == '\0') return false;
        if (r->line_no > 0) r->at++; /* the newline */
        r->line = r->at;
        r->line_no++;
        skip_blanks(r);
        if (!at_line_end(r)) return true;
    }
}

/* Up to 30 characters of what stands here, for messages. */
typedef struct found {
    char text[40];
} found;

static found found_at(const reader *r)
{
    found f = {"the end of the line"};
    const size_t n = strcspn(r->at, " \t\r\n");
    if (n > 0) {
        snprintf(f.text, sizeof f.text, "'%.*s'", (int)(n < 30 ? n : 30), r->at);
    }
    return f;
}

static bool take_word(reader *r, const char *word)
{
    const size_t n = strlen(word);
    if (strncmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

static dml_err expect(reader *r, const char *word)
{
    if (!take_word(r, word)) FAIL_AT(r, r->at, "expected '%s', not %s", word, found_at(r).text);
    return DML_ERR_OK;
}

static dml_err read_int(reader *r, const char *what, int64_t min, int64_t max, int32_t *out)
{
    const char *start = r->at;
    char *end;
    const long long v = isspace((unsigned char)*start) ? 0 : strtoll(start, &end, 10);
    if (isspace((unsigned char)*start) || end == start)
        FAIL_AT(r, start, "expected a number (%s), not %s", what, found_at(r).text);
    if (v < min || v > max)
        FAIL_AT(r, start, "%s is %lld, not from %lld to %lld", what, v, (long long)min,
                (long long)max);
    r->at = end;
    *out = (int32_t)v;
    return DML_ERR_OK;
}

static dml_err read_policy(reader *r, dml_recompute *out)
{
    for (int32_t k = 0; k < DML_RECOMPUTES; k++)
        if (take_word(r, dml_recompute_text((dml_recompute)k))) {
            *out = (dml_recompute)k;
            return DML_ERR_OK;
        }
    FAIL_AT(r, r->at, "expected a recompute policy, not %s", found_at(r).text);
}

static dml_err read_header(reader *r)
{
    int32_t workers, chunks, mbs;
    const bool lowered = take_word(r, "program");
    if (!lowered) DML_TRY(expect(r, "order"));
    skip_blanks(r);
    DML_TRY(expect(r, "workers="));
    DML_TRY(read_int(r, "workers", 1, DML_MAX_WORKERS, &workers));
    skip_blanks(r);
    DML_TRY(expect(r, "chunks="));
    DML_TRY(read_int(r, "chunks", 1, DML_MAX_CHUNKS, &chunks));
    skip_blanks(r);
    DML_TRY(expect(r, "mbs="));
    DML_TRY(read_int(r, "mbs", 1, DML_MAX_MBS, &mbs));
    skip_blanks(r);
    const bool forward_only = take_word(r, "forward_only");
    skip_blanks(r);
    const bool unvoted = take_word(r, "unvoted");
    skip_blanks(r);
    const bool staggered = take_word(r, "staggered");
    skip_blanks(r);
    dml_recompute recompute = DML_RECOMPUTE_NONE;
    if (take_word(r, "recompute=")) DML_TRY(read_policy(r, &recompute));
    DML_TRY(dml_program_init(r->p, workers, chunks, mbs));
    r->p->lowered = lowered;
    r->p->recompute = recompute;
    r->p->forward_only = forward_only;
    r->p->votes = !unvoted;
    r->p->staggered = staggered;
    return DML_ERR_OK;
}

static dml_err read_range(reader *r, const char *what, int32_t *begin, int32_t *end)
{
    skip_blanks(r);
    DML_TRY(expect(r, what));
    DML_TRY(expect(r, "="));
    DML_TRY(read_int(r, what, 0, INT32_MAX, begin));
    DML_TRY(expect(r, "-"));
    return read_int(r, what, 0, INT32_MAX, end);
}

static dml_err read_label(reader *r, int32_t *chunk)
{
    skip_blanks(r);
    DML_TRY(read_int(r, "chunk", 0, r->p->chunks - 1, chunk));
    return expect(r, ":");
}

static dml_err read_span(reader *r)
{
    int32_t c;
    DML_TRY(read_label(r, &c));
    dml_chunk_span *s = &r->p->span[c];
    DML_TRY(read_range(r, "layers", &s->layer_begin, &s->layer_end));
    DML_TRY(read_range(r, "params", &s->param_begin, &s->param_end));
    const struct {
        const char *word, *what;
        int32_t max, *to;
    } count[] = {{"buckets=", "buckets", DML_MAX_BUCKETS, &r->p->buckets[c]},
                 {"update=", "update", r->p->mbs, &r->p->update_mbs[c]},
                 {"versions=", "versions", DML_MAX_MBS + 1, &r->p->versions[c]},
                 {"sums=", "sums", DML_MAX_MBS, &r->p->sums[c]}};
    for (size_t k = 0; k < sizeof count / sizeof *count; k++) {
        skip_blanks(r);
        if (take_word(r, count[k].word))
            DML_TRY(read_int(r, count[k].what, 1, count[k].max, count[k].to));
    }
    return DML_ERR_OK;
}

static dml_err read_route(reader *r)
{
    int32_t c;
    DML_TRY(read_label(r, &c));
    for (int32_t mb = 0; mb < r->p->mbs; mb++) {
        skip_blanks(r);
        DML_TRY(read_int(r, "worker", -1, r->p->workers - 1, dml_program_route(r->p, c, mb)));
    }
    r->routed[c] = true;
    return DML_ERR_OK;
}

static dml_err read_chunk_of(reader *r, const char *what, int32_t *chunk)
{
    skip_blanks(r);
    DML_TRY(expect(r, what));
    DML_TRY(expect(r, "="));
    return read_int(r, "chunk", 0, r->p->chunks - 1, chunk);
}

/* They are given to the program together, before the first line that needs them. */
static dml_err read_skip(reader *r)
{
    int32_t k;
    const char *start = r->at;
    skip_blanks(r);
    DML_TRY(read_int(r, "number of the skip", 1, DML_MAX_SKIPS, &k));
    if (r->p->n_skips > 0 || r->worker >= 0 || k != r->n_skips + 1)
        FAIL_AT(r, start, "skip %d is out of place: they come in turn, before pools and ops", k);
    DML_TRY(expect(r, ":"));
    if (r->n_skips == 0) r->skip = DML_NEW_N(r->arena, dml_skip, DML_MAX_SKIPS);
    dml_skip *s = &r->skip[r->n_skips++];
    DML_TRY(read_chunk_of(r, "from", &s->from));
    DML_TRY(read_chunk_of(r, "to", &s->to));
    return read_chunk_of(r, "back", &s->back);
}

static dml_err set_skips(reader *r)
{
    return r->p->n_skips > 0 ? DML_ERR_OK : dml_program_set_skips(r->p, r->n_skips, r->skip);
}

/* "skip1:" or "0:" */
static dml_err read_port(reader *r, int32_t *port)
{
    if (!take_word(r, "skip")) return read_label(r, port);
    DML_TRY(read_int(r, "skip", 1, r->p->n_skips, port));
    *port = dml_skip_port(r->p, *port);
    return expect(r, ":");
}

static dml_err read_pools(reader *r)
{
    int32_t w, c;
    skip_blanks(r);
    DML_TRY(set_skips(r));
    DML_TRY(read_int(r, "worker", 0, r->p->workers - 1, &w));
    DML_TRY(expect(r, "."));
    DML_TRY(read_port(r, &c));
    for (int32_t k = 0; k < DML_POOLS; k++) {
        if (k == DML_POOL_KEPT && r->p->recompute == DML_RECOMPUTE_NONE) continue;
        skip_blanks(r);
        DML_TRY(expect(r, dml_pool_text((dml_pool)k)));
        DML_TRY(expect(r, "="));
        DML_TRY(read_int(r, "slots", 0, INT16_MAX + 1, dml_program_slots(r->p, w, c, (dml_pool)k)));
    }
    return DML_ERR_OK;
}

/* The kind whose text is the letters here, DML_OP_KINDS when none is. */
static int32_t take_kind(reader *r)
{
    const size_t n = strspn(r->at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
    for (int32_t k = 0; k < DML_OP_KINDS; k++) {
        const char *text = dml_op_info_of((dml_op_kind)k)->text;
        if (strlen(text) != n || strncmp(text, r->at, n) != 0) continue;
        r->at += n;
        return k;
    }
    return DML_OP_KINDS;
}

static dml_err read_operands(reader *r, dml_op *op)
{
    for (int32_t n_waits = 0;;) {
        int32_t v;
        skip_blanks(r);
        if (take_word(r, "version=")) {
            DML_TRY(read_int(r, "version", INT8_MIN, INT8_MAX, &v));
            op->version = (int8_t)v;
        } else if (take_word(r, "peer=")) {
            DML_TRY(read_int(r, "peer", 0, r->p->workers - 1, &v));
            op->peer = (int16_t)v;
        } else if (take_word(r, "slot=")) {
            DML_TRY(read_int(r, "slot", 0, INT16_MAX, &v));
            op->slot = (int16_t)v;
        } else if (n_waits < DML_OP_WAITS && take_word(r, "wait=")) {
            DML_TRY(read_int(r, "wait", 0, INT32_MAX, &op->wait[n_waits++]));
        } else {
            return DML_ERR_OK;
        }
    }
}

static dml_err read_op(reader *r)
{
    const char *start = r->at;
    const int32_t kind = take_kind(r);
    if (kind == DML_OP_KINDS) FAIL_AT(r, start, "expected an op, not %s", found_at(r).text);
    int32_t chunk = 0, mb = DML_NO_MB, edge = 0;
    if (kind != DML_OP_VOTE) DML_TRY(read_int(r, "chunk", 0, r->p->chunks - 1, &chunk));
    if (dml_op_info_of((dml_op_kind)kind)->has_mb) {
        DML_TRY(expect(r, "."));
        DML_TRY(read_int(r, "micro-batch", 0, r->p->mbs - 1, &mb));
    } else if (take_word(r, ".")) {
        DML_TRY(read_int(r, "update", 0, r->p->mbs - 1, &mb));
    }
    if (take_word(r, "/")) DML_TRY(read_int(r, "part", 1, DML_MAX_BUCKETS, &edge));
    const int32_t i = dml_program_push(r->p, r->worker, (dml_op_kind)kind, chunk, mb);
    r->p->list[r->worker].op[i].edge = (uint16_t)edge;
    return read_operands(r, &r->p->list[r->worker].op[i]);
}

/* Ops to the end of the line, each with its number before it or not. */
static dml_err read_ops(reader *r)
{
    for (skip_blanks(r); !at_line_end(r); skip_blanks(r)) {
        if (isdigit((unsigned char)*r->at)) {
            const int32_t next = r->p->list[r->worker].n;
            int32_t number;
            DML_TRY(read_int(r, "number of the op", next, next, &number));
            skip_blanks(r);
        }
        DML_TRY(read_op(r));
    }
    return DML_ERR_OK;
}

static dml_err read_line(reader *r)
{
    const bool indented = r->at > r->line;
    if (!indented && isdigit((unsigned char)*r->at)) {
        DML_TRY(read_int(r, "worker", 0, r->p->workers - 1, &r->worker));
        DML_TRY(expect(r, ":"));
        DML_TRY(set_skips(r));
        return read_ops(r);
    }
    if (take_word(r, "chunk")) return read_span(r);
    if (take_word(r, "skip")) return read_skip(r);
    if (take_word(r, "route")) return read_route(r);
    if (take_word(r, "pools")) return read_pools(r);
    if (!indented || r->worker < 0)
        FAIL_AT(r, r->at, "expected 'chunk', 'skip', 'route', 'pools' or a worker, not %s",
                found_at(r).text);
    return read_ops(r);
}

static dml_err read_all(reader *r)
{
    if (!next_line(r)) FAIL_AT(r, r->at, "expected '%s'", "order or program");
    DML_TRY(read_header(r));
    r->routed = DML_NEW_N(r->arena, bool, r->p->chunks);
    for (;;) {
        skip_blanks(r);
        if (!at_line_end(r))
            FAIL_AT(r, r->at, "expected the end of the line, not %s", found_at(r).text);
        if (!next_line(r)) break;
        DML_TRY(read_line(r));
    }
    DML_TRY(set_skips(r));
    for (int32_t w = 0; w < r->p->workers; w++)
        for (int32_t i = 0; i < r->p->list[w].n; i++) {
            const dml_op *op = &r->p->list[w].op[i];
            if (op->kind == DML_OP_FWD && !r->routed[op->chunk])
                *dml_program_route(r->p, op->chunk, op->mb) = w;
        }
    return DML_ERR_OK;
}

dml_err dml_text_parse(const char *name, const char *text, dml_program *out)
{
    *out = (dml_program){0};
    dml_arena arena = {0};
    reader r = {.name = name, .line = text, .at = text, .p = out, .arena = &arena, .worker = -1};
    const dml_err err = read_all(&r);
    if (err != DML_ERR_OK) dml_program_free(out);
    dml_arena_free(&arena);
    return err;
}
