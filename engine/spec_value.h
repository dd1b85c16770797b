/* engine/spec_value.h - one written value: numbers as in YAML 1.2, quantities with units, words.
 *
 * A parser returns whether `text` is one; *out is written only then.
 */
#ifndef DML_ENGINE_SPEC_VALUE_H
#define DML_ENGINE_SPEC_VALUE_H

#include "engine/base/str.h"
#include "engine/spec.h"

/* 12, -3.5, .5, 3e-4, 0x1f, 12_000; never infinite. */
bool dml_value_number(const char *text, double *out);
/* A number without a fraction, |value| < 2^63; digits alone are exact. */
bool dml_value_whole(const char *text, int64_t *out);
bool dml_value_bool(const char *text, bool *out);
/* 500ms, 30 m, 1.5h; a bare number is seconds.  Never negative. */
bool dml_value_time(const char *text, int64_t *ns);
/* 1GB/s, 64MiB/s; a bare number is bytes a second.  Never negative. */
bool dml_value_rate(const char *text, double *bytes_per_s);
/* 989.4TFLOP/s, 60 GFLOP/s: with its unit.  Never negative. */
bool dml_value_flops(const char *text, double *flops_per_s);
/* 25MiB, 1 MB; a bare number is bytes.  Whole and never negative. */
bool dml_value_bytes(const char *text, int64_t *bytes);
/* dynamic, as 0, or a power of two: 1 .. 2^24. */
bool dml_value_scale(const char *text, float *out);
/* 250, 250 steps, 1 epoch, 0.5 epochs.  Never negative; steps are whole. */
bool dml_value_interval(const char *text, dml_interval *out);
/* 3-5, or 7, which is 7-7; auto, as {0, 0}.  Not checked: 0-3 and 5-3 are read, too. */
bool dml_value_steps(const char *text, dml_step_range *out);

/* Does `v` lie in `range`: ">0", ">=1", "[0,1)", "(0,1]"; "" takes all. */
bool dml_value_in_range(const char *range, double v);

/* Words are compared without case, '-' and '_'. */
bool dml_value_same_word(const char *a, const char *b);
/* Index of `word` in the list "one two three", or -1. */
int32_t dml_value_word(const char *words, const char *word);
/* Word `i` of the list, owned by the arena; NULL beyond its end. */
const char *dml_value_nth(dml_arena *arena, const char *words, int32_t i);

/* The search for what someone meant: offer candidates, then read `best`, NULL when none is close. */
typedef struct dml_nearest {
    const char *wanted;
    const char *best;
    int32_t distance;
} dml_nearest;

dml_nearest dml_nearest_to(const char *wanted);
/* `stands_for` is borrowed and becomes `best` when `word` is closer to what is wanted. */
void dml_nearest_offer(dml_nearest *n, const char *word, const char *stands_for);

/* Shortest decimal that reads back as the same float or double. */
void dml_value_print_float(dml_str *s, float v);
void dml_value_print_double(dml_str *s, double v);
/* In the largest unit that keeps it whole: 60s, 10ms. */
void dml_value_print_time(dml_str *s, int64_t ns);
void dml_value_print_bytes(dml_str *s, int64_t bytes); /* 25MiB, 1000000B */
void dml_value_print_scale(dml_str *s, float v);
void dml_value_print_interval(dml_str *s, dml_interval v);
void dml_value_print_steps(dml_str *s, dml_step_range v);

#endif
