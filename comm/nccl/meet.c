/* comm/nccl/meet.c - the communicators between neighbours: made, connected and checked before the first step.
 *
 *   lower ranks 0 .. a-1      up      upper ranks a .. a+b-1        ranks within both communicators
 *        0  1           --------->          2  3
 *                       <---------
 *                          down
 *
 * NCCL connects two ranks when they first exchange something, and both have to take part.  So every rank sends a
 * note over each of its connections, one direction after the other, all connections of a direction in one group:
 * nobody waits for anybody's order.
 */
#include "comm/nccl/clique.h"

#include "comm/pair.h"
#include "kernels/cuda/device_cuda.h"

#include <stdlib.h>
#include <string.h>

/* Receives are posted early and spin until their data comes.  Between GPUs on an NVSwitch NCCL gives one peer up to 32
 * thread blocks, on as many multiprocessors: a quarter of them all would wait instead of compute.  With 8 a
 * transfer may take longer, but it is beside the compute. */
enum { PAIR_BLOCKS = 8 };

/* Keys of communicators: groups are numbered by the caller in 32 bits, pairs come above. */
static uint64_t key_of_pair(int32_t pair, bool up)
{
    return (UINT64_C(1) << 32) + 2 * (uint64_t)pair + (up ? 0 : 1);
}

int64_t dml_notes_bytes(const dml_transport *t)
{
    return 2 * (int64_t)t->n_ranks * (int64_t)sizeof(dml_note);
}

/* The pair of this rank's view: its own side and the other. */
typedef struct view {
    int32_t number;
    bool low; /* this rank is on the lower side */
    const int32_t *others;
    int32_t n_others;
    int32_t first_place; /* of the other side's ranks in the communicators: lower ranks first */
    dml_clique *up, *down;
} view;

static int32_t *server_of(const dml_transport *t, int32_t a, int32_t b)
{
    return &t->server[(int64_t)a * t->n_ranks + b];
}

/* Gives the pair all connections that no earlier pair has; false: there is none left. */
static bool claim(dml_transport *t, const dml_pair *p, int32_t number)
{
    bool any = false;
    for (int32_t i = 0; i < p->n_lower; i++)
        for (int32_t k = 0; k < p->n_upper; k++)
            if (*server_of(t, p->lower[i], p->upper[k]) < 0) {
                *server_of(t, p->lower[i], p->upper[k]) = number;
                *server_of(t, p->upper[k], p->lower[i]) = number;
                any = true;
            }
    return any;
}

static dml_note *notes_to(const dml_transport *t)
{
    return (dml_note *)(void *)t->notes;
}

static dml_note *notes_from(const dml_transport *t)
{
    return notes_to(t) + t->n_ranks;
}

static dml_note note_of(const dml_transport *t, int32_t from, int32_t to, uint64_t key)
{
    return (dml_note){.key = key, .epoch = t->epoch, .from = from, .to = to};
}

static bool is_fine(ncclResult_t status)
{
    return status == ncclSuccess || status == ncclInProgress;
}

/* One direction: the notes of the sending side to all of the other side, at once. */
static dml_err send_notes(dml_transport *t, const view *v, bool up)
{
    dml_clique *c = up ? v->up : v->down;
    const bool sends = up == v->low;
    dml_note *to = (dml_note *)(void *)t->scratch, *from = to + t->n_ranks;
    const cudaStream_t stream = dml_cuda_stream(t->queue);
    ncclResult_t first = ncclGroupStart();
    for (int32_t i = 0; i < v->n_others && is_fine(first); i++) {
        const int32_t peer = v->others[i], place = v->first_place + i;
        if (*server_of(t, t->rank, peer) != v->number) continue;
        first = sends ? ncclSend(&to[peer], sizeof(dml_note), ncclUint8, place, c->comm, stream)
                      : ncclRecv(&from[peer], sizeof(dml_note), ncclUint8, place, c->comm, stream);
    }
    const ncclResult_t ended = ncclGroupEnd();
    DML_TRY(dml_clique_settle(c, is_fine(first) ? ended : first, __FILE__, __LINE__,
                              sends ? "a group of ncclSend" : "a group of ncclRecv", -1));
    c->calls++;
    return DML_ERR_OK;
}

