/* kernels/cuda/emulation/order.cc - orders.  The environment's words, for programs that know nothing of the
 * emulator, are read before main (emulation.h lists them). */
#include "kernels/cuda/emulation/order.h"

#include "kernels/cuda/emulation/clocks.h"

#include <algorithm>
#include <stdlib.h>
#include <string.h>

namespace emu
{
static dml_emu_order order = DML_EMU_FORWARD;
static dml_emu_streams streams = DML_EMU_EAGER;
static uint64_t draws = 1;
static int devices = 8;

static bool says(const char *variable, const char *word)
{
    const char *value = getenv(variable);
    return value && strcmp(value, word) == 0;
}

__attribute__((constructor)) static void read_environment()
{
    if (says("DML_EMULATED_ORDER", "reverse")) order = DML_EMU_REVERSE;
    if (says("DML_EMULATED_ORDER", "random")) order = DML_EMU_RANDOM;
    if (says("DML_EMULATED_STREAMS", "lazy")) streams = DML_EMU_LAZY;
    if (says("DML_EMULATED_STREAMS", "lottery")) streams = DML_EMU_LOTTERY;
    const char *seed = getenv("DML_EMULATED_SEED"), *gpus = getenv("DML_EMULATED_GPUS");
    if (seed) draws = strtoull(seed, nullptr, 10);
    if (gpus) devices = std::min(static_cast<int>(strtol(gpus, nullptr, 10)), int{MAX_DEVICES});
}

int number_of_devices()
{
    return devices;
}

uint32_t order_draw(uint32_t n)
{
    /* SplitMix64: any seed will do. */
    uint64_t x = draws += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return static_cast<uint32_t>(((x ^ (x >> 31)) >> 32) * n >> 32);
}

void order_shuffle(std::vector<int> &items)
{
    switch (order) {
    case DML_EMU_FORWARD: break;
    case DML_EMU_REVERSE:
        if (!items.empty() && items.front() == 0) std::reverse(items.begin(), items.end());
        break;
    case DML_EMU_RANDOM:
        for (size_t i = items.size(); i > 1; i--)
            std::swap(items[i - 1], items[order_draw(static_cast<uint32_t>(i))]);
        break;
    }
}

dml_emu_streams order_of_streams()
{
    return streams;
}

} // namespace emu

void dml_emu_setup(dml_emu_order order, dml_emu_streams streams, uint64_t seed)
{
    emu::order = order;
    emu::streams = streams;
    emu::draws = seed;
}
