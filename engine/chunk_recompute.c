/* engine/chunk_recompute.c - what a forward throws away, and the steps that make it again.
 *
 *   buffers that the backward reads     conv1.y  norm.y  relu.y  pool.keep  pool.y = the chunk's output
 *     none                              stash ................................................
 *     full, except_last                 made again ...................................  kept, for the next chunk
 *     selective                         kept     made again .................  kept
 *
 * What is made again lies in scratch during the forward, and in the stash from RC on: so buffers have two sets of
 * places, `buffer` for RC and backward (and for the one micro-batch that except_last spares), `lean` for the forward
 * of a micro-batch that is recomputed.  What is kept lies at the same place in both.
 *
 * RC runs the steps of the forward on which something in the stash depends, and no others: in full not the last
 * product, whose output only the next chunk reads.
 *
 * Selective (after Korthikanti et al. 2022, section 5) never runs a product again, and keeps nothing that plain
 * training would not: a buffer is made again when all the steps that write it are cheap and read the chunk's input,
 * what is kept, or what is made again.  A step writes all its buffers or none, so where it writes one that is kept,
 * all are.
 */
#include "engine/chunk_impl.h"

#include <string.h>

enum { MOST_TOUCHED = 2 };

/* Buffers that a forward step reads and writes; in place: one is both. */
typedef struct touched {
    int32_t read[MOST_TOUCHED], write[MOST_TOUCHED];
} touched;

typedef struct homes {
    const dml_chunk *c;
    dml_chunk_impl *impl;
    const bool
        *wanted;   /* [buffers] by the backward; also those that it makes itself and reads later */
    bool *written; /* [buffers] by the forward */
    bool *made;    /* [buffers] selective: cheap to make again */
    bool *kept;    /* [buffers] from the forward on */
} homes;

static const dml_layer *layer_of(const homes *h, const dml_step *s)
{
    return &h->c->model->layer[h->c->layer_begin + s->layer];
}

static touched touched_by(const homes *h, const dml_step *s)
{
    if (s->kind != DML_STEP_FORWARD) return (touched){{s->a, s->b}, {s->to, DML_NO_BUFFER}};
    const dml_layer_plan *p = &h->impl->layer[s->layer];
    return (touched){{p->x, p->with}, {p->y, p->keep}};
}

static bool has(const int32_t set[MOST_TOUCHED], int32_t b)
{
    return b != DML_NO_BUFFER && (set[0] == b || set[1] == b);
}

/* Neither a product nor a loss nor a delay. */
static bool is_cheap(const homes *h, const dml_step *s)
{
    return s->kind != DML_STEP_FORWARD ||
           !(layer_of(h, s)->cls->traits & (DML_W_LIKE_X | DML_LOSS | DML_TIMED));
}

static void find_written(homes *h)
{
    for (int32_t i = 0; i < h->impl->forward.n; i++) {
        const touched t = touched_by(h, &h->impl->forward.step[i]);
        for (int32_t k = 0; k < MOST_TOUCHED; k++)
            if (t.write[k] != DML_NO_BUFFER && h->impl->buffer[t.write[k]].where == DML_AT_WORK)
                h->written[t.write[k]] = true;
    }
}

/* ---- selective ---- */

static bool from_below(const dml_buffer *b)
{
    return b->where == DML_AT_IN || b->where == DML_AT_SKIPS;
}

static bool is_there(const homes *h, int32_t b)
{
    return b == DML_NO_BUFFER || from_below(&h->impl->buffer[b]) || h->wanted[b] || h->kept[b] ||
           h->made[b];
}

/* Whether what the step writes can be made again, given what is kept. */
static bool can_repeat(const homes *h, const dml_step *s, const touched *t)
{
    bool can = is_cheap(h, s);
    for (int32_t k = 0; k < MOST_TOUCHED; k++) {
        const bool in_place = has(t->write, t->read[k]);
        can = can && (in_place ? h->made[t->read[k]] : is_there(h, t->read[k]));
        can = can && (t->write[k] == DML_NO_BUFFER || !h->kept[t->write[k]]);
    }
    return can;
}

static void find_made(homes *h)
{
    memset(h->made, 0, (size_t)h->impl->n_buffers * sizeof *h->made);
    for (int32_t i = 0; i < h->impl->forward.n; i++) {
        const dml_step *s = &h->impl->forward.step[i];
        const touched t = touched_by(h, s);
        const bool can = can_repeat(h, s, &t);
        for (int32_t k = 0; k < MOST_TOUCHED; k++)
            if (t.write[k] != DML_NO_BUFFER && h->written[t.write[k]]) h->made[t.write[k]] = can;
    }
}

/* What is kept grows, for a step that writes one such buffer may not be repeated for another. */
static void keep_what_is_dear(homes *h)
{
    for (bool grown = true; grown;) {
        grown = false;
        find_made(h);
        for (int32_t b = 0; b < h->impl->n_buffers; b++) {
            if (!h->wanted[b] || !h->written[b] || h->made[b] || h->kept[b]) continue;
            h->kept[b] = grown = true;
        }
    }
}

/* ---- places ---- */

static void place(dml_buffer *b, dml_region where, int64_t *size)
{
    b->where = where;
    b->at = *size;
    *size += dml_align_bytes(b->bytes);
}

