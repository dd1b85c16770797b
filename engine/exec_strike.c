/* engine/exec_strike.c - faults on purpose, as the executor's ops meet them. */
#include "engine/exec_impl.h"

#include "engine/base/clock.h"
#include "engine/chunk_bucket.h"

#include <string.h>

static dml_fault_phase phase_of(const dml_resolved *r)
{
    switch ((dml_op_kind)r->op->kind) {
    case DML_OP_FWD:
        return r->x->c.program->forward_only ? DML_FAULT_AT_EVAL : DML_FAULT_AT_FORWARD;
    case DML_OP_BWD:
    case DML_OP_BWD_INPUT:
    case DML_OP_BWD_WEIGHT:
    case DML_OP_RECOMPUTE: return DML_FAULT_AT_BACKWARD;
    case DML_OP_SEND_ACT:
    case DML_OP_SEND_GRAD: return DML_FAULT_AT_SEND;
    case DML_OP_RECV_ACT:
    case DML_OP_RECV_GRAD: return DML_FAULT_AT_RECEIVE;
    case DML_OP_REDUCE: return DML_FAULT_AT_REDUCE;
    case DML_OP_VOTE: return DML_FAULT_AT_VOTE;
    case DML_OP_STEP: return DML_FAULT_AT_COMMIT;
    }
    return DML_FAULT_AT_ANY;
}

/* Transfers: the peer.  Reductions: those who hold the chunk, too. */
static uint64_t ends_of(const dml_resolved *r)
{
    const dml_program *p = r->x->c.program;
    uint64_t ends = 0;
    if (r->op->peer != DML_NO_PEER) return UINT64_C(1) << r->op->peer;
    if (r->op->kind != DML_OP_REDUCE) return 0;
    for (int32_t mb = 0; mb < p->mbs; mb++)
        ends |= UINT64_C(1) << *dml_program_route(p, r->op->chunk, mb);
    return ends & ~(UINT64_C(1) << r->x->c.worker);
}

/* ---- corrupt ----------------------------------------------------------------------------------------- */

typedef struct target {
    dml_exec *x;
    const dml_resolved *r;
    dml_queue *queue;
} target;

/* Between the word and the host; from a job on the host it is the memory itself. */
static dml_err move_word(const target *t, void *dst, const void *src)
{
    const dml_device_api *device = dml_exec_device(t->x);
    DML_TRY(device->copy(t->queue, dst, src, sizeof(uint32_t)));
    if (dml_exec_on_host(t->x)) return DML_ERR_OK;
    return device->sync(t->queue, dml_clock_ns() + t->x->c.timeout_ns);
}

/* The highest bit of the fraction: the first weight changes by up to a half, and stays a number. */
static dml_err flip(const target *t, const char *name)
{
    for (int32_t c = 0; c < t->x->c.program->chunks; c++) {
        const dml_chunk *chunk = t->x->c.held[c].chunk;
        for (int32_t p = chunk ? chunk->param_begin : 0; chunk && p < chunk->param_end; p++) {
            if (strcmp(chunk->model->param[p].name, name) != 0) continue;
            uint32_t word = 0;
            DML_TRY(move_word(t, &word, dml_chunk_param(chunk, p)));
            word ^= UINT32_C(1) << 22;
            DML_TRY(move_word(t, dml_chunk_param(chunk, p), &word));
            dml_chunk_weights_written(chunk);
            return DML_ERR_OK;
        }
    }
    DML_FAIL(DML_ERR_SPEC, "corrupt: worker %d holds no parameter '%s'", t->x->c.worker, name);
}

/* Of the chunk's sums, or in exact mode of the maxima from which their scales are made: both have been added up here,
 * and are about to be among the replicas. */
static dml_err spoil(const target *t)
{
    static const uint32_t nan_bits = UINT32_C(0x7fc00000);
    const dml_chunk *c = t->r->chunk;
    const dml_bucket *b = &c->bucket[t->r->op->edge > 0 ? t->r->op->edge - 1 : 0];
    void *word = c->acc ? (void *)(c->max_bits + b->param_begin) : (void *)(c->g + b->at);
    return move_word(t, word, &nan_bits);
}

static dml_err corrupt(void *context, const dml_fault *fault)
{
    const target *t = context;
    return fault->tensor[0] ? flip(t, fault->tensor) : spoil(t);
}

/* ---- an op ------------------------------------------------------------------------------------------- */

dml_err dml_exec_strike_op(dml_resolved *r, dml_queue *queue)
{
    dml_exec *x = r->x;
    target t = {x, r, queue};
    const dml_fault_phase phase = phase_of(r);
    const bool eval = x->c.program->forward_only;
    const dml_strike_at at = {.step = eval ? atomic_load(&x->c.page->step)
                                           : x->words.step + r->update + 1,
                              .phase = phase,
                              .mb = r->op->mb,
                              .device = x->c.device,
                              .queue = queue,
                              .ends = ends_of(r),
                              .corrupt = corrupt,
                              .context = &t};
    return dml_strike(x->c.striker, &at);
}

void dml_exec_drag(const dml_resolved *r, int64_t begin_ns)
{
    const dml_striker *s = r->x->c.striker;
    if (!s || dml_op_lane(r->op) != DML_LANE_COMPUTE) return;
    const int64_t slow = atomic_load_explicit(&s->slow, memory_order_relaxed);
    if (slow == 0) return;
    const int64_t now_ns = dml_clock_ns();
    const int64_t took_ns = dml_exec_on_host(r->x)
                                ? now_ns - begin_ns
                                : dml_exec_median_ns(r->x, (dml_op_kind)r->op->kind, r->op->chunk);
    dml_sleep_until_ns(now_ns + took_ns * slow / 1000);
}
