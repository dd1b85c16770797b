/* engine/spec_value.c - reading and printing single values. */
#include "engine/spec_value.h"

#include "engine/spec_keys.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Copies the number at the head of `s` without its underscores into digits[]; returns its end.
 *
 *   [-+]? ( [0-9_]+ ( \. [0-9_]* )? | \. [0-9_]+ ) ( [eE] [-+]? [0-9]+ )?
 */
typedef struct number_scan {
    const char *at;
    char digits[64];
    int32_t n, seen; /* bytes copied; decimal digits among them since the last check */
    bool whole;
} number_scan;

static void take(number_scan *s)
{
    if (s->n < (int32_t)sizeof s->digits - 1) s->digits[s->n++] = *s->at;
    s->digits[s->n] = '\0';
    s->at++;
}

static void take_digits(number_scan *s)
{
    for (;;) {
        const bool between = *s->at == '_' && s->seen > 0 && isdigit((unsigned char)s->at[1]);
        if (isdigit((unsigned char)*s->at)) {
            s->seen++;
            take(s);
        } else if (between) {
            s->at++;
        } else {
            return;
        }
    }
}

static bool scan_number(const char *text, number_scan *s)
{
    *s = (number_scan){.at = text, .whole = true};
    if (*s->at == '-' || *s->at == '+') take(s);
    take_digits(s);
    if (*s->at == '.') {
        s->whole = false;
        take(s);
        take_digits(s);
    }
    if (s->seen == 0) return false;
    const char *e = s->at;
    if (*e == 'e' || *e == 'E') {
        const char *digit = e + 1 + (e[1] == '-' || e[1] == '+');
        if (isdigit((unsigned char)*digit)) {
            s->whole = false;
            while (s->at < digit)
                take(s);
            take_digits(s);
        }
    }
    return s->n < (int32_t)sizeof s->digits - 1; /* longer ones are refused, not rounded */
}

/* 0x1f and 0o17 of YAML 1.2. */
static bool based(const char *text, int64_t *out)
{
    const bool hex = strncmp(text, "0x", 2) == 0, octal = strncmp(text, "0o", 2) == 0;
    const char *digits = hex ? "0123456789abcdefABCDEF" : "01234567";
    const size_t n = hex || octal ? strlen(text + 2) : 0;
    if (n == 0 || n > 15 || strspn(text + 2, digits) != n) return false;
    *out = strtoll(text + 2, NULL, hex ? 16 : 8);
    return true;
}

/* The number at the head of `text`, and what follows it without spaces. */
static bool quantity(const char *text, double *out, const char **unit)
{
    number_scan s;
    if (!scan_number(text, &s)) return false;
    const double v = strtod(s.digits, NULL);
    if (!isfinite(v)) return false;
    *out = v;
    *unit = s.at + strspn(s.at, " ");
    return true;
}

bool dml_value_number(const char *text, double *out)
{
    int64_t whole;
    if (based(text, &whole)) {
        *out = (double)whole;
        return true;
    }
    double v;
    const char *rest;
    if (!quantity(text, &v, &rest) || *rest) return false;
    *out = v;
    return true;
}

bool dml_value_whole(const char *text, int64_t *out)
{
    if (based(text, out)) return true;
    number_scan s;
    if (!scan_number(text, &s) || *s.at) return false;
    if (s.whole && strlen(s.digits) <= 18) {
        *out = strtoll(s.digits, NULL, 10);
        return true;
    }
    const double v = strtod(s.digits, NULL);
    if (!(fabs(v) < 0x1p63) || v != floor(v)) return false;
    *out = s.whole ? strtoll(s.digits, NULL, 10) : (int64_t)v;
    return true;
}

bool dml_value_bool(const char *text, bool *out)
{
    static const char *const words[2][3] = {{"false", "False", "FALSE"}, {"true", "True", "TRUE"}};
    for (int v = 0; v < 2; v++)
        for (int i = 0; i < 3; i++)
            if (strcmp(text, words[v][i]) == 0) {
                *out = v;
                return true;
            }
    return false;
}

typedef struct unit {
    const char *name;
    double scale;
} unit;

/* Ascending where it is used for printing. */
static const unit time_units[] = {{"ns", 1},   {"us", 1e3},   {"ms", 1e6},   {"s", 1e9},
                                  {"m", 60e9}, {"h", 3600e9}, {"min", 60e9}, {"", 1e9}};
