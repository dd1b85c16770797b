/* engine/dml_train.c - the program: reads the command line, then is supervisor, agent or worker.
 *
 * Options are shorthand for overrides, so there is one place where values are checked: the spec.
 */
#include "engine/agent.h"
#include "engine/base/str.h"
#include "engine/choose.h"
#include "engine/inject.h"
#include "engine/launch.h"
#include "engine/worker.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_ARGS = 64,
    OPT_PRINT_CONFIG = 256,
    OPT_NNODES,
    OPT_MAX_STEPS,
    OPT_NO_PROGRESS,
    OPT_KEYS,
    OPT_TRACE,
    OPT_TRACE_STEPS,
    OPT_DRAW,
    OPT_RESUME,
    OPT_INJECT,
    OPT_EXPECT_RECOVERIES,
    SHORTHANDS = 16,
    SHORTHAND_BYTES = 4200 /* a path and a key */
};

typedef struct command_line {
    char *spec;
    dml_str faults;           /* --inject, one after another: failures.inject=[...] */
    char *argv[MAX_ARGS + 1]; /* spec, then overrides: what the agent gets */
    int n, n_shorthands;
    char shorthand[SHORTHANDS][SHORTHAND_BYTES]; /* options as overrides */
    bool print_config, keys;
    const char *nnodes;
} command_line;

static const char doc[] =
    "Trains the model that SPEC describes ('-': standard input).\v"
    "Examples:\n"
    "  dml-train examples/quickstart.yaml\n"
    "  dml-train examples/vgg8-fashion-mnist.yaml parallelism.pp=2 parallelism.dp=2\n"
    "  dml-train examples/pipe4-delay.yaml parallelism.schedule=gpipe --max-steps 20\n"
    "\n"
    "Exit codes: 0 finished, 1 internal error, 2 usage or spec, 3 environment, 4 data, 5 diverged, "
    "6 a worker was lost, 7 a check failed, 75 asked to stop by SIGTERM and saved: start it again "
    "with "
    "--resume; 128+n stopped by signal n.";

static const struct argp_option options[] = {
    {"max-steps", OPT_MAX_STEPS, "N", 0, "stop after N steps (training.max_steps=N)", 0},
    {"no-progress", OPT_NO_PROGRESS, NULL, 0, "plain lines, no bar (logging.console=line)", 0},
    {"quiet", 'q', NULL, 0, "failures only (logging.console=quiet)", 0},
    {"trace", OPT_TRACE, "FILE", 0,
     "write what ran as trace events, for ui.perfetto.dev (logging.trace=FILE)", 0},
    {"draw", OPT_DRAW, "FILE", 0, "draw a step as it ran, to .svg or .txt (logging.draw=FILE)", 0},
    {"trace-steps", OPT_TRACE_STEPS, "A-B", 0,
     "which steps those two are of (logging.trace_steps=A-B; 3-5)", 0},
    {"inject", OPT_INJECT, "FAULT", 0,
     "a fault on purpose, such as kill@step=20,rank=1; again for more (failures.inject=[...])", 0},
    {"expect-recoveries", OPT_EXPECT_RECOVERIES, "N", 0,
     "exit 7 when there were more or fewer (failures.expect_recoveries=N)", 0},
    {"resume", OPT_RESUME, "WHICH", OPTION_ARG_OPTIONAL,
     "go on from a checkpoint: auto (the newest that is whole, if there is one; what --resume "
     "alone means), latest "
     "(there must be one), never, or the path of one (checkpoint.resume=WHICH)",
     0},
    {"print-config", OPT_PRINT_CONFIG, NULL, 0, "print the resolved spec, with origins, and end",
     0},
    {"keys", OPT_KEYS, NULL, 0, "print the reference of all spec keys, and end", 0},
    {"nnodes", OPT_NNODES, "N", 0, "number of nodes; one for now", 0},
    {0},
};

const char *argp_program_version = "dml-train " DML_VERSION;

static void add(command_line *c, struct argp_state *state, char *text)
{
    if (c->n == MAX_ARGS) argp_error(state, "more than %d arguments", MAX_ARGS);
    c->argv[c->n++] = text;
}

static void add_shorthand(command_line *c, struct argp_state *state, const char *key,
                          const char *value)
{
    if (c->n_shorthands == SHORTHANDS) argp_error(state, "more than %d options", SHORTHANDS);
    char *text = c->shorthand[c->n_shorthands++];
    if (snprintf(text, SHORTHAND_BYTES, "%s=%s", key, value) >= SHORTHAND_BYTES)
        argp_error(state, "%s: too long", key);
    add(c, state, text);
}

