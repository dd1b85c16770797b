/* bench/figures.h - text whose figures are read from results: dml-bench figures, and the test that holds README.md to it.
 *
 *   template   | step | {{delay.json runs[run='1f1b'].step_time_median_s * 100 %.1f}} |
 *   text       | step | 33.7 |
 *
 * Between the braces: a file, an expression, a format (%.Nf, or %s of a text).  An expression is made of numbers, + - * /,
 * parentheses, and paths into the file: members by dots, elements of an array by [N], all by [], or by
 * [member='text'] those that have it.  A path has one value; min, max, median, count and distinct of (a path) may have several.
 */
#ifndef DML_BENCH_FIGURES_H
#define DML_BENCH_FIGURES_H

#include "engine/base/err.h"
#include "engine/base/str.h"

/* Appends the template with its figures to `out`.
 *   folder  where the files are
 * DML_ERR_DATA  a file cannot be read, or an expression is none or has no value: quotes it, and says what is wrong */
dml_err bench_figures_fill(const char *text, const char *folder, dml_str *out);

/* Appends `page` to `out` with what stands between its two marker lines replaced by `block`.
 * DML_ERR_DATA  it lacks one */
dml_err bench_figures_place(const char *page, const char *block, dml_str *out);

#endif
