/* engine/chunk_pack.c - scratch buffers of one call, packed by lifetime.
 *
 *   bytes ^   +-----+ +------+
 *         |   |  c  | |  d   |      a is the largest and lies lowest; c and d are never alive together
 *         |   +-----+-+----+-+
 *         |   |      a     |b|
 *         +---+------------+-+--> steps
 */
#include "engine/chunk_impl.h"

static bool together(const dml_buffer *a, const dml_buffer *b)
{
    return a->from <= b->to && b->from <= a->to;
}

/* Lowest offset where `b` is clear of the `n` placed buffers alive with it. */
static int64_t lowest_place(const dml_buffer *buffer, const int32_t *placed, int32_t n,
                            const dml_buffer *b)
{
    int64_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int32_t i = 0; i < n; i++) {
            const dml_buffer *other = &buffer[placed[i]];
            const bool clear = at + b->bytes <= other->at || other->at + other->bytes <= at;
            if (clear || !together(b, other)) continue;
            at = other->at + other->bytes;
            moved = true;
        }
    }
    return at;
}

int64_t dml_pack(dml_buffer *buffer, int32_t n, dml_arena *arena)
{
    int32_t *placed = DML_NEW_N(arena, int32_t, n + 1);
    bool *done = DML_NEW_N(arena, bool, n + 1);
    int64_t need = 0;
    for (int32_t n_placed = 0;; n_placed++) {
        int32_t best = -1;
        for (int32_t i = 0; i < n; i++)
            if (buffer[i].where == DML_AT_WORK && buffer[i].from >= 0 && !done[i] &&
                (best < 0 || buffer[i].bytes > buffer[best].bytes))
                best = i;
        if (best < 0) return need;
        dml_buffer *b = &buffer[best];
        b->bytes = dml_align_bytes(b->bytes);
        b->at = lowest_place(buffer, placed, n_placed, b);
        if (b->at + b->bytes > need) need = b->at + b->bytes;
        placed[n_placed] = best;
        done[best] = true;
    }
}
