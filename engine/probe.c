/* engine/probe.c - sums of a step under way, and rings of samples. */
#include "engine/probe.h"

#include "engine/base/clock.h"

#include <string.h>

/* One layer, pass and micro-batch of the step under way. */
typedef struct cell {
    int64_t ns;
    int32_t calls, counted; /* so far; in the step that was taken last */
} cell;

typedef struct ring {
    int64_t *ns; /* [keep] */
    int64_t n;
} ring;

/* What was enqueued between two events. */
typedef struct stretch {
    dml_event *begin, *end;
    int32_t layer, mb;
    dml_pass pass;
} stretch;

struct dml_probe {
    int32_t n_layers, mbs, keep;
    cell *cell; /* [mbs][n_layers][DML_PASSES] */
    ring *ring; /* [n_layers][DML_PASSES][DML_PROBE_TURNS] */
    int64_t begin_ns;
    const dml_device_api *api;
    dml_queue *queue;
    stretch *stretch; /* [room]; NULL: by the clock */
    int32_t room, used;
};

dml_probe *dml_probe_new(int32_t n_layers, int32_t mbs, int32_t keep, dml_arena *arena)
{
    const int64_t kinds = (int64_t)n_layers * DML_PASSES;
    dml_probe *p = DML_NEW(arena, dml_probe);
    *p = (dml_probe){.n_layers = n_layers, .mbs = mbs, .keep = keep};
    p->cell = DML_NEW_N(arena, cell, kinds * mbs);
    p->ring = DML_NEW_N(arena, ring, kinds * DML_PROBE_TURNS);
    for (int64_t i = 0; i < kinds * DML_PROBE_TURNS; i++)
        p->ring[i].ns = DML_NEW_N(arena, int64_t, keep);
    return p;
}

dml_err dml_probe_open(dml_probe *p, const dml_device_api *api, dml_device *device,
                       dml_queue *queue, int32_t steps, dml_arena *arena)
{
    p->api = api;
    p->queue = queue;
    if (!device) return DML_ERR_OK;
    p->stretch = DML_NEW_N(arena, stretch, steps);
    for (p->room = 0; p->room < steps; p->room++) {
        DML_TRY(api->event_open(device, &p->stretch[p->room].begin));
        DML_TRY(api->event_open(device, &p->stretch[p->room].end));
    }
    return DML_ERR_OK;
}

void dml_probe_close(dml_probe *p)
{
    if (!p) return;
    for (int32_t i = 0; i < p->room; i++) {
        p->api->event_close(p->stretch[i].begin);
        p->api->event_close(p->stretch[i].end);
    }
    p->stretch = NULL;
    p->room = p->used = 0;
}

static cell *cell_of(const dml_probe *p, int32_t layer, dml_pass pass, int32_t mb)
{
    DML_ASSERT_OP(layer, <, p->n_layers);
    DML_ASSERT_OP(mb, <, p->mbs);
    return &p->cell[((int64_t)mb * p->n_layers + layer) * DML_PASSES + pass];
}

static void add(const dml_probe *p, int32_t layer, dml_pass pass, int32_t mb, int64_t ns)
{
    cell *c = cell_of(p, layer, pass, mb);
    c->ns += ns;
    c->calls++;
}

dml_err dml_probe_begin(dml_probe *p)
{
    if (!p->stretch) {
        p->begin_ns = dml_clock_ns();
        return DML_ERR_OK;
    }
    if (p->used == p->room) DML_FAIL(DML_ERR_BUG, "a step of more than %d probes", p->room);
    return p->api->record(p->queue, p->stretch[p->used].begin);
}

dml_err dml_probe_end(dml_probe *p, int32_t layer, dml_pass pass, int32_t mb)
{
    if (!p->stretch) {
        add(p, layer, pass, mb, dml_clock_ns() - p->begin_ns);
        return DML_ERR_OK;
    }
    stretch *s = &p->stretch[p->used++];
    s->layer = layer;
    s->pass = pass;
    s->mb = mb;
    return p->api->record(p->queue, s->end);
}

/* What the device says of the events of this step. */
static dml_err read_events(dml_probe *p)
{
    for (int32_t i = 0; i < p->used; i++) {
        const stretch *s = &p->stretch[i];
        int64_t ns = 0;
        DML_TRY(p->api->elapsed(s->begin, s->end, &ns));
        add(p, s->layer, s->pass, s->mb, ns);
    }
    p->used = 0;
    return DML_ERR_OK;
}

static ring *ring_of(const dml_probe *p, int32_t layer, dml_pass pass, dml_probe_turn turn)
{
    return &p->ring[((int64_t)layer * DML_PASSES + pass) * DML_PROBE_TURNS + turn];
}

dml_err dml_probe_take(dml_probe *p, bool keep)
{
    DML_TRY(read_events(p));
    for (int32_t mb = 0; mb < p->mbs; mb++)
        for (int32_t l = 0; l < p->n_layers; l++)
            for (dml_pass pass = 0; pass < DML_PASSES; pass++) {
                cell *c = cell_of(p, l, pass, mb);
                ring *r = ring_of(p, l, pass, mb > 0 ? DML_PROBE_LATER : DML_PROBE_FIRST);
                if (keep && c->calls > 0) r->ns[r->n++ % p->keep] = c->ns;
                *c = (cell){.counted = c->calls};
            }
    return DML_ERR_OK;
}

const int64_t *dml_probe_samples(const dml_probe *p, int32_t layer, dml_pass pass,
                                 dml_probe_turn turn, int32_t *n)
{
    const ring *r = ring_of(p, layer, pass, turn);
    *n = (int32_t)(r->n < p->keep ? r->n : p->keep);
    return r->ns;
}

int32_t dml_probe_calls(const dml_probe *p, int32_t layer, dml_pass pass, int32_t mb)
{
    return cell_of(p, layer, pass, mb)->counted;
}
