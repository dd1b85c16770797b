/* kernels/cuda/emulation/nccl_move.cc - pieces through shared memory (nccl_move.h).
 *
 *   send        post; the receive is there: per piece, wait till the last was taken, write; wait till all are
 *   collective  post; all are there: per piece, wait till all took the last, write the own one; all are
 *               written: combine them in rank order
 *
 * Also nothing is one piece, so that everybody has compared what was posted before the next is.
 */
#include "kernels/cuda/emulation/nccl_move.h"

#include "kernels/cuda/emulation/clocks.h"
#include "kernels/cuda/emulation/fault.h"
#include "kernels/cuda/emulation/stream.h"
#include "kernels/half.h"

#include <algorithm>
#include <fcntl.h>
#include <map>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <tuple>
#include <unistd.h>

namespace emu
{
/* ---- meetings ---- */

static meeting *map(int fd)
{
    void *at = mmap(nullptr, sizeof(meeting), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? nullptr : static_cast<meeting *>(at);
}

meeting *meeting_new(ncclUniqueId *id, int *fd)
{
    static uint64_t made;
    *fd = memfd_create("emulated-nccl", MFD_CLOEXEC);
    if (*fd < 0) return nullptr;
    meeting *m = ftruncate(*fd, sizeof(meeting)) == 0 ? map(*fd) : nullptr;
    if (!m) {
        close(*fd);
        return nullptr;
    }
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const uint64_t token =
        (static_cast<uint64_t>(t.tv_sec) << 32 | static_cast<uint64_t>(t.tv_nsec)) + ++made;
    m->token = token;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "emulated %d %d %llu", static_cast<int>(getpid()),
             *fd, static_cast<unsigned long long>(token));
    return m;
}

meeting *meeting_join(const ncclUniqueId &id)
{
    int pid, remote;
    unsigned long long token;
    char text[sizeof id.internal], path[64];
    snprintf(text, sizeof text, "%s", id.internal);
    if (sscanf(text, "emulated %d %d %llu", &pid, &remote, &token) != 3) return nullptr;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, remote);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return nullptr;
    meeting *m = lseek(fd, 0, SEEK_END) == static_cast<off_t>(sizeof(meeting)) ? map(fd) : nullptr;
    close(fd);
    if (m && m->token != token) {
        meeting_leave(m);
        return nullptr;
    }
    return m;
}

void meeting_leave(meeting *m)
{
    if (m) munmap(m, sizeof *m);
}

/* ---- elements ---- */

size_t size_of(ncclDataType_t type)
{
    switch (type) {
    case ncclUint8: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat: return 4;
    case ncclInt64:
    case ncclDouble: return 8;
    case ncclNumTypes: break;
    }
    return 0;
}

template <class T> static T combined(T a, T b, ncclRedOp_t op)
{
    if (op == ncclMax) return a < b ? b : a;
    return static_cast<T>(a + b);
}

/* Wrapping: exact mode counts on it, and on a GPU it does. */
static int64_t combined(int64_t a, int64_t b, ncclRedOp_t op)
{
    if (op == ncclMax) return a < b ? b : a;
    return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}

static int32_t combined(int32_t a, int32_t b, ncclRedOp_t op)
{
    if (op == ncclMax) return a < b ? b : a;
    return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

template <class T> static void combine(char *to, const char *from, size_t n, ncclRedOp_t op)
{
    for (size_t i = 0; i < n; i++) {
        T a, b;
        memcpy(&a, to + i * sizeof a, sizeof a);
        memcpy(&b, from + i * sizeof b, sizeof b);
        a = combined(a, b, op);
        memcpy(to + i * sizeof a, &a, sizeof a);
    }
}

/* 16 bits, by float and rounded after each addition. */
template <float widen(uint16_t), uint16_t narrow(float)>
static void combine_half(char *to, const char *from, size_t n, ncclRedOp_t op)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t a, b;
        memcpy(&a, to + i * sizeof a, sizeof a);
        memcpy(&b, from + i * sizeof b, sizeof b);
        a = narrow(combined(widen(a), widen(b), op));
        memcpy(to + i * sizeof a, &a, sizeof a);
    }
}

