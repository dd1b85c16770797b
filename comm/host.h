/* comm/host.h - internals of the transports whose ranks see each other's memory ("shm", "local").
 *
 * Every rank owns one segment that all ranks map: a header of words and small records, then the memory
 * that `alloc` hands out.  shm.c maps memfds of other processes, local.c plain memory of one process;
 * everything else (open, point to point, groups) is written once, on the structures below.
 *
 *   segment of rank r   | joined ready | slot 0 .. 63 | pair 0 .. world-1 || inline | memory ...  |
 *                         who is here    r's state in   r's words for        small    alloc'ed
 *                                        its groups     each other rank      sums
 *
 * Each field has one writer, named beside it, and is published by a sequence word: fill the fields,
 * then set the word (release); read the word (acquire), then the fields.
 */
#ifndef DML_COMM_HOST_H
#define DML_COMM_HOST_H

#include "comm/transport.h"

enum {
    DML_GROUP_SLOTS = 64, /* groups that one rank can be in at once */
    DML_INLINE_BYTES =
        DML_POST_BYTES, /* sums up to here travel inside the segment, with one barrier less */
    DML_LINE_BYTES = 64,
};

/* Between the segment's owner and one other rank, `peer`. */
typedef struct dml_channel {
    /* receive k from the peer: the owner posts where it wants the bytes ... */
    _Alignas(DML_LINE_BYTES) _Atomic uint32_t posted; /* k, by owner */
    uint32_t post_epoch, post_tag;
    int64_t post_offset, post_bytes; /* in the owner's memory */
    /* ... and the peer copies them there. */
    _Alignas(DML_LINE_BYTES) _Atomic uint32_t sent; /* k, by peer */
    uint32_t sent_tag;
    int64_t sent_bytes;
    int64_t met_ns;     /* when both were there, dml_clock_ns */
    int64_t arrival_ns; /* likewise, emulated links only */
    /* the k-th group with the peer in it that the owner opens */
    _Alignas(DML_LINE_BYTES) _Atomic uint32_t invited; /* k, by owner, as all of the following */
    uint32_t group_id, group_size;
    uint64_t group_hash; /* of the ranks */
    uint32_t slot;       /* the owner's slot for this group */
    uint32_t slot_base;  /* its `arrived` when the group began */
} dml_channel;

/* One collective call as its member made it; all but `offset` must agree among members. */
typedef struct dml_call {
    uint32_t kind; /* dml_call_kind */
    uint32_t dtype, reduction;
    int64_t count;  /* elements, or bytes of one part */
    int64_t offset; /* of the buffer in the member's memory */
} dml_call;

/* A rank's state in one group; written by the owner.  Never reset while the segment lives, so that a
 * slow reader of the slot's earlier group waits for numbers that are still right. */
typedef struct dml_slot {
    _Alignas(DML_LINE_BYTES) _Atomic uint32_t arrived; /* barriers this member has reached */
    _Alignas(DML_LINE_BYTES) dml_call call[2];         /* by parity of the call's number */
} dml_slot;

typedef struct dml_segment {
    _Alignas(
        DML_LINE_BYTES) _Atomic uint32_t joined; /* epoch + 1 of the open that was begun last */
    _Atomic uint32_t ready;                      /* epoch + 1 once the rest is valid */
    int32_t world;
    int64_t memory_bytes;
    dml_slot slot[DML_GROUP_SLOTS];
    dml_channel pair[]; /* [world], by the peer's rank */
} dml_segment;

/* Bytes of the header of a segment, whole pages. */
int64_t dml_segment_bytes(int32_t world);

/* How segments come to be visible.  Headers first; the memory of a peer once its header is ready. */
typedef struct dml_mapper {
    dml_err (*header)(const dml_transport_config *config, int32_t rank, dml_segment **out);
    /* This rank's memory, zeroed; called when no rank uses an earlier one any more. */
    dml_err (*own)(const dml_transport_config *config, int64_t bytes, char **out);
    dml_err (*peer)(const dml_transport_config *config, int32_t rank, int64_t bytes, char **out);
    void (*unmap)(void *base, int64_t bytes);
} dml_mapper;

typedef struct dml_peer {
    dml_segment *segment;
    char *memory; /* [bytes]: inline areas, then what alloc hands out */
    int64_t bytes;
    uint32_t sends, receives, groups; /* how many this rank has begun with the peer */
    bool met;                         /* some pair of `meet` joins the two */
    int64_t sent_ns;                  /* when both ends of the newest send were there */
} dml_peer;

struct dml_transport {
    const dml_mapper *mapper;
    dml_transport_config config; /* without fds and hub: those are only valid in open */
    dml_peer *peer;              /* [world]; owned; peer[rank] is this rank itself */
    int64_t used_bytes;          /* of own memory */
    bool emulates;               /* some link takes time */
    dml_group *groups;           /* open ones, and closed ones that a member may still be in */
};

/* The entries of dml_transport_api that both transports share. */
dml_err dml_host_open(const dml_transport_config *config, const dml_mapper *mapper,
                      dml_transport **out);
dml_err dml_host_close(dml_transport *t);
dml_err dml_host_alloc(dml_transport *t, int64_t bytes, void **out);
dml_err dml_host_meet(dml_transport *t, const dml_pair *pairs, int32_t n);
dml_err dml_host_send(dml_transport *t, dml_queue *queue, int32_t peer, const void *src,
                      int64_t bytes, uint32_t tag);
dml_err dml_host_recv(dml_transport *t, dml_queue *queue, int32_t peer, void *dst, int64_t bytes,
                      uint32_t tag);
int64_t dml_host_send_met_ns(const dml_transport *t, int32_t peer);
int64_t dml_host_recv_met_ns(const dml_transport *t, int32_t peer);
int64_t dml_host_call_met_ns(const dml_group *g);
dml_err dml_host_group_open(dml_transport *t, const int32_t *ranks, int32_t n, uint32_t id,
                            dml_group **out);
void dml_host_group_close(dml_group *g);
dml_err dml_host_post(dml_group *g, void *buffer, int64_t elems, dml_dtype dtype,
                      dml_reduction reduction);
dml_err dml_host_collect(dml_group *g, void *buffer, int64_t elems, dml_dtype dtype,
                         dml_reduction reduction);
dml_err dml_host_all_reduce(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                            dml_dtype dtype, dml_reduction reduction);
dml_err dml_host_all_gather(dml_group *g, dml_queue *queue, void *dst, const void *src,
                            int64_t bytes);
dml_err dml_host_reduce_scatter(dml_group *g, dml_queue *queue, void *buffer, int64_t elems,
                                dml_dtype dtype, dml_reduction reduction);

/* Frees the groups that close left in the list. */
void dml_host_groups_free(dml_transport *t);

/* Waits with the config's timeout and abort flag.  `fmt` names the peer and the operation; it is
 * formatted only when there is something to wait for. */
dml_err dml_host_wait(const dml_transport *t, _Atomic uint32_t *word, uint32_t target,
                      const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Offset of `buffer` in this rank's memory.  DML_ERR_BUG naming `what` when [buffer, buffer + bytes)
 * is not from alloc; no bytes are anywhere. */
dml_err dml_host_offset(const dml_transport *t, const void *buffer, int64_t bytes, const char *what,
                        int64_t *out);

/* Emulated links: sleeping until a transfer is over, which the abort flag ends.  Without emulation there is nothing to
 * sleep. */
dml_err dml_host_sleep(const dml_transport *t, int64_t until_ns, const char *what);

extern const dml_transport_api dml_shm_transport;
extern const dml_transport_api dml_local_transport;

#endif
