/* schedule/span.c - the length of an order, from the graph of its ops. */
#include "schedule/span.h"

#include "schedule/slack.h"

dml_err dml_order_length(const dml_program *order, const dml_cost *cost,
                         dml_list_objective objective, int64_t *length_ns)
{
    dml_slack s;
    const dml_err err = dml_slack_open(&s, order, cost);
    if (err == DML_ERR_OK) *length_ns = dml_slack_length(&s, objective);
    dml_arena_free(&s.arena);
    return err == DML_ERR_OK ? err : dml_err_add(err, __func__, __FILE__, __LINE__);
}
