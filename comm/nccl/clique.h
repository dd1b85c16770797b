/* comm/nccl/clique.h - internals of the NCCL transport: its state, and communicators from birth to death.
 *
 * NCCL calls the ranks of a communicator a clique.  All are non-blocking: a call returns at once and `settle`
 * polls until the communicator is ready, the deadline passes or the abort flag is raised.  So the thread that
 * makes a transport's calls is never stuck inside one, which is what makes ncclCommAbort safe.
 */
#ifndef DML_COMM_NCCL_CLIQUE_H
#define DML_COMM_NCCL_CLIQUE_H

#include "comm/nccl/id_page.h"
#include "comm/nccl/library.h"

typedef struct dml_clique {
    dml_transport *t;
    struct dml_clique *next; /* in t->cliques */
    ncclComm_t comm;
    bool joined;          /* all ranks have come: it may be revoked */
    char name[80];        /* "pair 0 up (2 and 2 workers)", "group 7 of 3" */
    int64_t calls, bytes; /* enqueued so far */
} dml_clique;

/* The way to one peer. */
typedef struct dml_route {
    dml_clique *out, *in; /* borrowed; NULL: no pair has both */
    int32_t place;        /* the peer's rank in both */
} dml_route;

struct dml_transport {
    dml_device *device;
    int32_t rank, n_ranks, index; /* index: the CUDA device's */
    uint32_t epoch;
    int64_t timeout_ns;
    const dml_abort *abort;
    dml_nccl_library library;
    dml_id_page **pages; /* [n_ranks] owned; NULL: that rank is absent */
    dml_clique *cliques; /* owned, newest first */
    dml_route *route;    /* [n_ranks] owned */
    int32_t *server;     /* [n_ranks][n_ranks] owned: the pair that joins two ranks; -1: none */
    int32_t n_pairs;     /* met so far */
    bool failed;         /* some call has: abort, do not finalize */
    bool abandoned;      /* nothing moves any more, here or at any rank that lives */
    dml_queue *queue;    /* for introductions */
    char *scratch;       /* on the device, and */
    char *notes;         /* on the host, for the same */
    char *memory;        /* what alloc hands out */
    int64_t memory_bytes, used_bytes;
};

/* What two ranks tell each other first.  `scratch` and `notes` begin with one for each rank, and one from each. */
typedef struct dml_note {
    uint64_t key; /* of the communicator */
    uint32_t epoch;
    int32_t from, to;
    int32_t spare[11]; /* a cache line */
} dml_note;
int64_t dml_notes_bytes(const dml_transport *t);

/* Who joins: rank `maker` makes the id that the others learn from its page. */
typedef struct dml_clique_plan {
    int32_t maker, n, member; /* this rank is `member` of n; the maker is member 0 */
    uint64_t key;             /* tells communicators of an epoch apart */
    int32_t blocks; /* thread blocks of a transfer at most, the same for all; 0: NCCL's choice */
} dml_clique_plan;

/* Collective.  *out is also in t->cliques, whatever becomes of it, until they leave.  `name` as printf does. */
dml_err dml_clique_join(dml_transport *t, const dml_clique_plan *plan, dml_clique **out,
                        const char *name, ...) __attribute__((format(printf, 4, 5)));

/* Waits until `c`, whose call just returned `status`, is ready for the next.
 *   call, peer  for the error: "ncclSend"; the other worker, or -1
 * DML_ERR_PEER  a peer has failed, the deadline passed, or the run is being stopped; other codes: status.h's */
dml_err dml_clique_settle(dml_clique *c, ncclResult_t status, const char *file, int line,
                          const char *call, int32_t peer);
#define DML_NCCL(c, peer, call, args) \
    dml_clique_settle((c), call args, __FILE__, __LINE__, #call, (peer))

/* Waits for the introductions enqueued on t->queue by `c`. */
dml_err dml_clique_finish(dml_clique *c);

/* Entry `meet` of the transport. */
dml_err dml_nccl_meet(dml_transport *t, const dml_pair *pairs, int32_t n);

/* Entry `abandon` of the transport: revokes all of t->cliques or, where NCCL cannot, aborts them. */
dml_err dml_cliques_abandon(dml_transport *t);

/* Ends all of t->cliques and frees them: finalized when all went well, else aborted.
 * DML_ERR_PEER  NCCL does not come back; nothing may be freed, `t` neither, and this process must end */
dml_err dml_cliques_leave(dml_transport *t);

#endif
