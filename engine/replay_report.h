/* engine/replay_report.h - what the policies made of a trace: a table, JSON, a picture. */
#ifndef DML_ENGINE_REPLAY_REPORT_H
#define DML_ENGINE_REPLAY_REPORT_H

#include "engine/base/str.h"
#include "engine/replay.h"

/* Pointers are borrowed. */
typedef struct dml_replay_report {
    const char *trace, *run; /* file name; the spec's name */
    const char *schedule;
    uint64_t seed;
    double samples_per_s; /* without a fault */
    const dml_outages *outages;
    const dml_replay_planner *planner;
    const dml_replay_charges *charges;
    dml_replay_result result[DML_REPLAY_POLICIES];
} dml_replay_report;

/* Appends a row for each policy, and below what was charged and where figures come from. */
void dml_replay_print(const dml_replay_report *r, dml_str *out);

/* Appends one JSON object, its spans included. */
void dml_replay_json(const dml_replay_report *r, dml_str *out);

/* Appends a complete SVG document: throughput over time, a line for each policy and its mean; fault-scaled is dashed. */
void dml_replay_draw(const dml_replay_report *r, dml_str *out);

#endif
