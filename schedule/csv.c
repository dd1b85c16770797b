/* schedule/csv.c - reads the text twice: for its size, then for its ops. */
#include "schedule/csv.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NUMBER = 1 << 20 };

/* clang-format off */
/*    word           what it is here; -1: passed over */
#define ACTION_LIST(X)          \
    X("F",           DML_OP_FWD)        \
    X("B",           DML_OP_BWD)        \
    X("I",           DML_OP_BWD_INPUT)  \
    X("W",           DML_OP_BWD_WEIGHT) \
    X("SEND_F",      -1)        \
    X("RECV_F",      -1)        \
    X("SEND_B",      -1)        \
    X("RECV_B",      -1)        \
    X("UNSHARD",     -1)        \
    X("RESHARD",     -1)        \
    X("REDUCE_GRAD", -1)
/* clang-format on */

static const char pair_end[] = ")OVERLAP_F_B";

typedef struct action {
    const char *word;
    int32_t kind;
} action;

static const action actions[] = {
#define X(word, kind) {word, kind},
    ACTION_LIST(X)
#undef X
};

typedef struct reader {
    const char *name, *line, *at;
    int32_t line_no, row;      /* row: of the current line, -1 before the first */
    int32_t rows, stages, mbs; /* how many were seen */
    dml_program *p;            /* NULL: the first reading */
} reader;

typedef struct cell {
    int32_t stage, kind, mb; /* kind -1: passed over */
} cell;

#define FAIL_AT(r, where, fmt, ...)                                                   \
    return dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__, "%s:%d:%d: " fmt, (r)->name, \
                       (r)->line_no, (int)((where) - (r)->line) + 1, __VA_ARGS__)

static void skip_blanks(reader *r)
{
    while (*r->at == ' ' || *r->at == '\t' || *r->at == '\r' || *r->at == '"')
        r->at++;
}

static bool ends(const reader *r)
{
    return *r->at == '\n' || *r->at == '\0';
}

static int cell_bytes(const char *from)
{
    const size_t n = strcspn(from, ",\r\n\" \t");
    return (int)(n < 24 ? n : 24);
}

static dml_err number(reader *r, const char *begin, const char *what, int32_t *out)
{
    if (!isdigit((unsigned char)*r->at))
        FAIL_AT(r, r->at, "a cell is STAGE ACTION MICRO-BATCH, such as 2F7: '%.*s' has no %s",
                cell_bytes(begin), begin, what);
    char *end;
    const long n = strtol(r->at, &end, 10);
    if (n >= MOST_NUMBER)
        FAIL_AT(r, r->at, "%s %ld is beyond the most, %d", what, n, MOST_NUMBER - 1);
    r->at = end;
    *out = (int32_t)n;
    return DML_ERR_OK;
}

static dml_err read_action(reader *r, const char *begin, int32_t *kind)
{
    const size_t n = strspn(r->at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strlen(actions[i].word) == n && strncmp(actions[i].word, r->at, n) == 0) {
            r->at += n;
            *kind = actions[i].kind;
            return DML_ERR_OK;
        }
    FAIL_AT(
        r, r->at,
        "'%.*s' has no action that is known: F, B, I, W, or one of SEND_F, RECV_F, SEND_B, RECV_B, "
        "UNSHARD, RESHARD, REDUCE_GRAD, which are passed over",
        cell_bytes(begin), begin);
}

static dml_err read_cell(reader *r, cell *out)
{
    const char *begin = r->at;
    DML_TRY(number(r, begin, "stage", &out->stage));
    DML_TRY(read_action(r, begin, &out->kind));
    out->mb = 0;
    if (out->kind >= 0 || isdigit((unsigned char)*r->at))
        DML_TRY(number(r, begin, "micro-batch", &out->mb));
    skip_blanks(r);
    return DML_ERR_OK;
}

static void take(reader *r, const cell *c)
{
    if (c->kind < 0) return;
    if (c->stage >= r->stages) r->stages = c->stage + 1;
    if (c->mb >= r->mbs) r->mbs = c->mb + 1;
    if (r->p) dml_program_push(r->p, r->row, (dml_op_kind)c->kind, c->stage, c->mb);
}

/* "(0F7;7B3)OVERLAP_F_B": its actions one after the other. */
static dml_err read_pair(reader *r)
{
    const char *const begin = r->at;
    do {
        cell c;
        r->at++; /* '(' or ';' */
        skip_blanks(r);
        DML_TRY(read_cell(r, &c));
        take(r, &c);
    } while (*r->at == ';');
    const size_t n = strlen(pair_end);
    if (strncmp(r->at, pair_end, n) != 0)
        FAIL_AT(r, r->at, "actions that overlap are written (2F7;5B1)OVERLAP_F_B, not '%.*s'",
                cell_bytes(begin), begin);
    r->at += n;
    skip_blanks(r);
    return DML_ERR_OK;
}

static dml_err read_row(reader *r)
{
    r->row = r->rows++;
    while (!ends(r)) {
        cell c;
        if (*r->at == '(') {
            DML_TRY(read_pair(r));
        } else if (*r->at != ',') {
            DML_TRY(read_cell(r, &c));
            take(r, &c);
        }
        if (!ends(r) && *r->at != ',')
            FAIL_AT(r, r->at, "a comma or the end of the line was expected, not '%.*s'",
                    cell_bytes(r->at), r->at);
        if (*r->at == ',') r->at++;
        skip_blanks(r);
    }
    return DML_ERR_OK;
}

/* Every line is a rank's, also one of commas alone: a rank without work.  Blank lines are none. */
static dml_err read_all(reader *r, const char *text)
{
    for (r->at = text; *r->at;) {
        r->line = r->at;
        r->line_no++;
        skip_blanks(r);
        if (*r->at == '#')
            r->at += strcspn(r->at, "\n");
        else if (!ends(r))
            DML_TRY(read_row(r));
        if (*r->at == '\n') r->at++;
    }
    return DML_ERR_OK;
}

dml_err dml_csv_parse(const char *name, const char *text, dml_program *out)
{
    *out = (dml_program){0};
    reader size = {.name = name};
    DML_TRY(read_all(&size, text));
    if (size.stages == 0)
        DML_FAIL(DML_ERR_SPEC,
                 "%s:1:1: there is no action in it; a row is a rank's: 0F0,0F1,0B0,0B1", name);
    DML_TRY(dml_program_init(out, size.rows, size.stages, size.mbs));
    reader ops = {.name = name, .p = out};
    const dml_err err = read_all(&ops, text);
    DML_ASSERT_OP(err, ==, DML_ERR_OK); /* the first reading was all right */
    dml_program_route_by_ops(out);
    return DML_ERR_OK;
}

void dml_csv_print(const dml_program *p, dml_str *out)
{
    for (int32_t w = 0; w < p->workers; w++) {
        bool first = true;
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            const dml_op_info *info = dml_op_info_of((dml_op_kind)op->kind);
            if (info->lane != DML_LANE_COMPUTE || !info->has_mb || op->edge > 1)
                continue; /* parts once */
            if (op->kind == DML_OP_RECOMPUTE) continue;
            dml_str_printf(out, "%s%d%s%d", first ? "" : ",", op->chunk, info->text, op->mb);
            first = false;
        }
        dml_str_append(out, first ? ",\n" : "\n", first ? 2 : 1);
    }
}
