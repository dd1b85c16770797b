/* engine/safetensors_parse.c - the header's JSON, in one pass by a grammar of its own: nothing in it nests deeper than
 * a list in an entry in the object, so there is no general JSON to get wrong.
 *
 *   header    { entry, ... }          entry     "name" : { field, ... }   |   "__metadata__" : { "k" : "v", ... }
 *   field     "dtype" : "F32"   |   "shape" : [ n, ... ]   |   "data_offsets" : [ n, n ]
 */
#include "engine/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const char *file, *json;
    int64_t n, at;
    dml_arena *arena;
    char *scratch; /* [64 * DML_ST_NAME_BYTES + 8] where a text is put together */
    int32_t cap, metadata_cap;
    bool has_metadata;
    dml_safetensors st;
} reader;

#define FAIL_AT(r, where, ...)                                                        \
    do {                                                                              \
        char why_[400];                                                               \
        snprintf(why_, sizeof why_, __VA_ARGS__);                                     \
        DML_FAIL(DML_ERR_DATA, "'%s': byte %" PRId64 " of the header: %s", (r)->file, \
                 (int64_t)(where), why_);                                             \
    } while (0)
#define FAIL(r, ...) FAIL_AT(r, (r)->at, __VA_ARGS__)

/* ---- characters ---- */

static int peek(const reader *r)
{
    return r->at < r->n ? (unsigned char)r->json[r->at] : -1;
}

static void skip_space(reader *r)
{
    int c;
    while ((c = peek(r)) == ' ' || c == '\t' || c == '\n' || c == '\r')
        r->at++;
}

/* "'x'", "the end", or its number: what stands where something else should. */
static const char *found(const reader *r, char text[16])
{
    const int c = peek(r);
    if (c < 0) return "the end";
    snprintf(text, 16, c > ' ' && c < 127 ? "'%c'" : "byte 0x%02x", c);
    return text;
}

static dml_err expect(reader *r, char c, const char *where)
{
    char text[16];
    skip_space(r);
    if (peek(r) != c) FAIL(r, "'%c' is missing %s, there is %s", c, where, found(r, text));
    r->at++;
    return DML_ERR_OK;
}

/* After an item of a list or an object: true when another follows. */
static dml_err another(reader *r, char close, const char *where, bool *more)
{
    char text[16];
    skip_space(r);
    const int c = peek(r);
    if (c != ',' && c != close)
        FAIL(r, "',' or '%c' is missing %s, there is %s", close, where, found(r, text));
    r->at++;
    *more = c == ',';
    return DML_ERR_OK;
}

/* ---- texts ---- */

static dml_err hex4(reader *r, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        const int c = peek(r);
        const char *digits = "0123456789abcdef", *d = c > 0 ? strchr(digits, c | 0x20) : NULL;
        if (!d || (c < '0' || (c > '9' && c < 'A'))) FAIL(r, "\\u takes four hexadecimal digits");
        *out = *out << 4 | (uint32_t)(d - digits);
    }
    return DML_ERR_OK;
}

static int64_t put_utf8(char *to, uint32_t code)
{
    if (code < 0x80) {
        to[0] = (char)code;
        return 1;
    }
    const int extra = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    to[0] = (char)(lead[extra] | code >> (6 * extra));
    for (int i = 1; i <= extra; i++)
        to[i] = (char)(0x80 | (code >> (6 * (extra - i)) & 0x3f));
    return extra + 1;
}

/* Behind the backslash and the u. */
static dml_err unicode_escape(reader *r, uint32_t *code)
{
    const int64_t at = r->at - 2;
    DML_TRY(hex4(r, code));
    if (*code == 0) FAIL_AT(r, at, "\\u0000 in a text");
    if (*code < 0xd800 || *code > 0xdfff) return DML_ERR_OK;
    uint32_t low = 0;
    if (*code < 0xdc00 && r->at + 1 < r->n && r->json[r->at] == '\\' && r->json[r->at + 1] == 'u') {
        r->at += 2;
        DML_TRY(hex4(r, &low));
    }
    if (low < 0xdc00 || low > 0xdfff) FAIL_AT(r, at, "a lone surrogate, \\u%04x", *code);
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    return DML_ERR_OK;
}

