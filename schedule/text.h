/* schedule/text.h - orders and programs as text, and back to the same bytes.
 *
 * An order is short: a worker's line lists its ops, KIND chunk.micro-batch.  A part of an op, and
 * what is about a bucket, has its number behind a slash: B0.7/2, R0/2; so has a transfer of a skip, SEND_F0.7/1.
 *
 *     order workers=2 chunks=2 mbs=2
 *     0: F0.0 F0.1 B0.0 B0.1
 *     1: F1.0 B1.0 F1.1 B1.1
 *
 * Skips come before all ops:
 *
 *     skip 1: from=0 to=3 back=2
 *
 * A program says the rest: operands after the op, one numbered op a line (the numbers are what
 * `wait` is about), the slots of each worker's chunks and skips, the routes.
 *
 *     program workers=2 chunks=2 mbs=2
 *     chunk 0: layers=0-3 params=0-8 buckets=2
 *     ...
 *     route 0: 0 0
 *     pools 0.0: IN=0 STASH=2 DY=1 DX=0
 *     pools 1.skip1: IN=1 STASH=0 DY=0 DX=0
 *     0:
 *          0 F0.0 slot=0
 *          1 SEND_F0.0 peer=1 slot=0 wait=0
 *     ...
 *
 * The header may end with `forward_only`, with `unvoted`, or with `staggered`.  Where a chunk is updated more than once,
 * its line ends with `update=` micro-batches of an update, `versions=`, `sums=`, and the ops of an
 * update have its number: R0.3, V.3, U0.3.  Ranges of layers and parameters are BEGIN-END, end
 * exclusive. Left out when they say nothing: chunk lines without any layer, parameter or bucket,
 * `buckets`, `versions` and `sums` of 1, pools lines of zeros, route lines of an order whose F ops say the same; an
 * operand at its default (peer, slot, wait none, version 0).  Blank lines, and `#` to the end of its line,
 * mean nothing.
 */
#ifndef DML_SCHEDULE_TEXT_H
#define DML_SCHEDULE_TEXT_H

#include "engine/base/str.h"
#include "schedule/program.h"

/* Appends the text. */
void dml_text_print(const dml_program *p, dml_str *out);

/* Reads what dml_text_print writes.  Only the form is checked here, meaning is for dml_check.
 *   name   of the text in errors, "file.txt"
 *   out    uninitialised before; owned by the caller, {0} on failure
 * DML_ERR_SPEC  the trail starts with name:line:column: and says what was expected */
dml_err dml_text_parse(const char *name, const char *text, dml_program *out);

#endif