static dml_err read_notes(const dml_transport *t, const view *v)
{
    for (int32_t i = 0; i < v->n_others; i++) {
        const int32_t peer = v->others[i];
        if (*server_of(t, t->rank, peer) != v->number) continue;
        const dml_note want = note_of(t, peer, t->rank, key_of_pair(v->number, !v->low));
        const dml_note *got = &notes_from(t)[peer];
        if (got->epoch != want.epoch)
            DML_FAIL(DML_ERR_PEER, "refused: worker %d is at epoch %u, worker %d at %u", peer,
                     got->epoch, t->rank, t->epoch);
        if (memcmp(got, &want, sizeof want) != 0)
            DML_FAIL(DML_ERR_BUG,
                     "worker %d hears from worker %d to worker %d over %s, not from worker %d",
                     t->rank, got->from, got->to, v->low ? v->down->name : v->up->name, peer);
    }
    return DML_ERR_OK;
}

/* Moves a note over every connection of the pair, both ways, under the deadline. */
static dml_err introduce(dml_transport *t, const view *v)
{
    memset(t->notes, 0, (size_t)dml_notes_bytes(t));
    for (int32_t i = 0; i < v->n_others; i++)
        notes_to(t)[v->others[i]] =
            note_of(t, t->rank, v->others[i], key_of_pair(v->number, v->low));
    const dml_device_api *device = &dml_cuda_device;
    DML_TRY(device->copy(t->queue, t->scratch, t->notes, dml_notes_bytes(t)));
    DML_TRY(send_notes(t, v, true));
    DML_TRY(send_notes(t, v, false));
    DML_TRY(device->copy(t->queue, t->notes, t->scratch, dml_notes_bytes(t)));
    DML_TRY(dml_clique_finish(v->low ? v->down : v->up));
    return read_notes(t, v);
}

static dml_err join_pair(dml_transport *t, const dml_pair *p, int32_t number)
{
    const int32_t low = dml_pair_place(p->lower, p->n_lower, t->rank);
    const int32_t high = dml_pair_place(p->upper, p->n_upper, t->rank);
    if (low < 0 && high < 0) return DML_ERR_OK;
    view v = {.number = number,
              .low = low >= 0,
              .others = low >= 0 ? p->upper : p->lower,
              .n_others = low >= 0 ? p->n_upper : p->n_lower,
              .first_place = low >= 0 ? p->n_lower : 0};
    dml_clique_plan plan = {.maker = p->lower[0],
                            .n = p->n_lower + p->n_upper,
                            .member = low >= 0 ? low : p->n_lower + high,
                            .key = key_of_pair(number, true),
                            .blocks = PAIR_BLOCKS};
    DML_TRY(dml_clique_join(t, &plan, &v.up, "pair %d up (%d and %d workers)", number, p->n_lower,
                            p->n_upper));
    plan.key = key_of_pair(number, false);
    DML_TRY(dml_clique_join(t, &plan, &v.down, "pair %d down (%d and %d workers)", number,
                            p->n_lower, p->n_upper));
    for (int32_t i = 0; i < v.n_others; i++)
        if (*server_of(t, t->rank, v.others[i]) == number)
            t->route[v.others[i]] = (dml_route){.out = v.low ? v.up : v.down,
                                                .in = v.low ? v.down : v.up,
                                                .place = v.first_place + i};
    return introduce(t, &v);
}

static dml_err check_present(const dml_transport *t, const dml_pair *p)
{
    for (int32_t i = 0; i < p->n_lower + p->n_upper; i++) {
        const int32_t rank = i < p->n_lower ? p->lower[i] : p->upper[i - p->n_lower];
        if (!t->pages[rank])
            DML_FAIL(DML_ERR_BUG, "worker %d is in a pair, but absent at epoch %u", rank, t->epoch);
    }
    return DML_ERR_OK;
}

/* Every second pair first: those have no rank in common in a pipeline, so they join side by side. */
dml_err dml_nccl_meet(dml_transport *t, const dml_pair *pairs, int32_t n)
{
    DML_TRY(dml_pairs_check(pairs, n, t->n_ranks));
    for (int32_t i = 0; i < n; i++)
        DML_TRY(check_present(t, &pairs[i]));
    const int32_t base = t->n_pairs;
    bool *used = calloc((size_t)n + 1, sizeof *used);
    if (!used) DML_FAIL(DML_ERR_NOMEM, "no memory for %d pairs", n);
    for (int32_t i = 0; i < n; i++)
        used[i] = claim(t, &pairs[i], base + i);
    t->n_pairs += n;
    dml_err err = DML_ERR_OK;
    for (int32_t half = 0; half < 2; half++)
        for (int32_t i = half; i < n && err == DML_ERR_OK; i += 2)
            if (used[i]) err = join_pair(t, &pairs[i], base + i);
    free(used);
    if (err != DML_ERR_OK) t->failed = true; /* refused: the others do not know */
    return err;
}
