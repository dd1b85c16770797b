/* kernels/cuda/emulation/emulation.h - what a test says to the emulator and asks of it. */
#ifndef DML_EMULATION_EMULATION_H
#define DML_EMULATION_EMULATION_H

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

/* Faults reported since the last clear; a launch that has one fails, and so do all after it (a device
 * error is sticky).  Clear forgets the faults and the error. */
int32_t dml_emu_faults(void);
const char *dml_emu_fault(int32_t i); /* text of the i-th, "" beyond those kept */
void dml_emu_clear(void);
#if defined(__cplusplus)
}
#endif

#endif
