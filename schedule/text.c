/* schedule/text.c - printing. */
#include "schedule/text.h"

#include <stdlib.h>
#include <string.h>

static bool any_span(const dml_program *p)
{
    static const dml_chunk_span empty;
    for (int32_t c = 0; c < p->chunks; c++)
        if (memcmp(&p->span[c], &empty, sizeof empty) != 0 || p->buckets[c] != 1 ||
            p->update_mbs[c] != p->mbs || p->versions[c] != 1 || p->sums[c] != 1)
            return true;
    return false;
}

static void print_spans(const dml_program *p, dml_str *out)
{
    for (int32_t c = 0; c < p->chunks; c++) {
        const dml_chunk_span *s = &p->span[c];
        dml_str_printf(out, "chunk %d: layers=%d-%d params=%d-%d", c, s->layer_begin, s->layer_end,
                       s->param_begin, s->param_end);
        if (p->buckets[c] != 1) dml_str_printf(out, " buckets=%d", p->buckets[c]);
        if (p->update_mbs[c] != p->mbs) dml_str_printf(out, " update=%d", p->update_mbs[c]);
        if (p->versions[c] != 1) dml_str_printf(out, " versions=%d", p->versions[c]);
        if (p->sums[c] != 1) dml_str_printf(out, " sums=%d", p->sums[c]);
        dml_str_printf(out, "\n");
    }
}

/* Whether the F ops alone give the routes. */
static bool routes_follow_from_ops(const dml_program *p)
{
    int64_t agree = 0;
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t i = 0; i < p->list[w].n; i++) {
            const dml_op *op = &p->list[w].op[i];
            if (op->kind != DML_OP_FWD) continue;
            if (*dml_program_route(p, op->chunk, op->mb) != w) return false;
            agree++;
        }
    return agree == (int64_t)p->chunks * p->mbs;
}

static void print_routes(const dml_program *p, dml_str *out)
{
    for (int32_t c = 0; c < p->chunks; c++) {
        dml_str_printf(out, "route %d:", c);
        for (int32_t mb = 0; mb < p->mbs; mb++)
            dml_str_printf(out, " %d", *dml_program_route(p, c, mb));
        dml_str_printf(out, "\n");
    }
}

static void print_skips(const dml_program *p, dml_str *out)
{
    for (int32_t i = 0; i < p->n_skips; i++)
        dml_str_printf(out, "skip %d: from=%d to=%d back=%d\n", i + 1, p->skip[i].from,
                       p->skip[i].to, p->skip[i].back);
}

static void print_pools(const dml_program *p, dml_str *out)
{
    for (int32_t w = 0; w < p->workers; w++)
        for (int32_t c = 0; c < dml_program_ports(p); c++) {
            const int32_t *slots = dml_program_slots(p, w, c, (dml_pool)0);
            bool any = false;
            for (int32_t k = 0; k < DML_POOLS; k++)
                any = any || slots[k] != 0;
            if (!any) continue;
            const bool skip = c >= p->chunks;
            dml_str_printf(out, skip ? "pools %d.skip%d:" : "pools %d.%d:", w,
                           skip ? c - p->chunks + 1 : c);
            for (int32_t k = 0; k < DML_POOLS; k++)
                if (k != DML_POOL_KEPT || p->recompute != DML_RECOMPUTE_NONE)
                    dml_str_printf(out, " %s=%d", dml_pool_text((dml_pool)k), slots[k]);
            dml_str_printf(out, "\n");
        }
}

static void print_op(const dml_op *op, dml_str *out)
{
    dml_str_printf(out, " %s", dml_op_name_of(op).text);
    if (op->version != 0) dml_str_printf(out, " version=%d", op->version);
    if (op->peer != DML_NO_PEER) dml_str_printf(out, " peer=%d", op->peer);
    if (op->slot != DML_NO_SLOT) dml_str_printf(out, " slot=%d", op->slot);
    for (int32_t k = 0; k < DML_OP_WAITS; k++)
        if (op->wait[k] != DML_NO_WAIT) dml_str_printf(out, " wait=%d", op->wait[k]);
}

void dml_text_print(const dml_program *p, dml_str *out)
{
    dml_str_printf(out, "%s workers=%d chunks=%d mbs=%d%s%s%s", p->lowered ? "program" : "order",
                   p->workers, p->chunks, p->mbs, p->forward_only ? " forward_only" : "",
                   p->votes ? "" : " unvoted", p->staggered ? " staggered" : "");
    if (p->recompute != DML_RECOMPUTE_NONE)
        dml_str_printf(out, " recompute=%s", dml_recompute_text(p->recompute));
    dml_str_printf(out, "\n");
    if (any_span(p)) print_spans(p, out);
    print_skips(p, out);
    if (p->lowered || !routes_follow_from_ops(p)) print_routes(p, out);
    print_pools(p, out);
    for (int32_t w = 0; w < p->workers; w++) {
        dml_str_printf(out, "%d:", w);
        for (int32_t i = 0; i < p->list[w].n; i++) {
            if (p->lowered) dml_str_printf(out, "\n%6d", i);
            print_op(&p->list[w].op[i], out);
        }
        dml_str_printf(out, "\n");
    }
}
