/* engine/inject_text.c - faults as people write them.
 *
 *   fault  = type [":" code] ["@" option {"," option}]         kill@step=200,stage=2,replica=0
 *   option = name "=" value                                    peers=2+3
 */
#include "engine/inject.h"

#include "engine/spec_value.h"

#include <stdio.h>
#include <string.h>

enum { VALUE_BYTES = 96 };

static const struct {
    const char *name, *doc;
    int32_t takes;
} types[DML_FAULT_TYPES] = {
#define X(type, text, takes, doc) {text, doc, DML_FAULT_TAKES_##takes},
    DML_FAULT_LIST(X)
#undef X
};

static const char *const phases[DML_FAULT_PHASES] = {
#define X(phase, text) text,
    DML_FAULT_PHASE_LIST(X)
#undef X
};

const char *dml_fault_name(dml_fault_type type)
{
    return types[type].name;
}

const char *dml_fault_doc(dml_fault_type type)
{
    return types[type].doc;
}

int32_t dml_fault_takes(dml_fault_type type)
{
    return types[type].takes;
}

bool dml_fault_can_end(dml_fault_type type)
{
    return type != DML_FAULT_SLOW && type != DML_FAULT_CORRUPT;
}

const char *dml_fault_phase_name(dml_fault_phase phase)
{
    return phases[phase];
}

dml_fault dml_fault_none(void)
{
    return (dml_fault){.rank = -1, .stage = -1, .replica = -1, .mb = -1, .time_ns = -1, .code = -1};
}

/* ---- reading ----------------------------------------------------------------------------------------- */

typedef struct reader {
    const char *text, *at;
    dml_fault *out;
} reader;

