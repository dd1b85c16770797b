/* kernels/cuda/emulation/order.h - the order in which things that may go on do. */
#ifndef DML_EMULATION_ORDER_H
#define DML_EMULATION_ORDER_H

#include "kernels/cuda/emulation/emulation.h"

#include <vector>

namespace emu
{
/* `items` is some permutation of 0..n-1; makes it the next pass's. */
void order_shuffle(std::vector<int> &items);
dml_emu_streams order_of_streams();
int number_of_devices();
/* Uniform on 0..n-1, from the seed of dml_emu_setup. */
uint32_t order_draw(uint32_t n);
} // namespace emu

#endif
