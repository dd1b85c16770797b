/* kernels/cuda/emulation/order.cc - orders, and the faults they bring out. */
#include "kernels/cuda/emulation/order.h"

#include "kernels/cuda/emulation/fault.h"

#include <algorithm>
#include <stdarg.h>
#include <stdio.h>
#include <string>

namespace emu
{
static dml_emu_order order = DML_EMU_FORWARD;
static dml_emu_streams streams = DML_EMU_EAGER;
static uint64_t draws = 1;

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

enum { KEPT = 16, TEXT_BYTES = 320 };
static char kept[KEPT][TEXT_BYTES];
static int32_t faults;

void fault(const char *fmt, ...)
{
    if (faults < KEPT) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(kept[faults], TEXT_BYTES, fmt, ap);
        va_end(ap);
    }
    faults++;
}
} // namespace emu

void dml_emu_setup(dml_emu_order order, dml_emu_streams streams, uint64_t seed)
{
    emu::order = order;
    emu::streams = streams;
    emu::draws = seed;
}

int32_t dml_emu_faults(void)
{
    return emu::faults;
}

const char *dml_emu_fault(int32_t i)
{
    return i >= 0 && i < emu::KEPT && i < emu::faults ? emu::kept[i] : "";
}

namespace emu
{
void forget_error();
}

void dml_emu_clear(void)
{
    emu::faults = 0;
    emu::forget_error();
}