static const unit rate_units[] = {{"", 1},         {"B", 1},        {"kB", 1e3},    {"KB", 1e3},
                                  {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},   {"KiB", 0x1p10},
                                  {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};

static const unit flops_units[] = {
    {"FLOP/s", 1}, {"GFLOP/s", 1e9}, {"TFLOP/s", 1e12}, {"PFLOP/s", 1e15}};

#define N_OF(array) ((int32_t)(sizeof(array) / sizeof *(array)))

/* `text` in units of the table's 1; `length` bytes of the unit's name count. */
static bool scaled(double v, const char *name, size_t length, const unit *units, int32_t n,
                   double *out)
{
    for (int32_t i = 0; i < n; i++) {
        if (strlen(units[i].name) != length || strncmp(units[i].name, name, length) != 0) continue;
        *out = v * units[i].scale;
        return v >= 0;
    }
    return false;
}

bool dml_value_time(const char *text, int64_t *ns)
{
    double v, scaled_ns;
    const char *name;
    if (!quantity(text, &v, &name)) return false;
    if (!scaled(v, name, strlen(name), time_units, N_OF(time_units), &scaled_ns)) return false;
    if (scaled_ns >= 0x1p62) return false;
    *ns = llrint(scaled_ns);
    return true;
}

bool dml_value_rate(const char *text, double *bytes_per_s)
{
    double v;
    const char *name;
    if (!quantity(text, &v, &name)) return false;
    size_t length = strlen(name);
    if (length > 2 && strcmp(name + length - 2, "/s") == 0) length -= 2;
    return scaled(v, name, length, rate_units, N_OF(rate_units), bytes_per_s);
}

bool dml_value_flops(const char *text, double *flops_per_s)
{
    double v;
    const char *name;
    return quantity(text, &v, &name) &&
           scaled(v, name, strlen(name), flops_units, N_OF(flops_units), flops_per_s);
}

bool dml_value_bytes(const char *text, int64_t *bytes)
{
    double v, scaled_bytes;
    const char *name;
    if (!quantity(text, &v, &name)) return false;
    if (!scaled(v, name, strlen(name), rate_units, N_OF(rate_units), &scaled_bytes)) return false;
    if (scaled_bytes >= 0x1p62 || scaled_bytes != floor(scaled_bytes)) return false;
    *bytes = (int64_t)scaled_bytes;
    return true;
}

bool dml_value_scale(const char *text, float *out)
{
    double v;
    int exponent;
    if (dml_value_same_word(text, "dynamic")) {
        *out = 0.0f;
        return true;
    }
    if (!dml_value_number(text, &v) || v < 1.0 || v > 0x1p24 || frexp(v, &exponent) != 0.5)
        return false;
    *out = (float)v;
    return true;
}

bool dml_value_interval(const char *text, dml_interval *out)
{
    double v;
    const char *name;
    if (!quantity(text, &v, &name) || v < 0 || v >= 0x1p53) return false;
    const bool epochs = strcmp(name, "epoch") == 0 || strcmp(name, "epochs") == 0;
    const bool steps = !*name || strcmp(name, "step") == 0 || strcmp(name, "steps") == 0;
    if (!epochs && (!steps || v != floor(v))) return false;
    *out = (dml_interval){v, epochs};
    return true;
}

bool dml_value_steps(const char *text, dml_step_range *out)
{
    enum { DIGITS = 18 }; /* fit into 63 bits */
    if (dml_value_same_word(text, "auto")) {
        *out = (dml_step_range){0, 0};
        return true;
    }
    const size_t n = strspn(text, "0123456789");
    const char *last = text[n] == '-' ? text + n + 1 : text;
    const size_t m = strspn(last, "0123456789");
    if (n < 1 || n > DIGITS || m < 1 || m > DIGITS || last[m]) return false;
    *out = (dml_step_range){strtoll(text, NULL, 10), strtoll(last, NULL, 10)};
    return true;
}

bool dml_value_in_range(const char *range, double v)
{
    if (!*range) return true;
    if (*range == '>')
        return range[1] == '=' ? v >= strtod(range + 2, NULL) : v > strtod(range + 1, NULL);
    char *rest;
    const double low = strtod(range + 1, &rest), high = strtod(rest + 1, &rest);
    return (*range == '[' ? v >= low : v > low) && (*rest == ']' ? v <= high : v < high);
}

bool dml_value_same_word(const char *a, const char *b)
{
    for (;; a++, b++) {
        a += strspn(a, "-_");
        b += strspn(b, "-_");
        if (tolower((unsigned char)*a) != tolower((unsigned char)*b)) return false;
        if (!*a) return true;
    }
}

const char *dml_value_nth(dml_arena *arena, const char *words, int32_t i)
{
    for (;; words += strcspn(words, " ")) {
        words += strspn(words, " ");
        if (!*words) return NULL;
        if (i-- == 0) return dml_arena_printf(arena, "%.*s", (int)strcspn(words, " "), words);
    }
}

int32_t dml_value_word(const char *words, const char *word)
{
    char one[64];
    int32_t i = 0;
    for (words += strspn(words, " "); *words; i++) {
        const size_t n = strcspn(words, " ");
        snprintf(one, sizeof one, "%.*s", (int)n, words);
        if (dml_value_same_word(one, word)) return i;
        words += n;
        words += strspn(words, " ");
    }
    return -1;
}

dml_nearest dml_nearest_to(const char *wanted)
{
    static const char *const synonym[][2] = {
#define X(said, meant) {said, meant},
        DML_SPEC_SYNONYM_LIST(X)
#undef X
    };
    for (size_t i = 0; i < sizeof synonym / sizeof *synonym; i++)
        if (dml_value_same_word(synonym[i][0], wanted)) wanted = synonym[i][1];
    const int32_t length = (int32_t)strlen(wanted);
    /* At most a third of the letters may be wrong, one at least, four at most. */
    const int32_t most = length / 3 < 1 ? 1 : length / 3 > 4 ? 4 : length / 3;
    return (dml_nearest){.wanted = wanted, .distance = most + 1};
}

void dml_nearest_offer(dml_nearest *n, const char *word, const char *stands_for)
{
    int32_t d = dml_str_distance(n->wanted, word);
    /* Part of a longer name counts as barely close: batch_size of global_batch_size. */
    const bool part = strlen(n->wanted) >= 4 && strstr(word, n->wanted) != NULL;
    if (part && !n->best) d = n->distance - 1;
    if (d >= n->distance) return;
    n->distance = d;
    n->best = stands_for;
}

/* Whole numbers of a common size without an exponent: 200, not 2e+02. */
static bool print_whole(dml_str *s, double v)
{
    if (v != floor(v) || fabs(v) >= 1e9) return false;
    dml_str_printf(s, "%.0f", v);
    return true;
}

void dml_value_print_float(dml_str *s, float v)
{
    char text[32];
    if (print_whole(s, (double)v)) return;
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) break;
    }
    dml_str_printf(s, "%s", text);
}

