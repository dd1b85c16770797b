/* kernels/cpu/par.h - work over fixed items by a varying number of threads.
 *
 * What an item computes never depends on who runs it, so results do not depend on the number of
 * threads: element-wise work may be cut anywhere, sums are cut into blocks that are a function of the
 * shape alone and are added in block order afterwards.
 */
#ifndef DML_KERNELS_CPU_PAR_H
#define DML_KERNELS_CPU_PAR_H

#include <stdint.h>

/* Runs item(arg, i, thread) for i in 0 .. items-1, thread in 0 .. threads-1.  With one thread or one
 * item it is a plain loop on the caller. */
typedef void (*dml_par_item)(void *arg, int64_t i, int32_t thread);
void dml_par_items(int32_t threads, int64_t items, dml_par_item item, void *arg);

/* Runs range(arg, begin, end) over 0 .. n-1, cut at multiples of 16 elements, in as many parts as
 * threads; `cost` is the bytes an element moves, and too little work stays on the caller. */
typedef void (*dml_par_range)(void *arg, int64_t begin, int64_t end);
void dml_par_ranges(int32_t threads, int64_t n, int64_t cost, dml_par_range range, void *arg);

#endif
