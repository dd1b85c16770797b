/* engine/dml_replay.c - dml-plan replay: how much of a fault-free run each policy keeps, over a trace of losses. */
#include "engine/dml_replay.h"

#include "engine/choose.h"
#include "engine/replay_plans.h"
#include "engine/replay_report.h"
#include "engine/spec_value.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_ARGS = 64,
    OPT_SEED = 256,
    OPT_RECOVERY,
    OPT_RESTART,
    OPT_CHECKPOINT,
    OPT_LINK,
    OPT_STATE,
    OPT_PUBLISHED,
    OPT_DRAW,
    OPT_JSON
};

/* From a SIGKILL of a worker to the next step: of each of the 32 rows of bench/results/kills.json 99 % took less, on that
 * machine's two cores; a restart: mean of 8,192 GPUs, 6.47 min (TrainMover, OSDI 2026); links: 80 Gbit/s, as the trace's
 * published runs had. */
#define RECOVERY_NS   ((int64_t)400 * 1000 * 1000)
#define RESTART_NS    ((int64_t)388 * 1000 * 1000 * 1000)
#define CHECKPOINT_NS ((int64_t)600 * 1000 * 1000 * 1000)
#define LINK_RATE     10e9

typedef struct command_line {
    const char *trace, *spec, *draw;
    const char *override[MAX_ARGS];
    int32_t n;
    uint64_t seed;
    int64_t state_bytes;
    bool json;
    dml_replay_charges charges;
} command_line;

static const char doc[] = "Replays TRACE, a CSV file of when workers went and came back, over "
                          "SPEC: throughput under this engine's planner, "
                          "under plain SlipStream, when pipelines are dropped or all restart from "
                          "a checkpoint, and, by their published "
                          "figures, ReCycle, Oobleck and Bamboo; transitions are charged.";

static const struct argp_option options[] = {
    {"seed", OPT_SEED, "N", 0, "draws who goes and who returns (1)", 0},
    {"recovery-time", OPT_RECOVERY, "TIME", 0,
     "of ours, slipstream, drop: from the fault until all are ready (400ms)", 0},
    {"link", OPT_LINK, "RATE", 0, "of a worker, for state that moves (10GB/s)", 0},
    {"state", OPT_STATE, "BYTES", 0,
     "of the whole model with its optimizer, dealt to layers by their time (what SPEC's model has)",
     0},
    {"restart-time", OPT_RESTART, "TIME", 0, "of a start from a checkpoint (388s)", 0},
    {"checkpoint-interval", OPT_CHECKPOINT, "TIME", 0, "(600s)", 0},
    {"published", OPT_PUBLISHED, "large|350m", 0,
     "whose figures stand for ReCycle, Oobleck and Bamboo (large)", 0},
    {"json", OPT_JSON, NULL, 0, "one JSON object in place of the table", 0},
    {"draw", OPT_DRAW, "FILE.svg", 0, "throughput over time as a picture", 0},
    {0},
};

static void refuse(const char *name, const char *text, const char *such_as,
                   struct argp_state *state)
{
    argp_error(state, "--%s %s: such as %s", name, text, such_as);
}

static int64_t time_of(const char *name, const char *text, struct argp_state *state)
{
    int64_t ns = 0;
    if (!dml_value_time(text, &ns)) refuse(name, text, "300ms, 45s or 6.5m", state);
    return ns;
}

static dml_published published_of(const char *text, struct argp_state *state)
{
    const int32_t k = dml_value_word("large 350m", text);
    if (k < 0) argp_error(state, "--published %s: large or 350m", text);
    return k == 1 ? DML_PUBLISHED_350M : DML_PUBLISHED_LARGE;
}

