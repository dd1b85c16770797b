/* kernels/cuda/emulation/clocks.cc - the arithmetic of clocks, and whose step is running (clocks.h). */
#include "kernels/cuda/emulation/clocks.h"

#include "kernels/cuda/emulation/fault.h"

namespace emu
{
vclock host_clocks[MAX_DEVICES];
static stamp_of_step running;

void vclock::join(const vclock &other)
{
    if (other.seen.size() > seen.size()) seen.resize(other.seen.size());
    for (size_t i = 0; i < other.seen.size(); i++)
        if (other.seen[i] > seen[i]) seen[i] = other.seen[i];
}

void vclock::count(uint32_t actor)
{
    if (actor >= seen.size()) seen.resize(actor + 1);
    seen[actor]++;
}

stamp_of_step clocks_enter(stamp_of_step now)
{
    running.swap(now);
    return now;
}

void clocks_access(const void *at, size_t bytes, bool write)
{
    if (running) hook_step_access(at, bytes, write, running.get(), nullptr);
}

const stamp *running_step()
{
    return running.get();
}
} // namespace emu