static dml_err escape(reader *r, char *to, int64_t *bytes)
{
    static const char from_list[] = "\"\\/bfnrt", to_list[] = "\"\\/\b\f\n\r\t";
    const int c = peek(r);
    if (c == 'u') {
        uint32_t code;
        r->at++;
        DML_TRY(unicode_escape(r, &code));
        *bytes = put_utf8(to, code);
        return DML_ERR_OK;
    }
    const char *p = c > 0 ? strchr(from_list, c) : NULL;
    if (!p) FAIL(r, "a backslash and then something that is no escape");
    *to = to_list[p - from_list];
    *bytes = 1;
    r->at++;
    return DML_ERR_OK;
}

/* One character that stands for itself: well-formed UTF-8 only (no overlong form, no surrogate, at most U+10FFFF). */
static dml_err plain(reader *r, char *to, int64_t *bytes)
{
    const unsigned char *s = (const unsigned char *)r->json + r->at;
    const int n = s[0] < 0x80   ? 1
                  : s[0] < 0xc2 ? 0
                  : s[0] < 0xe0 ? 2
                  : s[0] < 0xf0 ? 3
                  : s[0] < 0xf5 ? 4
                                : 0;
    bool good = n > 0 && r->at + n <= r->n;
    for (int i = 1; good && i < n; i++)
        good = (s[i] & 0xc0) == 0x80;
    if (good && n > 2) {
        const unsigned low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
        const unsigned high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
        good = s[1] >= low && s[1] <= high;
    }
    if (!good) FAIL(r, "not UTF-8");
    if (s[0] < 0x20) FAIL(r, "a control character in a text");
    memcpy(to, s, (size_t)n);
    *bytes = n;
    r->at += n;
    return DML_ERR_OK;
}

/* A text of at most `most` bytes, in r->scratch. */
static dml_err text(reader *r, int64_t most, const char *where)
{
    int64_t n = 0, bytes = 0;
    DML_TRY(expect(r, '"', where));
    const int64_t begin = r->at - 1;
    for (int c; (c = peek(r)) != '"'; n += bytes) {
        if (c < 0) FAIL_AT(r, begin, "a text that does not end");
        if (c == '\\') {
            r->at++;
            DML_TRY(escape(r, r->scratch + n, &bytes));
        } else {
            DML_TRY(plain(r, r->scratch + n, &bytes));
        }
        if (n + bytes > most) FAIL_AT(r, begin, "a text of more than %" PRId64 " bytes", most);
    }
    r->scratch[n] = '\0';
    r->at++;
    return DML_ERR_OK;
}

/* ---- numbers ---- */

static dml_err number(reader *r, const char *what, int64_t *out)
{
    skip_space(r);
    const int64_t begin = r->at;
    char shown[16];
    if (peek(r) == '-') FAIL(r, "a negative number for %s", what);
    if (peek(r) < '0' || peek(r) > '9')
        FAIL(r, "a whole number is missing for %s, there is %s", what, found(r, shown));
    *out = 0;
    for (int c; (c = peek(r)) >= '0' && c <= '9'; r->at++)
        if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, c - '0', out))
            FAIL_AT(r, begin, "a number beyond 2^63 for %s", what);
    if (r->json[begin] == '0' && r->at - begin > 1)
        FAIL_AT(r, begin, "a number with a leading zero for %s", what);
    if (peek(r) == '.') FAIL(r, "a fraction for %s", what);
    if (peek(r) == 'e' || peek(r) == 'E') FAIL(r, "a number with an exponent for %s", what);
    return DML_ERR_OK;
}

/* [*n numbers], at most `most`. */
static dml_err numbers(reader *r, const char *what, int32_t most, int64_t *out, int32_t *n)
{
    bool more = true;
    DML_TRY(expect(r, '[', "before a list"));
    skip_space(r);
    *n = 0;
    if (peek(r) == ']') {
        r->at++;
        return DML_ERR_OK;
    }
    while (more) {
        if (*n == most) FAIL(r, "more than %d numbers in %s", most, what);
        DML_TRY(number(r, what, &out[(*n)++]));
        DML_TRY(another(r, ']', "in a list", &more));
    }
    return DML_ERR_OK;
}

/* ---- entries ---- */

static dml_err dtype_of(reader *r, dml_st_dtype *out)
{
#define X(id, bytes)                    \
    if (strcmp(r->scratch, #id) == 0) { \
        *out = DML_ST_##id;             \
        return DML_ERR_OK;              \
    }
    DML_ST_DTYPE_LIST(X)
#undef X
    FAIL(r, "dtype '%.32s' is none of those read here", r->scratch);
}

enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4, ALL = 7 };

