/* kernels/cuda/emulation/emulation.h - what a test says to the emulator and asks of it.
 *
 * The emulated module has no such test inside: there the environment speaks, before main.
 *
 *   DML_EMULATED_GPUS      devices (8)
 *   DML_EMULATED_ORDER     of threads and blocks: forward, reverse, random
 *   DML_EMULATED_STREAMS   eager, lazy, lottery
 *   DML_EMULATED_SEED      of random and lottery
 *   DML_EMULATED_FAIL      DEVICE:SITE[:hang], as dml_emu_fail
 */
#ifndef DML_EMULATION_EMULATION_H
#define DML_EMULATION_EMULATION_H

#include <stdbool.h>
#include <stdint.h>

/* In which order blocks run, threads of a pass are resumed, and streams that could go on do. */
typedef enum dml_emu_order { DML_EMU_FORWARD, DML_EMU_REVERSE, DML_EMU_RANDOM } dml_emu_order;

/* When what is enqueued on a stream runs: at once, when somebody waits for it, or at random moments
 * between.  Right host code cannot tell. */
typedef enum dml_emu_streams { DML_EMU_EAGER, DML_EMU_LAZY, DML_EMU_LOTTERY } dml_emu_streams;

#if defined(__cplusplus)
extern "C" {
#endif
/* Before anything is in flight.  The start is forward, eager. */
void dml_emu_setup(dml_emu_order order, dml_emu_streams streams, uint64_t seed);

/* Makes one call of an emulated library return an error, or what it asked for never be done.  Which: the first
 * call at the `site`-th place in our code that makes one (or, to hang, one that can), counted from 1 by first
 * visit of threads whose device is `device`; -1: of any.  Site 0: none. */
void dml_emu_fail(int32_t device, int64_t site, bool hang);
const char *dml_emu_failed(void); /* the call it was, "" when there were fewer sites */

/* Faults reported since the last clear; a launch that has one fails, and so do all after it (a device
 * error is sticky).  Clear forgets the faults, the error and what is enqueued. */
int32_t dml_emu_faults(void);
const char *dml_emu_fault(int32_t i); /* text of the i-th, "" beyond those kept */
void dml_emu_clear(void);
/* Clear, and all memory is gone: for the next run after one that a fault ended, which could free nothing. */
void dml_emu_reset(void);
#if defined(__cplusplus)
}
#endif

#endif