static void combine(ncclDataType_t type, char *to, const char *from, size_t n, ncclRedOp_t op)
{
    switch (type) {
    case ncclUint8: combine<uint8_t>(to, from, n, op); break;
    case ncclInt32: combine<int32_t>(to, from, n, op); break;
    case ncclUint32: combine<uint32_t>(to, from, n, op); break;
    case ncclInt64: combine<int64_t>(to, from, n, op); break;
    case ncclFloat: combine<float>(to, from, n, op); break;
    case ncclDouble: combine<double>(to, from, n, op); break;
    case ncclFloat16: combine_half<dml_f16_to_float, dml_f16_of_float>(to, from, n, op); break;
    case ncclBfloat16: combine_half<dml_bf16_to_float, dml_bf16_of_float>(to, from, n, op); break;
    case ncclNumTypes: break;
    }
}

/* ---- clocks ---- */

/* What the streams of this process had seen when they posted: by communicator, from, to (-1: all), number.  Of
 * ranks in other processes nothing is known, nor needed: memory is not shared with them. */
typedef std::tuple<uint64_t, int, int, uint64_t> post_id;
static std::map<post_id, vclock> posts;

static void note_post(const meeting *m, int from, int to, uint64_t number)
{
    enum { KEPT = 64 };
    posts[{m->token, from, to, number}] = running_step()->at;
    if (number > KEPT) posts.erase({m->token, from, to, number - KEPT});
}

static void learn_post(const meeting *m, int from, int to, uint64_t number)
{
    const auto at = posts.find({m->token, from, to, number});
    if (at != posts.end()) learn(at->second);
}

/* ---- point to point ---- */

static bool reached(uint32_t counter, uint32_t wanted)
{
    return static_cast<int32_t>(counter - wanted) >= 0;
}

static outcome send(channel *c, char *buffer, operation *o)
{
    const uint64_t bytes = o->call.count * size_of(o->call.type);
    while (!o->over) {
        if (c->taken != c->written) return outcome::waits;
        const uint64_t piece = std::min<uint64_t>(PIECE_BYTES, bytes - o->done_bytes);
        memcpy(buffer, static_cast<const char *>(o->src) + o->done_bytes, piece);
        o->done_bytes += piece;
        o->over = o->done_bytes == bytes;
        c->written++;
    }
    return c->taken == c->written ? outcome::done : outcome::waits;
}

static outcome receive(channel *c, const char *buffer, operation *o)
{
    const uint64_t bytes = o->call.count * size_of(o->call.type);
    while (!o->over) {
        if (c->taken == c->written) return outcome::waits;
        const uint64_t piece = std::min<uint64_t>(PIECE_BYTES, bytes - o->done_bytes);
        memcpy(static_cast<char *>(o->dst) + o->done_bytes, buffer, piece);
        o->done_bytes += piece;
        o->over = o->done_bytes == bytes;
        c->taken++;
    }
    return outcome::done;
}

static outcome move_pair(meeting *m, progress *own, int rank, operation *o)
{
    const bool sends = o->call.what == kind::send;
    const int from = sends ? rank : o->peer, to = sends ? o->peer : rank;
    channel *c = &m->way[from][to];
    if (!o->begun) {
        o->begun = true;
        o->number = sends ? ++own->sends[to] : ++own->recvs[from];
        if (sends) note_post(m, from, to, o->number);
        (sends ? c->send : c->recv) = o->call;
        (sends ? c->sends : c->recvs) = static_cast<uint32_t>(o->number);
        clocks_access(sends ? o->src : o->dst, o->call.count * size_of(o->call.type), !sends);
    }
    if (!reached(sends ? c->recvs : c->sends, static_cast<uint32_t>(o->number)))
        return outcome::waits;
    const posted &s = c->send, &r = c->recv;
    if (o->done_bytes == 0 && !o->over && (s.count != r.count || s.type != r.type)) {
        fault("nccl: rank %d sends %llu of type %d, rank %d receives %llu of type %d", from,
              static_cast<unsigned long long>(s.count), s.type, to,
              static_cast<unsigned long long>(r.count), r.type);
        return outcome::differs;
    }
    if (sends) return send(c, m->of_way[from][to], o);
    const outcome is = receive(c, m->of_way[from][to], o);
    if (is == outcome::done) learn_post(m, from, to, o->number);
    return is;
}

/* ---- collectives ---- */

static bool all(const meeting *m, std::atomic<uint32_t> member::*counter, uint32_t wanted)
{
    for (int r = 0; r < m->n_ranks; r++)
        if (!reached(m->rank[r].*counter, wanted)) return false;
    return true;
}

