/* schedule/csv.h - orders in PyTorch's form: a row for each rank, a cell for each action.
 *
 *     0F0,0F1,0B0,0B1
 *     1F0,1B0,1F1,1B1
 *
 * A cell is STAGE ACTION MICRO-BATCH with F forward, B whole backward, I input gradient, W weight gradient
 * (torch.distributed.pipelining, schedules.py).  A stage is a chunk here.  An empty cell is a tick without work.
 * A pair that PyTorch overlaps, (0F7;7B3)OVERLAP_F_B, is its two actions in turn: a compute lane runs one at a time.
 * Actions that are not the author's to decide here are passed over: SEND_F, RECV_F, SEND_B, RECV_B, which
 * dml_lower makes, and UNSHARD, RESHARD, REDUCE_GRAD.  PyTorch has no action for recomputation, which is the
 * module's business there: RC is left out, and the policy puts it into an order that was read.  '#'
 * begins a comment line.
 */
#ifndef DML_SCHEDULE_CSV_H
#define DML_SCHEDULE_CSV_H

#include "engine/base/str.h"
#include "schedule/program.h"

/* Appends the order (a program: its compute ops), without RC.  The form knows no updates: an asynchronous order comes
 * back as the flushed one of the same lists. */
void dml_csv_print(const dml_program *p, dml_str *out);

/* The order of a file's text: as many workers as rows, chunks and micro-batches by the largest number; routed by its
 * F ops.  Whether it is a schedule, dml_check says.
 *   name   of the file, for errors
 *   out    uninitialised before; owned by the caller, {0} on failure
 * DML_ERR_SPEC  the trail starts with name:line:column: and says what was expected */
dml_err dml_csv_parse(const char *name, const char *text, dml_program *out);

#endif