void dml_value_print_double(dml_str *s, double v)
{
    char text[32];
    if (print_whole(s, v)) return;
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    dml_str_printf(s, "%s", text);
}

void dml_value_print_time(dml_str *s, int64_t ns)
{
    int32_t u = 3; /* seconds are the largest unit printed */
    while (u > 0 && ns % (int64_t)time_units[u].scale != 0)
        u--;
    dml_str_printf(s, "%lld%s", (long long)(ns / (int64_t)time_units[u].scale), time_units[u].name);
}

void dml_value_print_bytes(dml_str *s, int64_t bytes)
{
    static const char *const name[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int32_t u = 0;
    for (; u + 1 < N_OF(name) && bytes != 0 && bytes % 1024 == 0; u++)
        bytes /= 1024;
    dml_str_printf(s, "%lld%s", (long long)bytes, name[u]);
}

void dml_value_print_scale(dml_str *s, float v)
{
    if (v == 0.0f)
        dml_str_printf(s, "dynamic");
    else
        dml_value_print_float(s, v);
}

void dml_value_print_steps(dml_str *s, dml_step_range v)
{
    if (v.first == 0)
        dml_str_printf(s, "auto");
    else
        dml_str_printf(s, "%lld-%lld", (long long)v.first, (long long)v.last);
}

void dml_value_print_interval(dml_str *s, dml_interval v)
{
    dml_value_print_double(s, v.n);
    if (v.epochs) dml_str_printf(s, v.n == 1 ? " epoch" : " epochs");
}
