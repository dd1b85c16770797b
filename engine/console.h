/* engine/console.h - what the leader prints for people, always to stderr: stdout is for results.
 *
 *   step 120/18865 | loss 5.12345 | gnorm 0.8123 | lr 6.00e-04 | 287.4 ms | 1824 samples/s | bubble 9.1% | eta 1h29m
 *
 * One such line every `logging.interval` steps, the order of its parts fixed, so that it can be grepped.  On a
 * terminal `auto` draws a progress bar with the same figures instead, redrawn in place; anywhere else there is
 * never a carriage return, an escape sequence or a thousands separator.  `quiet` leaves only failures.
 *
 * The figures come as the records of engine/metrics.h; a figure that is nan and may be unknown is left out.
 */
#ifndef DML_ENGINE_CONSOLE_H
#define DML_ENGINE_CONSOLE_H

#include "engine/metrics.h"
#include "engine/spec.h"

#include <stdbool.h>
#include <stdio.h>

/* Where the output goes, as far as that decides the form. */
typedef struct dml_console_env {
    bool tty;        /* a terminal */
    bool dumb;       /* TERM is unset or "dumb" */
    bool ci;         /* CI is set: a terminal that nobody watches */
    bool no_color;   /* NO_COLOR is set and not empty (no-color.org) */
    int32_t columns; /* of the terminal; 0: unknown */
} dml_console_env;

dml_console_env dml_console_env_of(FILE *to);

typedef struct dml_console_view {
    FILE *to; /* borrowed until the last call */
    bool quiet, bar, color, separators;
    int32_t columns;   /* the bar is cut to this width */
    int64_t interval;  /* steps between lines */
    int64_t redraw_ns; /* least time between two drawings of the bar */
    int64_t drawn_ns;  /* last drawing, dml_clock_ns */
    bool bar_on_screen;
} dml_console_view;

/* `mode` is logging.console: auto is a bar where it can be redrawn, bar insists on it even under CI, but both
 * fall back to lines where there is no terminal. */
dml_console_view dml_console_open(FILE *to, dml_console mode, int64_t interval,
                                  dml_console_env env);

/* One line of the table of stages that the header shows. */
typedef struct dml_stage_figures {
    int32_t stage;
    int32_t first_layer, last_layer; /* inclusive */
    const char *workers;             /* "0,4"; borrowed for the call */
    int64_t parameters;
    double flops_share;   /* of a sample's forward and backward work, 0 .. 1 */
    int64_t memory_bytes; /* predicted peak of one worker */
} dml_stage_figures;

/* Per worker.  Planned: simulated from the spec's delays, nan where it does not say all times.  Predicted: simulated
 * from this run's own median op times.  Measured: by the clock. */
typedef struct dml_worker_figures {
    int32_t worker;
    const char *place; /* " 1.0": rank and replica; or its stages, " 0,2"; borrowed for the call */
    double planned_step_s, predicted_step_s, measured_step_s; /* measured: median */
    double planned_bubble_ratio, predicted_bubble_ratio, measured_bubble_ratio; /* schedule/sim.h */
    double predicted_exposed_s,
        measured_exposed_s;                  /* communication, schedule/sim.h; nan: unknown */
    int32_t predicted_stash, measured_stash; /* most micro-batches held at once */
    int64_t stash_bytes;                     /* of all its slots */
} dml_worker_figures;

/* At the start: what runs, how it is laid out, what the plan expects. */
void dml_console_header(dml_console_view *v, const dml_run_start_record *run,
                        const dml_plan_record *plan, const dml_stage_figures *stages,
                        int32_t n_stages);

/* After each step: prints when step is a multiple of the interval, the first or the last, or redraws. */
void dml_console_step(dml_console_view *v, const dml_step_record *step);

void dml_console_eval(dml_console_view *v, const dml_eval_record *eval);

/* A line of its own, whatever the mode but quiet. */
void dml_console_note(dml_console_view *v, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* One block: the earliest fault first and in full, as the root cause, then the others in order of time. */
void dml_console_failures(dml_console_view *v, const dml_failure_record *failures, int32_t n);

/* A worker is lost; the run may go on. */
void dml_console_lost(dml_console_view *v, const dml_failure_record *f);

/* It did: what that took, part by part, and what it cost. */
void dml_console_recovery(dml_console_view *v, const dml_recovery_record *r);
void dml_console_pace(dml_console_view *v, const dml_pace_record *p);

/* One row of the table of recoveries at the end: times of its parts, nan where it had none. */
typedef struct dml_recovery_figures {
    int64_t recovery, step; /* from 1; committed steps with which it goes on */
    char what[32];          /* "lost 2", "back 0 5" */
    double detect_s, park_s, plan_s, move_s, rebuild_s, first_step_s, all_s;
    int64_t bytes, steps_lost;
    double ratio, predicted_ratio; /* throughput after / before */
    const char *bits;              /* static */
} dml_recovery_figures;

/* The parts of a recovery from the moments in its record; `what`, ratios and bits as they are there. */
dml_recovery_figures dml_recovery_figures_of(const dml_recovery_record *r);

/* At the end, where something was lost.  rows [n], the newest of `all`. */
void dml_console_recoveries(dml_console_view *v, const dml_run_end_record *end,
                            const dml_recovery_figures *rows, int32_t n);

/* At the end: totals, step time, accuracy, predicted beside measured. */
void dml_console_summary(dml_console_view *v, const dml_run_end_record *end,
                         const dml_worker_figures *workers, int32_t n_workers);

#endif
