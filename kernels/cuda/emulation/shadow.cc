/* kernels/cuda/emulation/shadow.cc - finds two steps that use memory with nothing between to order them.
 *
 * A cell remembers its last write and the reads since, one of each of up to READERS actors.  An access is
 * right if its step has seen all of these that it could disturb:  seen[other's actor] >= other's count.
 */
#include "kernels/cuda/emulation/shadow.h"

#include "kernels/cuda/emulation/clocks.h"
#include "kernels/cuda/emulation/fault.h"
#include "kernels/cuda/emulation/stream.h"

#include <stdio.h>
#include <unordered_map>

extern "C" char __executable_start[];

namespace emu
{
enum { BYTES = 4, PAGE = 4096, READERS = 6 };
struct use {
    uint32_t actor, count; /* count 0: nobody's */
    const char *what;
};

struct cell {
    use write, read[READERS];
};

static std::unordered_map<uintptr_t, std::vector<cell>> shadow;

/* What a step, or the host between two of its calls, does. */
struct user {
    use self;
    const vclock *seen;

    bool has_seen(const use &other) const
    {
        return other.count == 0 || other.actor == self.actor ||
               seen->of(other.actor) >= other.count;
    }
};

static user user_of(const stamp *step)
{
    if (step) return {{step->actor, step->at.of(step->actor), step->what}, &step->at};
    const vclock *host = &host_clocks[current_device];
    const uint32_t actor = host_of(current_device);
    return {{actor, host->of(actor) + 1, "the host"}, host};
}

static void name(char *text, size_t bytes, const use &u)
{
    if (u.actor < MAX_DEVICES)
        snprintf(text, bytes, "the host");
    else
        snprintf(text, bytes, "%s (%u. step of stream %u)", u.what, u.count, u.actor);
}

static void report(const user &u, bool write, const use &other, bool other_wrote, const void *at,
                   void *pc)
{
    char mine[96], theirs[96], where[64] = "";
    name(mine, sizeof mine, u.self);
    name(theirs, sizeof theirs, other);
    if (pc)
        snprintf(where, sizeof where, ", addr2line -e PROGRAM %#tx",
                 static_cast<char *>(pc) - __executable_start);
    const block_of_memory *b = find_memory(at);
    fault("a wait is missing: %s %s byte %td of a block of %zu that %s %s%s", mine,
          write ? "writes" : "reads", static_cast<const char *>(at) - b->base, b->bytes, theirs,
          other_wrote ? "wrote" : "reads", where);
}

/* A place for one more reader: that actor's, a free one, one that is ordered before, or else any. */
static use *place_for(cell *c, const user &u)
{
    for (use &r : c->read)
        if (r.count == 0 || r.actor == u.self.actor) return &r;
    for (use &r : c->read)
        if (u.has_seen(r)) return &r;
    return &c->read[0];
}

/* False: a fault was reported. */
static bool access_cell(cell *c, const user &u, bool write, const void *at, void *pc)
{
    bool right = u.has_seen(c->write);
    if (!right) report(u, write, c->write, true, at, pc);
    if (!write) {
        *place_for(c, u) = u.self;
        return right;
    }
    for (use &r : c->read) {
        if (right && !u.has_seen(r)) {
            report(u, write, r, false, at, pc);
            right = false;
        }
        r = {};
    }
    c->write = u.self;
    return right;
}

void hook_step_access(const void *at, size_t bytes, bool write, const stamp *step, void *pc)
{
    if (!is_emulated_address(at) || bytes == 0) return;
    EMU_HOLD();
    const block_of_memory *b = find_memory(at);
    const char *first = static_cast<const char *>(at);
    const char *what = step ? step->what : "the host";
    if (!b || b->freed || first < b->base || first + bytes > b->base + b->bytes) {
        fault("%s %s %zu bytes outside of any block", what, write ? "writes" : "reads", bytes);
        return;
    }
    if (!step && b->where != place_of_memory::pinned) {
        fault("the host %s device memory itself", write ? "writes" : "reads");
        return;
    }
    const user u = user_of(step);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(at);
    for (uintptr_t a = begin / BYTES * BYTES; a < begin + bytes; a += BYTES) {
        std::vector<cell> &cells = shadow[a / PAGE];
        cells.resize(PAGE / BYTES);
        const void *there = reinterpret_cast<const void *>(a < begin ? begin : a);
        if (!access_cell(&cells[a % PAGE / BYTES], u, write, there, pc))
            return; /* the rest would say the same */
    }
}

void shadow_forget(const void *base, size_t bytes)
{
    const uintptr_t first = reinterpret_cast<uintptr_t>(base);
    for (uintptr_t n = first / PAGE; n <= (first + bytes) / PAGE; n++)
        shadow.erase(n);
}

void hook_forget_all()
{
    shadow.clear();
}
} // namespace emu
