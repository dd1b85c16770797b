/* engine/inject.h - faults on purpose: what they are called, when they strike, and whom.
 *
 *   kill@step=200,stage=2,replica=0                      --inject, dml-ctl, and failures.inject as text
 *   hang@step=400,phase=backward,micro_batch=3,rank=5,duration=20s
 *   {type: kill, at: {step: 200}, target: {stage: 2, replica: 0}}        failures.inject, written out
 *
 * The agent puts faults on a board that lies in the control page; a worker looks at it before each op, which is one
 * relaxed load while there is nothing for it, and strikes.  Each strikes once in a run, whoever runs that step again.
 *
 *   agent    spec, --inject, dml-ctl, random --> board          by time: DUE, or a signal at once
 *   worker                                       op of (step, phase, micro-batch)? FAULT report; strike
 *
 * Those of processes are real: a SIGKILL, a SIGSTOP, a kernel that traps.  Where workers are threads, kill, segfault and
 * exit are one and the same: the thread goes without a word.
 */
#ifndef DML_ENGINE_INJECT_H
#define DML_ENGINE_INJECT_H

#include "engine/base/err.h"
#include "engine/base/str.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What a type takes beside when and whom. */
enum {
    DML_FAULT_TAKES_NOTHING = 0,
    DML_FAULT_TAKES_DURATION = 1 << 0,
    DML_FAULT_TAKES_FACTOR = 1 << 1,
    DML_FAULT_TAKES_CODE = 1 << 2,
    DML_FAULT_TAKES_TENSOR = 1 << 3,
    DML_FAULT_TAKES_PEERS = 1 << 4 | DML_FAULT_TAKES_DURATION,
};

/* clang-format off */
/*    type         text           takes      what it does                                                         */
#define DML_FAULT_LIST(X)                                                                                          \
    X(KILL,        "kill",        NOTHING,         "SIGKILL to the worker")                                              \
    X(SEGFAULT,    "segfault",    NOTHING,         "SIGSEGV to the worker")                                              \
    X(EXIT,        "exit",        CODE,      "the worker calls _exit(code); 1 by default")                         \
    X(HANG,        "hang",        DURATION,  "SIGSTOP to the worker, and SIGCONT after the duration; without one it never goes on") \
    X(SLOW,        "slow",        FACTOR,    "compute ops take factor times as long from here on; 2 by default")   \
    X(UNHEALTHY,   "unhealthy",   NOTHING,         "a health check says the device is bad: the worker hands over between two steps, and leaves") \
    X(GPU_ERROR,   "gpu_error",   NOTHING,         "the device fails, and every later call to it: a kernel that traps; on cpu a status that stays") \
    X(GPU_HANG,    "gpu_hang",    NOTHING,         "a kernel that never ends; on cpu a job")                             \
    X(GPU_OOM,     "gpu_oom",     NOTHING,         "an allocation that the device cannot serve")                         \
    X(XID,         "xid",         CODE,      "as if the driver had said so: 48, 79, 94, 95 are the end of the worker, 74 makes it unhealthy") \
    X(COMM_ABORT,  "comm_abort",  NOTHING,         "the worker's transport fails from here on: it is lost to the others") \
    X(LINK_DOWN,   "link_down",   PEERS,    "nothing arrives between the worker and one peer; for the duration, or until one of the two is gone") \
    X(PARTITION,   "partition",   PEERS,    "the same between the worker and several peers")             \
    X(CORRUPT,     "corrupt",     TENSOR,    "a bit of a parameter flips; without tensor a gradient becomes NaN")
/* clang-format on */
typedef enum dml_fault_type {
#define X(type, ...) DML_FAULT_##type,
    DML_FAULT_LIST(X)
#undef X
} dml_fault_type;
#define X(...) +1
enum { DML_FAULT_TYPES = 0 DML_FAULT_LIST(X) };
#undef X

/* clang-format off */
/*    phase      text         ops                                                                */
#define DML_FAULT_PHASE_LIST(X)                                                                   \
    X(ANY,       "any")       /* the step's first                                              */ \
    X(FORWARD,   "forward")   /* F                                                             */ \
    X(BACKWARD,  "backward")  /* B, I, W, RC                                                   */ \
    X(SEND,      "send")      /* of activations and gradients                                  */ \
    X(RECEIVE,   "receive")                                                                       \
    X(REDUCE,    "reduce")    /* R                                                             */ \
    X(VOTE,      "vote")      /* V                                                             */ \
    X(COMMIT,    "commit")    /* U                                                             */ \
    X(EVAL,      "eval")      /* F of the evaluation after the step                            */
