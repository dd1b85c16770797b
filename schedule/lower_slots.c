/* schedule/lower_slots.c - intervals onto slots, greedily in list order.
 *
 * A buffer lives from the start of the op that writes it to the predicted end of the last op that
 * uses it.  The writer takes the slot that has been free longest, if one is free by then, else a
 * new one: for intervals that come in order of their starts this uses as few slots as any
 * assignment can.
 *
 *   RECV_B.0 |== B.0 ==|                       slot 0
 *        RECV_B.1 |======= B.1 ==|             slot 1: B.0 runs still when the transfer starts
 *                     RECV_B.2 |==== B.2 ==|   slot 0
 *
 * Every op writes at most one buffer, so a buffer is known by the index of its writer. */
#include "schedule/lower_slots.h"

#include "schedule/depend.h"

#define MAX2(a, b) ((a) > (b) ? (a) : (b))

typedef struct buffer {
    int32_t last_use; /* op index                                     */
    int32_t next;     /* buffer freed after this one, same pool; -1   */
    int64_t free_ns;  /* predicted end of all its uses                */
} buffer;

typedef struct pool_state {
    int32_t oldest, newest; /* freed buffers that still own their slot, -1 none */
    int32_t slots;
} pool_state;

static void find_lives(const dml_program *p, const dml_index *ix, int32_t w,
                       const dml_lower_times *times, buffer *buf)
{
    for (int32_t i = 0; i < p->list[w].n; i++) {
        buf[i] = (buffer){.last_use = -1, .next = -1};
        dml_touch touch[DML_OP_TOUCHES];
        const int32_t n = dml_op_touches(p, ix, &p->list[w].op[i], touch);
        for (int32_t t = 0; t < n; t++) {
            buffer *b = &buf[dml_touch_writer(ix, &touch[t])];
            b->last_use = i;
            b->free_ns = MAX2(b->free_ns, times->end_ns[i]);
        }
    }
}

/* Takes the oldest freed buffer that is free at `ns` out of its queue; returns its slot, or a new
 * one. */
static int32_t take(pool_state *pool, buffer *buf, const dml_op *op, int64_t ns)
{
    int32_t before = -1, b = pool->oldest;
    while (b >= 0 && buf[b].free_ns > ns) {
        before = b;
        b = buf[b].next;
    }
    if (b < 0) return pool->slots++;
    *(before >= 0 ? &buf[before].next : &pool->oldest) = buf[b].next;
    if (pool->newest == b) pool->newest = before;
    return op[b].slot;
}

static void give_back(pool_state *pool, buffer *buf, int32_t b)
{
    buf[b].next = -1;
    *(pool->oldest >= 0 ? &buf[pool->newest].next : &pool->oldest) = b;
    pool->newest = b;
}

static dml_err assign(dml_program *p, const dml_index *ix, int32_t w, const dml_lower_times *times,
                      buffer *buf, pool_state *pools)
{
    dml_op *op = p->list[w].op;
    for (int32_t i = 0; i < p->list[w].n; i++) {
        dml_touch touch[DML_OP_TOUCHES];
        const int32_t n = dml_op_touches(p, ix, &op[i], touch);
        for (int32_t t = 0; t < n; t++) {
            pool_state *pool = &pools[touch[t].port * DML_POOLS + (int32_t)touch[t].pool];
            const int32_t writer = dml_touch_writer(ix, &touch[t]);
            if (touch[t].write) {
                const int32_t slot = take(pool, buf, op, times->start_ns[i]);
                if (slot > INT16_MAX)
                    DML_FAIL(DML_ERR_SPEC,
                             "worker %d keeps more than %d micro-batches of chunk %d at once: use "
                             "a schedule with fewer in flight, or fewer micro-batches",
                             w, INT16_MAX, op[i].chunk);
                op[i].slot = (int16_t)slot;
            } else if (dml_op_info_of((dml_op_kind)op[i].kind)->has_peer) {
                op[i].slot = op[writer].slot;
            }
            if (buf[writer].last_use == i) give_back(pool, buf, writer);
        }
    }
    return DML_ERR_OK;
}

dml_err dml_lower_slots(dml_program *p, const dml_index *ix, const dml_lower_times *times,
                        dml_arena *arena)
{
    int32_t longest = 0;
    for (int32_t w = 0; w < p->workers; w++)
        longest = MAX2(longest, p->list[w].n);
    const int32_t pools = dml_program_ports(p) * DML_POOLS;
    buffer *buf = DML_NEW_N(arena, buffer, longest);
    pool_state *pool = DML_NEW_N(arena, pool_state, pools);
    for (int32_t w = 0; w < p->workers; w++) {
        for (int32_t k = 0; k < pools; k++)
            pool[k] = (pool_state){.oldest = -1, .newest = -1};
        find_lives(p, ix, w, &times[w], buf);
        DML_TRY(assign(p, ix, w, &times[w], buf, pool));
        for (int32_t k = 0; k < pools; k++)
            dml_program_slots(p, w, 0, (dml_pool)0)[k] = pool[k].slots;
    }
    return DML_ERR_OK;
}