static bool agree(const meeting *m)
{
    const posted &a = m->rank[0].next;
    for (int r = 1; r < m->n_ranks; r++) {
        const posted &b = m->rank[r].next;
        if (a.what == b.what && a.count == b.count && a.type == b.type && a.op == b.op) continue;
        fault("nccl: rank 0 posts collective %u of %llu of type %d under %d, rank %d posts %u of "
              "%llu of type %d under %d",
              static_cast<unsigned>(a.what), static_cast<unsigned long long>(a.count), a.type, a.op,
              r, static_cast<unsigned>(b.what), static_cast<unsigned long long>(b.count), b.type,
              b.op);
        return false;
    }
    return true;
}

/* What the bytes [begin, end) of everybody's input give this rank. */
static void take_piece(const meeting *m, int rank, const operation *o, uint64_t begin, uint64_t end)
{
    const size_t size = size_of(o->call.type), bytes = end - begin;
    const uint64_t part = o->call.count * size;
    char *dst = static_cast<char *>(o->dst);
    if (o->call.what == kind::all_gather) {
        for (int r = 0; r < m->n_ranks; r++)
            memcpy(dst + static_cast<uint64_t>(r) * part + begin, m->of_rank[r], bytes);
        return;
    }
    static thread_local char sum[PIECE_BYTES];
    memcpy(sum, m->of_rank[0], bytes);
    for (int r = 1; r < m->n_ranks; r++)
        combine(o->call.type, sum, m->of_rank[r], bytes / size, o->call.op);
    if (o->call.what == kind::all_reduce) {
        memcpy(dst + begin, sum, bytes);
        return;
    }
    const uint64_t own = static_cast<uint64_t>(rank) * part;
    const uint64_t from = std::max(begin, own), to = std::min(end, own + part);
    if (from < to) memcpy(dst + (from - own), sum + (from - begin), to - from);
}

static uint64_t input_bytes(const meeting *m, const operation *o)
{
    const uint64_t part = o->call.count * size_of(o->call.type);
    return o->call.what == kind::reduce_scatter ? part * static_cast<uint64_t>(m->n_ranks) : part;
}

static uint64_t output_bytes(const meeting *m, const operation *o)
{
    const uint64_t part = o->call.count * size_of(o->call.type);
    return o->call.what == kind::all_gather ? part * static_cast<uint64_t>(m->n_ranks) : part;
}

static outcome move_all(meeting *m, progress *own, int rank, operation *o)
{
    member *self = &m->rank[rank];
    const uint64_t bytes = input_bytes(m, o);
    if (!o->begun) {
        o->begun = true;
        o->number = ++own->collectives;
        note_post(m, rank, -1, o->number);
        self->next = o->call;
        self->collectives = static_cast<uint32_t>(o->number);
        clocks_access(o->src, bytes, false);
        clocks_access(o->dst, output_bytes(m, o), true);
    }
    if (!all(m, &member::collectives, static_cast<uint32_t>(o->number))) return outcome::waits;
    if (o->done_bytes == 0 && !o->piece_written && !o->over && !agree(m)) return outcome::differs;
    while (!o->over) {
        if (!o->piece_written) {
            if (!all(m, &member::taken, own->pieces)) return outcome::waits;
            o->piece_end = std::min<uint64_t>(o->done_bytes + PIECE_BYTES, bytes);
            memcpy(m->of_rank[rank], static_cast<const char *>(o->src) + o->done_bytes,
                   o->piece_end - o->done_bytes);
            o->piece_written = true;
            self->written = ++own->pieces;
        }
        if (!all(m, &member::written, own->pieces)) return outcome::waits;
        take_piece(m, rank, o, o->done_bytes, o->piece_end);
        o->done_bytes = o->piece_end;
        o->piece_written = false;
        o->over = o->done_bytes == bytes;
        self->taken = own->pieces;
    }
    /* Nobody's next post may hide this one from those who have not yet compared. */
    if (!all(m, &member::taken, own->pieces)) return outcome::waits;
    for (int r = 0; r < m->n_ranks; r++)
        learn_post(m, r, -1, o->number);
    return outcome::done;
}

outcome move(meeting *m, progress *own, int rank, operation *o)
{
    const bool pair = o->call.what == kind::send || o->call.what == kind::recv;
    return pair ? move_pair(m, own, rank, o) : move_all(m, own, rank, o);
}
} // namespace emu