static dml_err field(reader *r, dml_st_tensor *t, int *seen)
{
    const int64_t at = r->at;
    DML_TRY(text(r, DML_ST_NAME_BYTES, "before a key"));
    const int which = strcmp(r->scratch, "dtype") == 0          ? DTYPE
                      : strcmp(r->scratch, "shape") == 0        ? SHAPE
                      : strcmp(r->scratch, "data_offsets") == 0 ? OFFSETS
                                                                : 0;
    if (which == 0) FAIL_AT(r, at, "'%s': the key '%.64s' is not known", t->name, r->scratch);
    if (*seen & which) FAIL_AT(r, at, "'%s': '%s' is there twice", t->name, r->scratch);
    *seen |= which;
    DML_TRY(expect(r, ':', "behind a key"));
    if (which == DTYPE) {
        DML_TRY(text(r, DML_ST_NAME_BYTES, "before a dtype"));
        return dtype_of(r, &t->dtype);
    }
    if (which == SHAPE) return numbers(r, "a shape", DML_ST_RANK, t->dim, &t->rank);
    int64_t offset[2] = {0};
    int32_t n;
    DML_TRY(numbers(r, "data_offsets", 2, offset, &n));
    if (n != 2) FAIL(r, "'%s': %d data_offsets, not 2", t->name, n);
    t->begin = offset[0];
    t->end = offset[1];
    return DML_ERR_OK;
}

/* Its own figures: do they say the same? */
static dml_err check_size(const reader *r, const dml_st_tensor *t)
{
    int64_t bytes = dml_st_dtype_bytes(t->dtype);
    bool fits = true, empty = false;
    for (int32_t i = 0; i < t->rank; i++) {
        if (t->dim[i] > DML_ST_DIM_MAX)
            FAIL(r, "'%s': a dimension of %" PRId64 ", more than 2^48", t->name, t->dim[i]);
        empty = empty || t->dim[i] == 0;
        fits = fits && !__builtin_mul_overflow(bytes, t->dim[i], &bytes);
    }
    if (!fits && !empty) FAIL(r, "'%s': its size overflows", t->name);
    if (empty) bytes = 0;
    if (t->end < t->begin)
        FAIL(r, "'%s': it ends at %" PRId64 ", before it begins", t->name, t->end);
    if (t->end - t->begin != bytes)
        FAIL(r, "'%s': its shape takes %" PRId64 " bytes, its offsets %" PRId64, t->name, bytes,
             t->end - t->begin);
    return DML_ERR_OK;
}

static dml_err entry(reader *r, const char *name)
{
    bool more = true;
    int seen = 0;
    if (r->st.n == DML_ST_TENSORS) FAIL(r, "more than %d tensors", DML_ST_TENSORS);
    if (r->st.n == r->cap) { /* the arena keeps the old table: at most as much again */
        dml_st_tensor *grown = DML_NEW_N(r->arena, dml_st_tensor, 2 * (int64_t)r->cap + 64);
        if (r->st.n > 0) memcpy(grown, r->st.tensor, (size_t)r->st.n * sizeof *grown);
        r->st.tensor = grown;
        r->cap = 2 * r->cap + 64;
    }
    dml_st_tensor *t = &r->st.tensor[r->st.n++];
    t->name = name;
    DML_TRY(expect(r, '{', "before what a tensor is"));
    while (more) {
        DML_TRY(field(r, t, &seen));
        DML_TRY(another(r, '}', "in what a tensor is", &more));
    }
    if (seen != ALL)
        FAIL(r, "'%s': '%s' is missing", name,
             !(seen & DTYPE)   ? "dtype"
             : !(seen & SHAPE) ? "shape"
                               : "data_offsets");
    return check_size(r, t);
}

static dml_err metadata(reader *r)
{
    bool more = true;
    if (r->has_metadata) FAIL(r, "'__metadata__' is there twice");
    r->has_metadata = true;
    DML_TRY(expect(r, '{', "before the metadata"));
    r->st.metadata = NULL;
    skip_space(r);
    if (peek(r) == '}') {
        r->at++;
        return DML_ERR_OK;
    }
    while (more) {
        if (r->st.n_metadata == DML_ST_METADATA)
            FAIL(r, "more than %d entries of metadata", DML_ST_METADATA);
        if (r->st.n_metadata == r->metadata_cap) {
            const int32_t cap = 2 * r->metadata_cap + 8;
            dml_st_pair *grown = DML_NEW_N(r->arena, dml_st_pair, cap);
            if (r->st.n_metadata > 0)
                memcpy(grown, r->st.metadata, (size_t)r->st.n_metadata * sizeof *grown);
            r->st.metadata = grown;
            r->metadata_cap = cap;
        }
        dml_st_pair *p = &r->st.metadata[r->st.n_metadata++];
        DML_TRY(text(r, 64 * DML_ST_NAME_BYTES, "before a key of the metadata"));
        p->key = dml_arena_strdup(r->arena, r->scratch);
        DML_TRY(expect(r, ':', "behind a key"));
        DML_TRY(text(r, 64 * DML_ST_NAME_BYTES, "before a value of the metadata, a text"));
        p->value = dml_arena_strdup(r->arena, r->scratch);
        DML_TRY(another(r, '}', "in the metadata", &more));
    }
    return DML_ERR_OK;
}