static void take(command_line *c, const char *arg, struct argp_state *state)
{
    if (!c->trace)
        c->trace = arg;
    else if (!c->spec)
        c->spec = arg;
    else if (c->n == MAX_ARGS)
        argp_error(state, "more than %d overrides", MAX_ARGS);
    else
        c->override[c->n++] = arg;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    command_line *c = state->input;
    int64_t seed;
    switch (key) {
    case OPT_SEED:
        if (!dml_value_whole(arg, &seed) || seed < 0) refuse("seed", arg, "1", state);
        c->seed = (uint64_t)seed;
        return 0;
    case OPT_RECOVERY: c->charges.recovery_ns = time_of("recovery-time", arg, state); return 0;
    case OPT_RESTART: c->charges.restart_ns = time_of("restart-time", arg, state); return 0;
    case OPT_CHECKPOINT:
        c->charges.checkpoint_ns = time_of("checkpoint-interval", arg, state);
        return 0;
    case OPT_LINK:
        if (!dml_value_rate(arg, &c->charges.link_bytes_per_s) || c->charges.link_bytes_per_s <= 0)
            refuse("link", arg, "10GB/s", state);
        return 0;
    case OPT_STATE:
        if (!dml_value_bytes(arg, &c->state_bytes)) refuse("state", arg, "54GB", state);
        return 0;
    case OPT_PUBLISHED: c->charges.published = published_of(arg, state); return 0;
    case OPT_JSON: c->json = true; return 0;
    case OPT_DRAW: c->draw = arg; return 0;
    case ARGP_KEY_ARG: take(c, arg, state); return 0;
    case ARGP_KEY_END:
        if (!c->spec) argp_error(state, "%s is missing", c->trace ? "SPEC" : "TRACE");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static dml_err write_picture(const dml_replay_report *r, const char *path)
{
    dml_str svg = {0};
    dml_replay_draw(r, &svg);
    FILE *f = fopen(path, "w");
    const bool wrote = f && fwrite(dml_str_text(&svg), 1, svg.len, f) == svg.len;
    const bool closed = f && fclose(f) == 0;
    dml_str_free(&svg);
    if (!wrote || !closed)
        DML_FAIL(DML_ERR_UNAVAILABLE, "cannot write '%s': %s", path, strerror(errno));
    return DML_ERR_OK;
}

static const char *file_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static dml_err report(const command_line *c, const dml_spec *spec, const dml_replay_plans *plans,
                      dml_arena *arena)
{
    const dml_replay_planner *planner = dml_replay_plans_planner(plans);
    dml_outages outages;
    DML_TRY(dml_outages_load(c->trace, planner->workers, c->seed, arena, &outages));
    dml_replay_report r = {.trace = file_of(c->trace),
                           .run = spec->run.name,
                           .schedule = spec->parallelism.schedule,
                           .seed = c->seed,
                           .samples_per_s = (double)spec->training.global_batch_size * 1e9 /
                                            (double)planner->step_ns,
                           .outages = &outages,
                           .planner = planner,
                           .charges = &c->charges};
    for (int32_t k = 0; k < DML_REPLAY_POLICIES; k++)
        DML_TRY(dml_replay_run(&outages, planner, &c->charges, (dml_replay_policy)k, arena,
                               &r.result[k]));
    if (c->draw) DML_TRY(write_picture(&r, c->draw));
    dml_str out = {0};
    if (c->json)
        dml_replay_json(&r, &out);
    else
        dml_replay_print(&r, &out);
    fputs(dml_str_text(&out), stdout);
    if (c->json) putchar('\n');
    dml_str_free(&out);
    return DML_ERR_OK;
}

static dml_err replay(const command_line *c)
{
    dml_spec spec = {0};
    dml_arena arena = {0};
    dml_replay_plans *plans = NULL;
    DML_TRY(dml_spec_load(c->spec, c->override, c->n, &spec));
    dml_err err = dml_choose_resolve(&spec);
    if (err == DML_ERR_OK) err = dml_replay_plans_open(&spec, c->state_bytes, &plans);
    if (err == DML_ERR_OK) err = report(c, &spec, plans, &arena);
    dml_replay_plans_close(plans);
    dml_arena_free(&arena);
    dml_spec_free(&spec);
    return err;
}

int dml_replay_main(int argc, char **argv)
{
    const struct argp argp = {options, parse, "TRACE SPEC [key.path=value ...]", doc, NULL,
                              NULL,    NULL};
    command_line c = {.seed = 1,
                      .charges = {.recovery_ns = RECOVERY_NS,
                                  .link_bytes_per_s = LINK_RATE,
                                  .restart_ns = RESTART_NS,
                                  .checkpoint_ns = CHECKPOINT_NS,
                                  .published = DML_PUBLISHED_LARGE}};
    char name[] = "dml-plan replay";
    argv[0] = name;
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    if (argp_parse(&argp, argc, argv, 0, NULL, &c) != 0) return argp_err_exit_status;
    dml_err err = replay(&c);
    if (err == DML_ERR_OK && (fflush(stdout) != 0 || ferror(stdout)))
        err =
            dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "cannot write to standard output");
    if (err != DML_ERR_OK)
        fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-plan: ", dml_err_trail());
    return dml_err_exit_code(err);
}
