/* schedule/links.c - gaps in lanes, filled in the order of urgency. */
#include "schedule/links.h"

#include <stdlib.h>
#include <string.h>

typedef struct span {
    int64_t begin_ns, end_ns;
} span;

typedef struct lane {
    span *span; /* [of all its transfers] ascending, apart */
    int32_t n;
} lane;

typedef struct turn {
    int64_t latest_ns, ready_ns;
    int64_t index;
} turn;

static int by_urgency(const void *a, const void *b)
{
    const turn *x = a, *y = b;
    if (x->latest_ns != y->latest_ns) return x->latest_ns < y->latest_ns ? -1 : 1;
    if (x->ready_ns != y->ready_ns) return x->ready_ns < y->ready_ns ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* The first span that ends after `at_ns`. */
static int32_t first_after(const lane *l, int64_t at_ns)
{
    int32_t low = 0, high = l->n;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (l->span[middle].end_ns > at_ns)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The first moment from at_ns on at which the lane has a gap of `ns`. */
static int64_t gap(const lane *l, int64_t at_ns, int64_t ns)
{
    for (int32_t i = first_after(l, at_ns); i < l->n && l->span[i].begin_ns < at_ns + ns; i++)
        at_ns = l->span[i].end_ns;
    return at_ns;
}

static void take(lane *l, int64_t at_ns, int64_t ns)
{
    const int32_t i = first_after(l, at_ns);
    memmove(&l->span[i + 1], &l->span[i], (size_t)(l->n - i) * sizeof *l->span);
    l->span[i] = (span){at_ns, at_ns + ns};
    l->n++;
}

static int64_t place(lane *send, lane *recv, const dml_crossing *c)
{
    int64_t at_ns = c->ready_ns;
    for (int64_t before_ns = -1; before_ns != at_ns;) {
        before_ns = at_ns;
        at_ns = gap(recv, gap(send, at_ns, c->ns), c->ns);
    }
    take(send, at_ns, c->ns);
    take(recv, at_ns, c->ns);
    return at_ns;
}

void dml_links_place(dml_crossing *crossing, int64_t n, int32_t workers, dml_arena *arena)
{
    lane *send = DML_NEW_N(arena, lane, workers), *recv = DML_NEW_N(arena, lane, workers);
    turn *order = DML_NEW_N(arena, turn, n);
    for (int64_t i = 0; i < n; i++) {
        const dml_crossing *c = &crossing[i];
        send[c->from].n++;
        recv[c->to].n++;
        order[i] = (turn){c->need_ns - c->ns, c->ready_ns, i};
    }
    for (int32_t w = 0; w < workers; w++) {
        send[w] = (lane){.span = DML_NEW_N(arena, span, send[w].n)};
        recv[w] = (lane){.span = DML_NEW_N(arena, span, recv[w].n)};
    }
    qsort(order, (size_t)n, sizeof *order, by_urgency);
    for (int64_t i = 0; i < n; i++) {
        dml_crossing *c = &crossing[order[i].index];
        c->start_ns = c->ns > 0 ? place(&send[c->from], &recv[c->to], c) : c->ready_ns;
    }
}