/* For RC and backward.  A kept output that the backward wants, too, is in both places where KEPT does not outlive
 * its transfer: then the stash has it made again. */
static void place_main(homes *h, const bool *stashed, dml_chunk_sizes *size)
{
    const bool reads_kept = h->c->spec->parallelism.recompute == DML_RECOMPUTE_SELECTIVE;
    for (int32_t b = 0; b < h->impl->n_buffers; b++) {
        dml_buffer *buffer = &h->impl->buffer[b];
        if (buffer->where != DML_AT_WORK) continue;
        if (h->kept[b] && reads_kept)
            place(buffer, DML_AT_KEPT, &size->kept);
        else if (stashed[b])
            place(buffer, DML_AT_STASH, &size->stash);
    }
}

/* For the forward that keeps little: what it alone uses, until its last step. */
static void place_lean(homes *h, dml_chunk_sizes *size, dml_arena *arena)
{
    dml_chunk_impl *impl = h->impl;
    const int32_t end = impl->forward.n;
    impl->lean = DML_NEW_N(arena, dml_buffer, impl->n_buffers);
    for (int32_t b = 0; b < impl->n_buffers; b++) {
        dml_buffer *lean = &impl->lean[b];
        *lean = impl->buffer[b];
        if (from_below(lean) || lean->where == DML_AT_KEPT) continue;
        if (h->kept[b]) {
            place(lean, DML_AT_KEPT, &size->kept);
            continue;
        }
        if (!h->written[b]) lean->from = -1;
        lean->where = DML_AT_WORK;
        if (lean->to >= end) lean->to = end - 1;
    }
}

/* ---- steps ---- */

/* Walks back from what the stash wants. */
static void find_again(homes *h, bool timed, dml_arena *arena)
{
    dml_chunk_impl *impl = h->impl;
    const dml_steps *forward = &impl->forward;
    bool *need = DML_NEW_N(arena, bool, impl->n_buffers), *run = DML_NEW_N(arena, bool, forward->n);
    for (int32_t b = 0; b < impl->n_buffers; b++)
        need[b] = impl->buffer[b].where == DML_AT_STASH && h->written[b] && h->wanted[b];
    for (int32_t i = forward->n - 1; i >= 0; i--) {
        const dml_step *s = &forward->step[i];
        if (s->kind == DML_STEP_FORWARD && layer_of(h, s)->cls->traits & DML_TIMED) {
            run[i] = timed;
            continue;
        }
        const touched t = touched_by(h, s);
        for (int32_t k = 0; k < MOST_TOUCHED; k++)
            run[i] = run[i] || (t.write[k] != DML_NO_BUFFER && need[t.write[k]]);
        for (int32_t k = 0; run[i] && k < MOST_TOUCHED; k++)
            if (t.write[k] != DML_NO_BUFFER) need[t.write[k]] = false;
        for (int32_t k = 0; run[i] && k < MOST_TOUCHED; k++)
            if (t.read[k] != DML_NO_BUFFER && h->written[t.read[k]] &&
                impl->buffer[t.read[k]].where != DML_AT_KEPT)
                need[t.read[k]] = true;
    }
    impl->again.step = DML_NEW_N(arena, dml_step, forward->n + 1);
    for (int32_t i = 0; i < forward->n; i++)
        if (run[i]) impl->again.step[impl->again.n++] = forward->step[i];
}

void dml_chunk_place_buffers(dml_chunk *c, dml_chunk_impl *impl, const bool *wanted,
                             const bool *leaves, dml_arena *arena)
{
    const dml_recompute policy = c->spec->parallelism.recompute;
    const bool some = policy != DML_RECOMPUTE_NONE,
               plain = !some || policy == DML_RECOMPUTE_EXCEPT_LAST;
    const int32_t n = impl->n_buffers;
    homes h = {.c = c,
               .impl = impl,
               .wanted = wanted,
               .written = DML_NEW_N(arena, bool, n),
               .made = DML_NEW_N(arena, bool, n),
               .kept = DML_NEW_N(arena, bool, n)};
    find_written(&h);
    bool *stashed = DML_NEW_N(arena, bool, n);
    for (int32_t b = 0; b < n; b++) {
        h.kept[b] = some && leaves[b];
        stashed[b] = wanted[b] || (plain && leaves[b]);
    }
    if (policy == DML_RECOMPUTE_SELECTIVE) keep_what_is_dear(&h);
    place_main(&h, stashed, &c->size);
    if (some) {
        place_lean(&h, &c->size, arena);
        find_again(&h, policy != DML_RECOMPUTE_SELECTIVE, arena);
        impl->work_bytes = dml_pack(impl->lean, n, arena);
    }
    const int64_t bytes = dml_pack(impl->buffer, n, arena);
    if (bytes > impl->work_bytes) impl->work_bytes = bytes;
}

int64_t dml_chunk_recompute_ns(const dml_chunk *c, const int64_t (*ns)[3])
{
    const dml_chunk_impl *impl = c->impl;
    int64_t sum = 0;
    for (int32_t i = 0; i < impl->again.n; i++)
        if (impl->again.step[i].kind == DML_STEP_FORWARD) sum += ns[impl->again.step[i].layer][0];
    return sum;
}
