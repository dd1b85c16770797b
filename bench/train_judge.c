/* bench/train_judge.c - rows against the row on one device, against each other's loss, against an earlier result.
 *
 *   speed_up            rate / rate of one device         (equal batch: Ts / Tp)
 *   efficiency strong   speed_up / devices                at the same global batch
 *              weak     speed_up / devices                at a global batch of devices x that of one
 */
#include "bench/train.h"

#include <math.h>
#include <string.h>

static const double LOSS_TOLERANCE = 1e-3;

static bool same_text(const json_t *a, const json_t *b, const char *field)
{
    return strcmp(train_text(a, field), train_text(b, field)) == 0;
}

static bool same_number(const json_t *a, const json_t *b, const char *field)
{
    return train_number(a, field) == train_number(b, field);
}

static void set(json_t *row, const char *field, double value)
{
    json_object_set_new(row, field, isfinite(value) ? json_real(value) : json_null());
}

void train_compare(json_t *rows)
{
    json_t *row, *one;
    size_t i, k;
    json_array_foreach(rows, i, row)
    {
        double alone = (double)NAN;
        json_array_foreach(rows, k, one)
        {
            if (isnan(alone) && same_text(row, one, "scaling") && train_number(one, "devices") == 1)
                alone = train_number(one, "samples_per_second");
        }
        const double speed_up = train_number(row, "samples_per_second") / alone;
        set(row, "speed_up", speed_up);
        set(row, "efficiency", speed_up / train_number(row, "devices"));
    }
}

/* The first row whose loss this one's must equal: itself, unless there is an earlier one. */
static const json_t *like(const json_t *rows, size_t i)
{
    const json_t *row = json_array_get(rows, i), *first;
    for (size_t k = 0; k < i; k++) {
        first = json_array_get(rows, k);
        if (same_number(row, first, "global_batch") && same_number(row, first, "micro_batch") &&
            !json_is_true(json_object_get(first, "asynchronous")) &&
            isfinite(train_number(first, "loss")))
            return first;
    }
    return row;
}

int32_t train_check_losses(json_t *rows, bool exact)
{
    int32_t different = 0;
    json_t *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        const double loss = train_number(row, "loss"), want = train_number(like(rows, i), "loss");
        if (json_is_true(json_object_get(row, "asynchronous")) || isnan(want)) {
            json_object_set_new(row, "loss_agrees", json_null()); /* another sum by design */
            continue;
        }
        const bool repeats = json_is_true(json_object_get(row, "loss_repeats"));
        const bool agrees =
            repeats && (exact ? loss == want : fabs(loss - want) <= LOSS_TOLERANCE * fabs(want));
        json_object_set_new(row, "loss_agrees", json_boolean(agrees));
        different += !agrees;
    }
    return different;
}

static bool same_row(const json_t *a, const json_t *b)
{
    return same_text(a, b, "layout") && same_text(a, b, "scaling") && same_text(a, b, "schedule") &&
           same_number(a, b, "global_batch") && same_number(a, b, "devices");
}

dml_err train_add_baseline(json_t *rows, const char *hash, const char *file)
{
    json_error_t why;
    json_t *before = json_load_file(file, 0, &why);
    if (!before) DML_FAIL(DML_ERR_DATA, "%s:%d: %s", file, why.line, why.text);
    const json_t *earlier = json_object_get(before, "rows");
    dml_err err = DML_ERR_OK;
    if (!json_is_array(earlier))
        err =
            dml_err_set(DML_ERR_DATA, __FILE__, __LINE__, "%s: no result of dml-bench train", file);
    else if (strcmp(train_text(before, "spec_hash"), hash) != 0)
        err = dml_err_set(DML_ERR_DATA, __FILE__, __LINE__,
                          "%s is of another spec: its resolved spec's hash is %s, this one's %s",
                          file, train_text(before, "spec_hash"), hash);
    json_t *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        double ratio = (double)NAN;
        for (size_t k = 0; err == DML_ERR_OK && k < json_array_size(earlier); k++) {
            const json_t *old = json_array_get(earlier, k);
            if (same_row(row, old))
                ratio = train_number(row, "samples_per_second") /
                        train_number(old, "samples_per_second");
        }
        set(row, "baseline_ratio", ratio);
    }
    json_decref(before);
    return err;
}

double train_least(const json_t *rows, bool baseline, int32_t *judged)
{
    double least = INFINITY;
    const json_t *row;
    size_t i;
    *judged = 0;
    json_array_foreach(rows, i, row)
    {
        const double value = train_number(row, baseline ? "baseline_ratio" : "efficiency");
        if (isnan(value)) continue;
        ++*judged;
        least = value < least ? value : least;
    }
    return least;
}
