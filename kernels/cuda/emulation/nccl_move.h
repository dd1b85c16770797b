/* kernels/cuda/emulation/nccl_move.h - how ranks of the emulated NCCL meet and move data: a file in memory.
 *
 * Ranks are processes or threads.  Whoever makes a unique id makes an anonymous file, and the id says where it
 * is to be found (process, descriptor); the others open it there.  Once all have, it has no name left: it
 * goes when the last of them does, however that one ends.  In it
 *
 *   a pair of ranks     a channel each way: what was posted by either side, and a buffer for one piece
 *   every rank          what it posted as its next collective, and a buffer for one piece
 *
 * and counters by which they tell each other of pieces written and taken.  Nobody waits in here: `move` goes
 * as far as it can and says whether it is done.  So a peer that is dead is one that never comes.
 */
#ifndef DML_EMULATION_NCCL_MOVE_H
#define DML_EMULATION_NCCL_MOVE_H

#include <atomic>
#include <nccl.h>
#include <stddef.h>
#include <stdint.h>

namespace emu
{
enum { MAX_RANKS = 16, PIECE_BYTES = 256 << 10 };
enum class kind : uint32_t { send, recv, all_reduce, all_gather, reduce_scatter };

/* What must agree among those who meet. */
struct posted {
    kind what;
    ncclDataType_t type;
    ncclRedOp_t op;
    uint64_t count;
};

struct channel {
    std::atomic<uint32_t> sends, recvs;   /* posted so far */
    posted send, recv;                    /* the last of each */
    std::atomic<uint32_t> written, taken; /* pieces */
};

struct member {
    std::atomic<uint32_t> joined, finalized;
    int32_t pid, device;
    char host[64];                        /* NCCL_HOSTID */
    std::atomic<uint32_t> collectives;    /* posted so far */
    posted next;                          /* the last of these */
    std::atomic<uint32_t> written, taken; /* pieces */
};

struct meeting {
    std::atomic<uint64_t> token; /* the id's, so that a descriptor used again is noticed */
    std::atomic<int32_t> n_ranks;
    member rank[MAX_RANKS];
    channel way[MAX_RANKS][MAX_RANKS]; /* [from][to] */
    char of_way[MAX_RANKS][MAX_RANKS][PIECE_BYTES];
    char of_rank[MAX_RANKS][PIECE_BYTES];
};

/* Makes the file and its id; *fd is to be closed once all have joined.  nullptr: no memory. */
meeting *meeting_new(ncclUniqueId *id, int *fd);
/* nullptr: its maker is gone. */
meeting *meeting_join(const ncclUniqueId &id);
void meeting_leave(meeting *m);

/* How far one rank is in one communicator: local counts that go with the shared ones. */
struct progress {
    uint32_t sends[MAX_RANKS], recvs[MAX_RANKS], collectives, pieces;
};

struct operation {
    posted call;
    const void *src;
    void *dst;
    int peer;
    bool begun, piece_written, over;
    uint64_t number, done_bytes, piece_end;
};

size_t size_of(ncclDataType_t type); /* 0: not emulated */
/* waits: for a peer; differs: what was posted does not agree, a fault has said how. */
enum class outcome { waits, done, differs };
outcome move(meeting *m, progress *own, int rank, operation *o);
} // namespace emu

#endif
