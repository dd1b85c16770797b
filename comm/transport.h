/* comm/transport.h - moving tensors between workers.
 *
 * Ranks are workers of one run at one membership epoch.  Calls that move data are made inside a job of
 * a queue (kernels/device.h) and obey that queue's order: on CPU they block the queue's thread, on NCCL
 * they enqueue on its stream.  Buffers come from `alloc`, which is memory that peers can reach.
 *
 * Point to point is rendezvous: for each ordered pair of ranks the k-th send meets the k-th receive;
 * sizes and tags must agree (DML_ERR_BUG names both sides otherwise).  Collectives of a group are called
 * by all members in the same order, and two ranks open the groups they share in the same order.  Sums
 * run in group order, so a result has the same bits on every member and in every repeat.
 *
 * One queue at a time sends to a given peer, one receives from it, one uses a given group; different ones
 * may at the same time.  Queues are done with a transport before it is closed.
 *
 * Every wait ends: at the config's deadline or when the abort flag is raised (DML_ERR_PEER).  After any
 * error a transport is only good for `close`: communicators are disposable.  Those who are left open a new one
 * at the next epoch; what carries an older epoch is refused by it.
 */
#ifndef DML_COMM_TRANSPORT_H
#define DML_COMM_TRANSPORT_H

#include "engine/base/link.h"
#include "kernels/device.h"
#include "kernels/tensor.h"

typedef struct dml_transport dml_transport;
typedef struct dml_group dml_group;

typedef enum dml_reduction { DML_SUM, DML_MAX } dml_reduction;

enum { DML_POST_BYTES = 4096 };

/* Neighbours in a pipeline: the replicas of one stage and those of the next, disjoint.  Point to point goes
 * between a rank of `lower` and one of `upper`, either way. */
typedef struct dml_pair {
    const int32_t *lower, *upper; /* [n_lower], [n_upper] ascending; borrowed until meet returns */
    int32_t n_lower, n_upper;
} dml_pair;

/* NVLink SHARP, sums made by the NVSwitch: several times the all-reduce bandwidth of one node, but its shared
 * memory is not known to survive the abort of a rank, so recovery wants it OFF.  AUTO leaves it to NCCL. */
typedef enum dml_nvls { DML_NVLS_AUTO, DML_NVLS_ON, DML_NVLS_OFF } dml_nvls;

typedef struct dml_transport_config {
    int32_t rank, world;
    uint32_t epoch;         /* membership epoch; what carries another is refused */
    int64_t memory_bytes;   /* what this rank will `alloc` in all, alignment included */
    int64_t timeout_ns;     /* for one wait */
    const dml_abort *abort; /* borrowed, may be NULL */
    /* Emulated, so that schedules can be timed on one host: a transfer begins when both sides are there, occupies
     * its lane for bytes / bytes_per_s of the link between the two and arrives latency_ns after that.  A collective
     * lasts as long as a ring at the pace of its slowest link (dml_links_ring_ns).  Zeros: as fast as it goes.
     * CPU only; levels are borrowed until close. */
    dml_links links;
    dml_nvls nvls;            /* NCCL only, as the next */
    int32_t ranks_per_device; /* ranks r with the same r / ranks_per_device share a GPU; 0 is 1 */
    const bool *
        absent; /* [world] ranks that are not there at this epoch: nobody meets them, no pair and no group
                         * names them; borrowed until close; NULL: all are there */
    /* [world] memfd of each rank; shm, and NCCL for its ids; borrowed until open returns.  A memfd may serve one epoch
     * after another, of the same world size. */
    const int *fds;
    void *hub; /* what ranks of one process share, local only: dml_local_hub_new */
} dml_transport_config;

