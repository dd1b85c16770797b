/* tests/kernels/cuda/faults.h - kernels with one fault each, for the emulator to find. */
#ifndef DML_TESTS_KERNELS_CUDA_FAULTS_H
#define DML_TESTS_KERNELS_CUDA_FAULTS_H

#include <cuda_runtime_api.h>

enum { FAULT_ELEMS = 256, FAULT_BLOCKS = 4, FAULT_THREADS = FAULT_ELEMS / FAULT_BLOCKS };

/* clang-format off */
/* Which pass finds it: an order (wrong result or report), the race finder, AddressSanitizer with UBSan.
 *    name               fwd    rev    random hooks  asan   what is wrong                                */
#define FAULT_LIST(X)                                                                                   \
    X(none,              false, false, false, false, false) /* nothing: all passes are silent       */ \
    X(left_neighbour,    false, true,  true,  true,  false) /* no barrier before reading s[t - 1]   */ \
    X(right_neighbour,   true,  false, true,  true,  false) /* no barrier before reading s[t + 1]   */ \
    X(tile_reused,       true,  true,  true,  true,  true)  /* no barrier before the next tile      */ \
    X(no_syncwarp,       true,  true,  true,  true,  true)  /* lanes swap through shared memory     */ \
    X(plain_add,         false, false, false, true,  false) /* += from several blocks               */ \
    X(read_after_add,    false, true,  true,  true,  false) /* reads what other blocks add to       */ \
    X(uninitialised,     true,  true,  true,  true,  false) /* a shared slot nobody wrote           */ \
    X(past_static,       false, false, false, false, true)  /* s[n] of a __shared__ array of n      */ \
    X(past_dynamic,      true,  true,  true,  true,  true)  /* the same, dynamic shared memory      */ \
    X(past_global,       true,  true,  true,  true,  true)  /* writes element n of n                */ \
    X(reads_past_global, false, false, false, true,  true)  /* reads element n of n                 */ \
    X(early_return,      true,  true,  true,  true,  true)  /* some threads skip a barrier          */ \
    X(branch_shuffle,    true,  true,  true,  true,  true)  /* half a warp skips a shuffle          */ \
    X(partial_mask,      true,  true,  true,  true,  true)  /* a shuffle of 16 lanes                */ \
    X(misaligned,        false, false, false, false, true)  /* an 8-byte load at 4 bytes            */ \
    X(tree_unsynced,     true,  false, true,  true,  false) /* halves added without a barrier between */ \
    X(tile_turned,       true,  true,  true,  true,  true)  /* a tile read by columns, no barrier   */ \
    X(scatter_add,       false, false, false, true,  false) /* windows add to the cells they share  */ \
    X(pack_past_global,  false, false, false, true,  true)  /* 16 bytes read over the end           */ \
    X(pack_misaligned,   false, false, false, false, true)  /* 16 bytes read off their border       */
/* clang-format on */

#if defined(__cplusplus)
extern "C" {
#endif
/* Each writes out[i], i < FAULT_ELEMS, as its right version would: out = in + 1; or fails to. */
#define X(name, ...) cudaError_t fault_##name(float *out, const float *in, cudaStream_t stream);
FAULT_LIST(X)
#undef X

/* out[0] = sum of in by atomicAdd of floats: right, but with bits that depend on the order. */
cudaError_t fault_float_atomics(float *out, const float *in, cudaStream_t stream);
#if defined(__cplusplus)
}
#endif

#endif
