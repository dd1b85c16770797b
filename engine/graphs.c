/* engine/graphs.c - a list of keys and replays, looked through when a plan is made. */
#include "engine/graphs.h"

#include <stdlib.h>
#include <string.h>

typedef struct entry {
    dml_graph_key key;
    dml_replay *replay; /* owned */
} entry;

struct dml_graphs {
    const dml_device_api *device;
    dml_queue *queue;
    entry *entry; /* [cap] owned */
    int32_t n, cap;
};

dml_err dml_graphs_open(const dml_device_api *device, dml_queue *queue, dml_graphs **out)
{
    DML_ASSERT(device->capture);
    dml_graphs *g = calloc(1, sizeof *g);
    if (!g) DML_FAIL(DML_ERR_NOMEM, "no memory for captured ops");
    g->device = device;
    g->queue = queue;
    *out = g;
    return DML_ERR_OK;
}

void dml_graphs_close(dml_graphs *g)
{
    if (!g) return;
    for (int32_t i = 0; i < g->n; i++)
        g->device->replay_close(g->entry[i].replay);
    free(g->entry);
    free(g);
}

static dml_err grow(dml_graphs *g)
{
    if (g->n < g->cap) return DML_ERR_OK;
    const int32_t cap = g->cap > 0 ? 2 * g->cap : 64;
    entry *more = realloc(g->entry, (size_t)cap * sizeof *more);
    if (!more) DML_FAIL(DML_ERR_NOMEM, "no memory for %d captured ops", cap);
    g->entry = more;
    g->cap = cap;
    return DML_ERR_OK;
}

/* Lists of the same pointers; [n], where there are any. */
static bool same_list(const void *const *a, const void *const *b, const int32_t *n)
{
    return a == b || (a && b && memcmp(a, b, (size_t)*n * sizeof *a) == 0);
}

static bool same_key(const dml_graph_key *a, const dml_graph_key *b)
{
    dml_graph_key like_a = *b;
    like_a.skip_in = a->skip_in;
    like_a.skip_dy = a->skip_dy;
    return memcmp(a, &like_a, sizeof *a) == 0 &&
           same_list(a->skip_in, b->skip_in, &a->chunk->n_skip_in) &&
           same_list(a->skip_dy, b->skip_dy, &a->chunk->n_skip_back);
}

dml_err dml_graphs_get(dml_graphs *g, const dml_graph_key *key, dml_job job, void *arg,
                       dml_replay **out)
{
    for (int32_t i = 0; i < g->n; i++)
        if (same_key(&g->entry[i].key, key)) {
            *out = g->entry[i].replay;
            return DML_ERR_OK;
        }
    DML_TRY(grow(g));
    entry *e = &g->entry[g->n];
    e->key = *key;
    DML_TRY(g->device->capture(g->queue, job, arg, &e->replay));
    g->n++;
    *out = e->replay;
    return DML_ERR_OK;
}

int32_t dml_graphs_count(const dml_graphs *g)
{
    return g->n;
}