typedef struct dml_transport_api {
    const char *name; /* "shm", "local", "nccl" */
    const char *doc;

    /* The library behind it, "NCCL 2.28.9"; NULL entry: there is none. */
    const char *(*library)(void);

    /* Collective: returns when all ranks have opened.
     * DML_ERR_PEER         not all did in time, or one is at a later epoch
     * DML_ERR_UNAVAILABLE  the library is missing something or too old */
    dml_err (*open)(const dml_transport_config *config, dml_device *device, dml_transport **out);
    /* Ends what is under way, for good, so that queues come to rest whoever is dead; only close is left to be called,
     * and abandon again does nothing.
     * Memory from alloc stays as it is and may be used on renewed queues until then.  NULL entry: transfers end with
     * the abort flag.  All who live abandon before the first of them closes.
     * DML_ERR_PEER  as of close */
    dml_err (*abandon)(dml_transport *t);
    /* Groups first; NULL is fine.  `t` is gone whatever the result; no wait for ranks that are dead.
     * DML_ERR_PEER  the device did not let go of transfers in time: this process must end, without another
     *               call to the device */
    dml_err (*close)(dml_transport *t);

    /* Memory peers can reach, 64-byte aligned, zeroed; freed by close.  DML_ERR_NOMEM past memory_bytes. */
    dml_err (*alloc)(dml_transport *t, int64_t bytes, void **out);

    /* Collective: says who will send to whom, the same list in the same order on every rank, before the first
     * send; a transfer between two ranks that are in no pair is DML_ERR_BUG.  Two ranks that are in several
     * pairs use the first.  NCCL makes its communicators here, one per pair and direction, and warms them. */
    dml_err (*meet)(dml_transport *t, const dml_pair *pairs, int32_t n);

    /* src may be any memory of the device; dst is from alloc (DML_ERR_BUG on CPU when it is not). */
    dml_err (*send)(dml_transport *t, dml_queue *queue, int32_t peer, const void *src,
                    int64_t bytes, uint32_t tag);
    dml_err (*recv)(dml_transport *t, dml_queue *queue, int32_t peer, void *dst, int64_t bytes,
                    uint32_t tag);

    /* When both ends of this rank's newest send to `peer`, or receive from it, had come, and all members to the newest
     * call of a group: since then data moves (dml_clock_ns).  Asked by the queue that made the call, after it; NULL
     * entries: not known. */
    int64_t (*send_met_ns)(const dml_transport *t, int32_t peer);
    int64_t (*recv_met_ns)(const dml_transport *t, int32_t peer);
    int64_t (*call_met_ns)(const dml_group *g);

    /* Collective among `ranks` (ascending, all different; borrowed).  `id` tells groups apart; two groups
     * alive at once differ in id.  A group of one is fine and moves nothing. */
    dml_err (*group_open)(dml_transport *t, const int32_t *ranks, int32_t n, uint32_t id,
                          dml_group **out);
    void (*group_close)(dml_group *g); /* NULL is fine */
    /* In place on every member; dtypes F32, F64, BF16, F16, I64, I32, U32 (max: U32, I32, I64 only).  Sums of
     * BF16 and F16 are rounded after each addition. */
    dml_err (*all_reduce)(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                          dml_dtype dtype, dml_reduction reduction);
    /* An all_reduce in two halves, of at most DML_POST_BYTES: post takes what this rank adds and does not wait, collect waits for
     * what all have posted and leaves the sum.  The same arguments, the buffer untouched in between, and no other call of the
     * group; it takes no time of an emulated link.  NULL entries: there is none. */
    dml_err (*post)(dml_group *g, void *buffer, int64_t elems, dml_dtype dtype,
                    dml_reduction reduction);
    dml_err (*collect)(dml_group *g, void *buffer, int64_t elems, dml_dtype dtype,
                       dml_reduction reduction);
    /* Member i's `bytes` at src become bytes [i * bytes, (i+1) * bytes) of dst on all members.
     * src may be its own place in dst. */
    dml_err (*all_gather)(dml_group *g, dml_queue *queue, void *dst, const void *src,
                          int64_t bytes);
    /* buffer has n * elems elements; afterwards member i holds the reduced i-th part in place, the rest
     * is unspecified. */
    dml_err (*reduce_scatter)(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                              dml_dtype dtype, dml_reduction reduction);
} dml_transport_api;

/* By name.  DML_ERR_SPEC: no such transport; DML_ERR_UNAVAILABLE: its module is missing (says which). */
dml_err dml_transport_find(const char *name, const dml_transport_api **out);

/* What ranks that are threads of one process share.  owned; free after all transports are closed. */
typedef struct dml_local_hub dml_local_hub;
dml_err dml_local_hub_new(int32_t world, dml_local_hub **out);
void dml_local_hub_free(dml_local_hub *hub);

#endif