/* "kill@stpe=3" / "     ^ no option 'stpe'; did you mean 'step'?" */
static dml_err complain(const reader *in, const char *at, const char *what, const char *nearest)
{
    DML_FAIL(DML_ERR_SPEC, "  %s\n  %*s^ %s%s%s%s", in->text, (int)(at - in->text), "", what,
             nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

/* Up to what separates words; what is longer than the room is cut, and then known to nobody. */
static void take_word(reader *in, char out[VALUE_BYTES])
{
    const size_t n = strcspn(in->at, "@:,=");
    const size_t kept = n < VALUE_BYTES - 1 ? n : VALUE_BYTES - 1;
    memcpy(out, in->at, kept);
    out[kept] = '\0';
    in->at += n;
}

static bool take(reader *in, char c)
{
    if (*in->at != c) return false;
    in->at++;
    return true;
}

static bool read_int(const char *text, int64_t least, int64_t most, int64_t *out)
{
    int64_t v;
    if (!dml_value_whole(text, &v) || v < least || v > most) return false;
    *out = v;
    return true;
}

static bool read_i32(const char *text, int32_t least, int32_t most, int32_t *out)
{
    int64_t v;
    if (!read_int(text, least, most, &v)) return false;
    *out = (int32_t)v;
    return true;
}

static bool read_rank(const char *text, int32_t *out)
{
    return read_i32(text, 0, DML_FAULT_RANKS - 1, out);
}

/* "2+3" */
static bool read_peers(const char *text, uint64_t *out)
{
    char one[VALUE_BYTES];
    uint64_t peers = 0;
    for (;;) {
        const size_t n = strcspn(text, "+");
        int32_t rank;
        snprintf(one, sizeof one, "%.*s", (int)n, text);
        if (!read_rank(one, &rank)) return false;
        peers |= UINT64_C(1) << rank;
        if (!text[n]) break;
        text += n + 1;
    }
    *out = peers;
    return true;
}

static bool read_phase(const char *text, int32_t *out)
{
    for (int32_t i = 0; i < DML_FAULT_PHASES; i++) {
        if (!dml_value_same_word(text, phases[i])) continue;
        *out = i;
        return true;
    }
    return false;
}

static bool read_tensor(const char *text, char *out)
{
    return *text && snprintf(out, DML_FAULT_TENSOR_BYTES, "%s", text) < DML_FAULT_TENSOR_BYTES;
}

/* clang-format off */
/*    option         how it is read                                         what is wanted                          */
#define OPTION_LIST(X)                                                                                               \
    X("step",        read_int(v, 1, INT64_MAX, &f->step),                   "a step, from 1")                        \
    X("phase",       read_phase(v, &f->phase),                              "any, forward, backward, send, receive, reduce, vote, commit or eval") \
    X("micro_batch", read_i32(v, 0, INT32_MAX, &f->mb),                     "a micro-batch of the step, from 0")     \
    X("time",        dml_value_time(v, &f->time_ns),                        "a time such as 90s")                    \
    X("rank",        read_rank(v, &f->rank),                                "a rank, 0 to 63")                       \
    X("stage",       read_i32(v, 0, INT32_MAX, &f->stage),                  "a stage, from 0")                       \
    X("replica",     read_i32(v, 0, INT32_MAX, &f->replica),                "a replica of the stage, from 0")        \
    X("duration",    dml_value_time(v, &f->duration_ns) && f->duration_ns > 0, "a time such as 20s")                 \
    X("factor",      dml_value_number(v, &f->factor) && f->factor >= 1,     "a factor, at least 1")                  \
    X("code",        read_i32(v, 0, 255, &f->code),                         "a number, 0 to 255")                    \
    X("peers",       read_peers(v, &f->peers),                              "ranks such as 2 or 2+3")                \
    X("tensor",      read_tensor(v, f->tensor),                             "a parameter such as conv1.weight")
/* clang-format on */

static dml_err read_option(reader *in)
{
    char name[VALUE_BYTES], v[VALUE_BYTES];
    const char *const begin = in->at;
    dml_fault *f = in->out;
    dml_nearest near;
    take_word(in, name);
    near = dml_nearest_to(name);
#define X(option, read, wanted)                                                   \
    if (dml_value_same_word(name, option)) {                                      \
        if (!take(in, '=')) return complain(in, in->at, "'=' and " wanted, NULL); \
        const char *const at = in->at;                                            \
        take_word(in, v);                                                         \
        return (read) ? DML_ERR_OK : complain(in, at, "expected " wanted, NULL);  \
    }                                                                             \
    dml_nearest_offer(&near, option, option);
    OPTION_LIST(X)
#undef X
    return complain(in, begin, "no such option", near.best);
}

static dml_err read_type(reader *in)
{
    char name[VALUE_BYTES];
    take_word(in, name);
    dml_nearest near = dml_nearest_to(name);
    for (int32_t i = 0; i < DML_FAULT_TYPES; i++) {
        if (dml_value_same_word(name, types[i].name)) {
            in->out->type = i;
            return DML_ERR_OK;
        }
        dml_nearest_offer(&near, types[i].name, types[i].name);
    }
    return complain(in, in->text, "no such fault", near.best);
}

dml_err dml_fault_parse(const char *text, dml_fault *out)
{
    dml_fault f = dml_fault_none();
    reader in = {.text = text, .at = text, .out = &f};
    DML_TRY(read_type(&in));
    if (take(&in, ':')) {
        char code[VALUE_BYTES];
        const char *const at = in.at;
        take_word(&in, code);
        if (!read_i32(code, 0, 255, &f.code)) return complain(&in, at, "expected a number", NULL);
    }
    if (take(&in, '@')) {
        do
            DML_TRY(read_option(&in));
        while (take(&in, ','));
    }
    if (*in.at) return complain(&in, in.at, "expected '@' and options, or the end", NULL);
    DML_TRY(dml_fault_check(&f));
    *out = f;
    return DML_ERR_OK;
}

/* ---- what must hold ---------------------------------------------------------------------------------- */

static dml_err refuse(const dml_fault *f, const char *what)
{
    char text[DML_FAULT_TEXT_BYTES];
    dml_fault_print(f, text);
    DML_FAIL(DML_ERR_SPEC, "%s: %s", text, what);
}

static dml_err check_when(const dml_fault *f)
{
    const bool by_op = f->phase != DML_FAULT_AT_ANY || f->mb >= 0;
    if (f->step > 0 && f->time_ns >= 0) return refuse(f, "by step or by time, not both");
    if (by_op && f->step == 0) return refuse(f, "phase and micro_batch are of a step: step=N");
    if (f->mb >= 0 && f->phase > DML_FAULT_AT_RECEIVE && f->phase != DML_FAULT_AT_EVAL)
        return refuse(f, "ops of that phase have no micro-batch");
    return DML_ERR_OK;
}

static dml_err check_whom(const dml_fault *f)
{
    if (f->rank >= 0 && (f->stage >= 0 || f->replica >= 0))
        return refuse(f, "a rank, or a stage and a replica, not both");
    if (f->replica >= 0 && f->stage < 0) return refuse(f, "replica is of a stage: stage=N");
    return DML_ERR_OK;
}

static dml_err check_how(const dml_fault *f)
{
    const int32_t takes = types[f->type].takes;
    if (f->duration_ns > 0 && !(takes & DML_FAULT_TAKES_DURATION))
        return refuse(f, "it takes no duration");
    if (f->factor > 0 && !(takes & DML_FAULT_TAKES_FACTOR)) return refuse(f, "it takes no factor");
    if (f->code >= 0 && !(takes & DML_FAULT_TAKES_CODE)) return refuse(f, "it takes no code");
    const bool between = f->type == DML_FAULT_LINK_DOWN || f->type == DML_FAULT_PARTITION;
    if (f->peers && !between) return refuse(f, "it takes no peers");
    if (between && !f->peers) return refuse(f, "peers=R says which ranks are at the other end");
    if (f->type == DML_FAULT_LINK_DOWN && f->peers & (f->peers - 1))
        return refuse(f, "a link has one peer; partition takes several");
    if (f->rank >= 0 && f->peers >> f->rank & 1) return refuse(f, "a rank is not its own peer");
    if (f->tensor[0] && !(takes & DML_FAULT_TAKES_TENSOR)) return refuse(f, "it takes no tensor");
    if (f->type == DML_FAULT_XID && f->code < 0) return refuse(f, "code=N, the Xid, is missing");
    return DML_ERR_OK;
}

dml_err dml_fault_check(const dml_fault *f)
{
    DML_TRY(check_when(f));
    DML_TRY(check_whom(f));
    return check_how(f);
}

/* ---- printing ---------------------------------------------------------------------------------------- */

static void print_whom(dml_str *s, const dml_fault *f)
{
    if (f->rank >= 0) dml_str_printf(s, ",rank=%d", f->rank);
    if (f->stage >= 0) dml_str_printf(s, ",stage=%d", f->stage);
    if (f->replica >= 0) dml_str_printf(s, ",replica=%d", f->replica);
}

static void print_time(dml_str *s, const char *name, int64_t ns)
{
    dml_str_printf(s, ",%s=", name);
    dml_value_print_time(s, ns);
}

static void print_how(dml_str *s, const dml_fault *f)
{
    if (f->duration_ns > 0) print_time(s, "duration", f->duration_ns);
    if (f->factor > 0) {
        dml_str_printf(s, ",factor=");
        dml_value_print_double(s, f->factor);
    }
    if (f->code >= 0) dml_str_printf(s, ",code=%d", f->code);
    const char *sep = ",peers=";
    for (int32_t r = 0; r < DML_FAULT_RANKS; r++) {
        if (!(f->peers >> r & 1)) continue;
        dml_str_printf(s, "%s%d", sep, r);
        sep = "+";
    }
    if (f->tensor[0]) dml_str_printf(s, ",tensor=%s", f->tensor);
}

void dml_fault_print(const dml_fault *f, char *text)
{
    dml_str s = {0};
    if (f->step > 0) dml_str_printf(&s, ",step=%lld", (long long)f->step);
    if (f->time_ns >= 0) print_time(&s, "time", f->time_ns);
    if (f->phase != DML_FAULT_AT_ANY) dml_str_printf(&s, ",phase=%s", phases[f->phase]);
    if (f->mb >= 0) dml_str_printf(&s, ",micro_batch=%d", f->mb);
    print_whom(&s, f);
    print_how(&s, f);
    const char *options = dml_str_text(&s);
    snprintf(text, DML_FAULT_TEXT_BYTES, "%s%s%s", types[f->type].name, *options ? "@" : "",
             *options ? options + 1 : "");
    dml_str_free(&s);
}