/* Faults replace those of the spec file, as every override does; all of one command line count. */
static void add_fault(command_line *c, struct argp_state *state, const char *text)
{
    dml_fault fault;
    if (dml_fault_parse(text, &fault) != DML_ERR_OK)
        argp_error(state, "--inject:\n%s", dml_err_trail());
    if (c->faults.len == 0) {
        dml_str_printf(&c->faults, "failures.inject=[");
    } else {
        c->faults.text[c->faults.len - 1] = ','; /* over the bracket */
    }
    dml_str_printf(&c->faults, "\"%s\"]", text);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    command_line *c = state->input;
    switch (key) {
    case OPT_MAX_STEPS: add_shorthand(c, state, "training.max_steps", arg); return 0;
    case OPT_NO_PROGRESS: add_shorthand(c, state, "logging.console", "line"); return 0;
    case OPT_TRACE: add_shorthand(c, state, "logging.trace", arg); return 0;
    case OPT_TRACE_STEPS: add_shorthand(c, state, "logging.trace_steps", arg); return 0;
    case OPT_RESUME: add_shorthand(c, state, "checkpoint.resume", arg ? arg : "auto"); return 0;
    case OPT_DRAW: add_shorthand(c, state, "logging.draw", arg); return 0;
    case OPT_INJECT: add_fault(c, state, arg); return 0;
    case OPT_EXPECT_RECOVERIES:
        add_shorthand(c, state, "failures.expect_recoveries", arg);
        return 0;
    case 'q': add_shorthand(c, state, "logging.console", "quiet"); return 0;
    case OPT_PRINT_CONFIG: c->print_config = true; return 0;
    case OPT_KEYS: c->keys = true; return 0;
    case OPT_NNODES: c->nnodes = arg; return 0;
    case ARGP_KEY_ARG:
        if (!c->spec)
            c->spec = arg;
        else
            add(c, state, arg);
        return 0;
    case ARGP_KEY_END:
        if (!c->spec && !c->keys) argp_error(state, "SPEC is missing");
        if (c->faults.len > 0) add(c, state, c->faults.text);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static int fail(dml_err err)
{
    fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-train: ", dml_err_trail());
    return dml_err_exit_code(err);
}

/* Exit code of what only prints. */
static int flushed(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    return fail(
        dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "cannot write to standard output"));
}

static int print_config(const command_line *c)
{
    dml_spec spec;
    dml_err err = dml_spec_load(c->spec, (const char *const *)c->argv + 1, c->n - 1, &spec);
    if (err != DML_ERR_OK) return fail(err);
    err = dml_choose_resolve(&spec);
    if (err == DML_ERR_OK) err = dml_spec_print(&spec, stdout);
    dml_spec_free(&spec);
    return err == DML_ERR_OK ? flushed() : fail(err);
}

/* --agent PID SPEC [override ...] and --worker RANK PID: how this program starts itself. */
static int as_agent(int argc, char **argv)
{
    const dml_agent_options o = {.supervisor_pid = atoi(argv[2]),
                                 .again = strcmp(argv[1], "--agent-again") == 0,
                                 .anew = strcmp(argv[1], "--agent-anew") == 0,
                                 .spec_path = argv[3],
                                 .overrides = (const char *const *)argv + 4,
                                 .n_overrides = argc - 4};
    return dml_agent_main(&o);
}

int main(int argc, char **argv)
{
    dml_fill_standard_fds();
    if (argc >= 4 && strncmp(argv[1], "--agent", strlen("--agent")) == 0)
        return as_agent(argc, argv);
    if (argc == 4 && strcmp(argv[1], "--worker") == 0)
        return dml_worker_main(atoi(argv[2]), atoi(argv[3]));

    const struct argp argp = {options, parse, "SPEC [key.path=value ...]", doc, NULL, NULL, NULL};
    command_line c = {.n = 1};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    if (argp_parse(&argp, argc, argv, 0, NULL, &c) != 0) return argp_err_exit_status;
    c.argv[0] = c.spec;
    if (c.keys) {
        dml_spec_help(stdout);
        return flushed();
    }
    if (c.nnodes && strcmp(c.nnodes, "1") != 0) {
        fprintf(stderr, "dml-train: --nnodes %s: one node for now; several hosts come later\n",
                c.nnodes);
        return dml_err_exit_code(DML_ERR_UNAVAILABLE);
    }
    if (c.print_config) return print_config(&c);
    setenv("OMP_WAIT_POLICY", "passive", 0); /* workers share cores: spinning threads starve them */
    setenv("GOMP_SPINCOUNT", "2000", 0); /* but some 20 us, in which the next loop often begins */
    return dml_supervise(c.argv);
}
