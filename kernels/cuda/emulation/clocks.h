/* kernels/cuda/emulation/clocks.h - who knows of what: vector clocks of the streams and of the host.
 *
 * Actors are streams and, for each device, the host: all threads that work with it, since how those agree among
 * each other is not looked at.  An actor counts what it does; its clock says how far it has seen the others come:
 *
 *   enqueue on s      the host counts one more; the step keeps host.seen
 *   it is its turn    s.seen = max(s.seen, step.host), s counts one more; the step's stamp is s.seen
 *   record e          e.seen = stamp                wait for e    s.seen = max(s.seen, e.seen)
 *   query says done   host.seen = max(host.seen, what was asked .seen)
 *   NCCL              a receive sees what its send did, a collective what everybody's did
 *
 * Two accesses to the same 4 bytes, one of them a write, must be so ordered: the later step has seen the
 * count of the earlier one.  This is checked in whatever order the steps ran, so a missing wait is found
 * also where the schedule was kind.  Shadow cells are kept only in programs with the race finder (hooks.cc).
 */
#ifndef DML_EMULATION_CLOCKS_H
#define DML_EMULATION_CLOCKS_H

#include <memory>
#include <stddef.h>
#include <stdint.h>
#include <vector>

namespace emu
{
struct vclock {
    std::vector<uint32_t> seen; /* [actor]; shorter: 0 */

    uint32_t of(uint32_t actor) const { return actor < seen.size() ? seen[actor] : 0; }
    void join(const vclock &other);
    void count(uint32_t actor); /* one more step of `actor` */
};

/* Of a step: who does it and what that one had seen, itself included. */
struct stamp {
    uint32_t actor;
    const char *what; /* "kernel", "cudaMemcpyAsync", ...; static */
    vclock at;
};
typedef std::shared_ptr<const stamp> stamp_of_step;

enum { MAX_DEVICES = 16, FIRST_STREAM = 2 * MAX_DEVICES };
extern vclock host_clocks[MAX_DEVICES];

static inline uint32_t host_of(int device)
{
    return static_cast<uint32_t>(device);
}

/* What has no handle runs there. */
static inline uint32_t default_stream_of(int device)
{
    return static_cast<uint32_t>(MAX_DEVICES + device);
}

/* Sets whose accesses follow; an empty one: the emulator's own, which are not checked.  Gives the last. */
stamp_of_step clocks_enter(stamp_of_step now);
const stamp *running_step(); /* nullptr: none is entered */
/* The entered step reads or writes these bytes. */
void clocks_access(const void *at, size_t bytes, bool write);
} // namespace emu

#endif
