/* engine/costs.c - reads times off a table of sizes. */
#include "engine/costs.h"

#include <math.h>
#include <string.h>

static int64_t at(const dml_costs *c, int32_t i, int32_t layer, dml_pass pass)
{
    return c->ns[(int64_t)i * c->n_layers + layer][pass];
}

int64_t dml_costs_ns(const dml_costs *costs, int32_t layer, int32_t rows, dml_pass pass)
{
    DML_ASSERT_OP(layer, <, costs->n_layers);
    if (costs->n_rows == 1)
        return llround((double)at(costs, 0, layer, pass) * rows / costs->rows[0]);
    int32_t i = 1;
    while (i + 1 < costs->n_rows && costs->rows[i] < rows)
        i++;
    const double low = costs->rows[i - 1], high = costs->rows[i];
    const double from = (double)at(costs, i - 1, layer, pass),
                 to = (double)at(costs, i, layer, pass);
    return llround(fmax(from + (to - from) * (rows - low) / (high - low), 0.0));
}

int64_t dml_costs_reduce_ns(const dml_costs *costs, int32_t members, int64_t bytes)
{
    if (members < 2) return 0;
    for (int32_t i = 0; i < costs->n_reduces; i++) {
        const dml_reduce_cost *r = &costs->reduce[i];
        if (r->members != members) continue;
        const double ns = r->bytes_per_s ? (double)bytes * 1e9 / (double)r->bytes_per_s : 0.0;
        return r->latency_ns + llround(ns);
    }
    return -1;
}

int64_t dml_costs_begin_ns(const dml_costs *costs, int32_t layer)
{
    DML_ASSERT_OP(layer, <, costs->n_layers);
    return costs->begin_ns ? costs->begin_ns[layer] : 0;
}

int64_t dml_costs_norm_ns(const dml_costs *costs, int32_t layer)
{
    DML_ASSERT_OP(layer, <, costs->n_layers);
    return costs->norm_ns ? costs->norm_ns[layer] : 0;
}

static void *copy(const void *from, int64_t bytes, dml_arena *arena)
{
    void *to = dml_arena_alloc(arena, bytes);
    if (bytes > 0) memcpy(to, from, (size_t)bytes);
    return to;
}

const dml_costs *dml_costs_copy(const dml_costs *from, dml_arena *arena)
{
    dml_costs *to = copy(from, sizeof *from, arena);
    to->source = dml_arena_printf(arena, "%s", from->source);
    to->rows = copy(from->rows, from->n_rows * (int64_t)sizeof *from->rows, arena);
    to->ns =
        copy(from->ns, (int64_t)from->n_rows * from->n_layers * (int64_t)sizeof *from->ns, arena);
    to->step_ns = copy(from->step_ns, from->n_layers * (int64_t)sizeof *from->step_ns, arena);
    if (from->norm_ns)
        to->norm_ns = copy(from->norm_ns, from->n_layers * (int64_t)sizeof *from->norm_ns, arena);
    if (from->begin_ns)
        to->begin_ns =
            copy(from->begin_ns, from->n_layers * (int64_t)sizeof *from->begin_ns, arena);
    to->reduce = copy(from->reduce, from->n_reduces * (int64_t)sizeof *from->reduce, arena);
    return to;
}