static dml_err object(reader *r)
{
    bool more = true;
    DML_TRY(expect(r, '{', "before the first entry"));
    skip_space(r);
    if (peek(r) == '}') {
        r->at++;
        more = false;
    }
    while (more) {
        DML_TRY(text(r, DML_ST_NAME_BYTES, "before a name"));
        const bool meta = strcmp(r->scratch, "__metadata__") == 0;
        const char *name = meta ? NULL : dml_arena_strdup(r->arena, r->scratch);
        DML_TRY(expect(r, ':', "behind a name"));
        DML_TRY(meta ? metadata(r) : entry(r, name));
        DML_TRY(another(r, '}', "between entries", &more));
    }
    skip_space(r);
    char shown[16];
    if (peek(r) >= 0) FAIL(r, "%s behind the object", found(r, shown));
    return DML_ERR_OK;
}

/* ---- all of them together ---- */

static int by_offset(const void *a, const void *b)
{
    const dml_st_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* texts [n] are put in order */
static dml_err check_different(const char *file, const char **texts, int32_t n, const char *what)
{
    if (n > 1) qsort(texts, (size_t)n, sizeof *texts, by_text);
    for (int32_t i = 1; i < n; i++)
        if (strcmp(texts[i - 1], texts[i]) == 0)
            DML_FAIL(DML_ERR_DATA, "'%s': %s '%.64s' is there twice", file, what, texts[i]);
    return DML_ERR_OK;
}

static dml_err check_names(const reader *r)
{
    const int32_t most = r->st.n > r->st.n_metadata ? r->st.n : r->st.n_metadata;
    const char **texts = DML_NEW_N(r->arena, const char *, most + 1);
    for (int32_t i = 0; i < r->st.n; i++)
        texts[i] = r->st.tensor[i].name;
    DML_TRY(check_different(r->file, texts, r->st.n, "the tensor"));
    for (int32_t i = 0; i < r->st.n_metadata; i++)
        texts[i] = r->st.metadata[i].key;
    return check_different(r->file, texts, r->st.n_metadata, "the metadata's key");
}

/* Sorts tensors by offset. */
static dml_err check_cover(const reader *r, int64_t data_bytes)
{
    int64_t at = 0;
    if (r->st.n > 1) qsort(r->st.tensor, (size_t)r->st.n, sizeof *r->st.tensor, by_offset);
    for (int32_t i = 0; i < r->st.n; i++) {
        const dml_st_tensor *t = &r->st.tensor[i];
        if (t->begin != at)
            DML_FAIL(DML_ERR_DATA, "'%s': '%.64s' begins at byte %" PRId64 " of the data, %s",
                     r->file, t->name, t->begin,
                     t->begin > at ? "and nothing fills the hole before it"
                                   : "inside of another tensor");
        at = t->end;
    }
    if (at != data_bytes)
        DML_FAIL(DML_ERR_DATA,
                 "'%s': tensors take %" PRId64 " bytes, behind the header are %" PRId64, r->file,
                 at, data_bytes);
    return DML_ERR_OK;
}

dml_err dml_st_parse(const char *file, const char *json, int64_t json_bytes, int64_t data_bytes,
                     dml_arena *arena, dml_safetensors *out)
{
    reader r = {.file = file, .json = json, .n = json_bytes, .arena = arena};
    r.scratch = dml_arena_alloc(arena, 64 * DML_ST_NAME_BYTES + 8);
    DML_TRY(object(&r));
    DML_TRY(check_names(&r));
    DML_TRY(check_cover(&r, data_bytes));
    r.st.data_at = 8 + json_bytes;
    r.st.file_bytes = r.st.data_at + data_bytes;
    *out = r.st;
    return DML_ERR_OK;
}
