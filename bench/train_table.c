/* bench/train_table.c - rows for people: three tables, each a list of columns over the same rows. */
#include "bench/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct column {
    const char *title, *field; /* field: a path of train_number */
    double scale;
    int width, digits;
} column;

/* clang-format off */
static const column throughput[] = {
    {"devices",        "devices",                          1, 7, 0},
    {"batch",          "global_batch",                     1, 7, 0},
    {"samples/s",      "samples_per_second",               1, 11, 1},
    {"/device",        "samples_per_second_per_device",    1, 9, 1},
    {"speed-up",       "speed_up",                         1, 8, 2},
    {"efficiency",     "efficiency",                       1, 10, 3},
    {"MFU %",          "mfu_ratio",                        1e2, 6, 1},
    {"loss",           "loss",                             1, 9, 5},
    {"/baseline",      "baseline_ratio",                   1, 9, 3},
    {0},
};
static const column steps[] = {
    {"step ms",        "step_s.median",                    1e3, 10, 3},
    {"quartiles",      "step_s.low",                       1e3, 10, 3},
    {"",               "step_s.high",                      1e3, 10, 3},
    {"p95",            "step_s.p95",                       1e3, 10, 3},
    {"CV %",           "step_s.cv",                        1e2, 6, 1},
    {"n",              "step_s.n",                         1, 5, 0},
    {"runs +-%",       "spread_ratio",                     50, 8, 1},
    {"planned",        "planned_step_s",                   1e3, 10, 3},
    {"predicted",      "predicted_step_s",                 1e3, 10, 3},
    {0},
};
static const column shares[] = {
    {"bubble %",       "bubble_ratio",                     1e2, 8, 1},
    {"planned",        "planned_bubble_ratio",             1e2, 8, 1},
    {"predicted",      "predicted_bubble_ratio",           1e2, 9, 1},
    {"exposed ms",     "exposed_comm_s",                   1e3, 10, 3},
    {"predicted",      "predicted_exposed_comm_s",         1e3, 9, 3},
    {"overhead %",     "overhead_ratio",                   1e2, 10, 2},
    {"peak MB",        "memory_peak_bytes",                1e-6, 9, 3},
    {0},
};
/* clang-format on */

static void print_heads(const column *c)
{
    printf("\n%-16s %-18s %-6s", "layout", "schedule", "");
    for (; c->title; c++)
        printf(" %*s", c->width, c->title);
    printf("\n");
}

/* What is wrong with a row, or is not as it should be. */
static void print_notes(const json_t *row)
{
    if (json_is_false(json_object_get(row, "loss_agrees"))) printf("  LOSS DIFFERS");
    if (json_is_false(json_object_get(row, "settled"))) printf("  never settled");
}

static void print_table(const json_t *rows, const column *columns, bool notes)
{
    const json_t *row;
    size_t i;
    print_heads(columns);
    json_array_foreach(rows, i, row)
    {
        printf("%-16s %-18s %-6s", train_text(row, "layout"), train_text(row, "schedule"),
               train_text(row, "scaling"));
        for (const column *c = columns; c->title; c++) {
            const double value = train_number(row, c->field) * c->scale;
            if (isnan(value))
                printf(" %*s", c->width, "n/a");
            else
                printf(" %*.*f", c->width, c->digits, value);
        }
        if (notes) print_notes(row);
        printf("\n");
    }
}

void train_print(const json_t *rows)
{
    print_table(rows, throughput, true);
    print_table(rows, steps, false);
    print_table(rows, shares, false);
}