/* clang-format on */
typedef enum dml_fault_phase {
#define X(phase, ...) DML_FAULT_AT_##phase,
    DML_FAULT_PHASE_LIST(X)
#undef X
} dml_fault_phase;
#define X(...) +1
enum { DML_FAULT_PHASES = 0 DML_FAULT_PHASE_LIST(X) };
#undef X

enum { DML_FAULT_TENSOR_BYTES = 64, DML_FAULT_TEXT_BYTES = 256 };

/* Plain bytes: it lies in memory that processes share. */
typedef struct dml_fault {
    int32_t type;           /* dml_fault_type */
    int32_t rank;           /* -1: stage and replica say who, and with those at -1 it is drawn */
    int32_t stage, replica; /* of the plan that is run when it is armed; replica -1: 0 */
    int64_t step;           /* from 1; 0: not by step */
    int32_t phase;          /* dml_fault_phase */
    int32_t mb;             /* global micro-batch of the step; -1: the first that comes */
    int64_t time_ns; /* since the first step began; -1: not by time.  Neither step nor time: now */
    int64_t duration_ns;                 /* 0: for ever */
    double factor;                       /* 0: 2 */
    int32_t code;                        /* exit code, Xid */
    uint64_t peers;                      /* bit r: rank r is at the other end */
    char tensor[DML_FAULT_TENSOR_BYTES]; /* parameter, by its global name; "": a gradient */
} dml_fault;

/* ---- inject_text.c ---- */

const char *dml_fault_name(dml_fault_type type);
const char *dml_fault_doc(dml_fault_type type);
int32_t dml_fault_takes(dml_fault_type type); /* DML_FAULT_TAKES_... */
/* Whether it may be the end of the worker, so that a loss soon after is its doing. */
bool dml_fault_can_end(dml_fault_type type);
const char *dml_fault_phase_name(dml_fault_phase phase);

/* Nothing said of it: now, whoever it hits. */
dml_fault dml_fault_none(void);
/* Reads "kill@step=200,rank=1", and "xid:79@..." for code=79; `out` is written only on success.
 * DML_ERR_SPEC  the text, a caret under the place, and what is wanted there */
dml_err dml_fault_parse(const char *text, dml_fault *out);
/* What must hold between its fields, however it was written.  DML_ERR_SPEC */
dml_err dml_fault_check(const dml_fault *fault);
/* As parse reads it, into text[DML_FAULT_TEXT_BYTES]. */
void dml_fault_print(const dml_fault *fault, char *text);

/* Faults at random: exponential pauses of the mean time between failures. */
typedef struct dml_fault_random {
    int64_t mtbf_ns; /* 0: none */
    uint64_t seed;
    uint32_t types; /* bit t: type t; 0: kill alone */
    int32_t max;    /* 0: no limit */
} dml_fault_random;

/* ---- the board ---- */

enum { DML_FAULTS = 512, DML_FAULT_RANKS = 64 };

typedef enum dml_fault_state {
    DML_FAULT_WAITS,  /* for its step, phase and micro-batch */
    DML_FAULT_SLEEPS, /* its time has not come */
    DML_FAULT_DUE,    /* at the next op of whoever it is for */
    DML_FAULT_STRUCK,
} dml_fault_state;

typedef struct dml_fault_slot {
    dml_fault fault; /* rank >= 0; constant once it is counted */
    _Atomic uint32_t state;
} dml_fault_slot;

/* Of the control page: written by the agent, struck by workers.  Zeroed: there is nothing. */
typedef struct dml_fault_board {
    _Atomic uint32_t n;
    _Atomic uint32_t wanted[DML_FAULT_RANKS]; /* that WAIT or are DUE, by rank */
    dml_fault_slot slot[DML_FAULTS];
} dml_fault_board;

/* Appends a fault with its rank; several threads may not.  DML_ERR_SPEC  it is full */
dml_err dml_board_add(dml_fault_board *board, const dml_fault *fault);
/* A sleeping one is due. */
void dml_board_wake(dml_fault_board *board, uint32_t slot);
/* Claims a fault that nobody has struck; false: another did. */
bool dml_board_claim(dml_fault_board *board, uint32_t slot);

#endif
