/* engine/dml_plan.c - prints the plan and draws the schedule; no device, no training. */
#include "engine/plan.h"
#include "schedule/draw.h"
#include "schedule/schedule.h"
#include "schedule/sim.h"
#include "schedule/text.h"

#include <argp.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    MAX_ARGS = 64,
    MIN_COLUMNS = 10,
    MAX_COLUMNS = 10000,
    DEFAULT_COLUMNS = 120,
    OPT_TEXT = 256,
    OPT_EVAL,
    OPT_WIDTH
};

typedef struct command_line {
    const char *spec;
    const char *override[MAX_ARGS];
    int n;
    bool text, eval;
    int width;
} command_line;

static const char doc[] = "Prints the plan of SPEC ('-': standard input) and draws its schedule, "
                          "without training.";

static const struct argp_option options[] = {
    {"text", OPT_TEXT, NULL, 0, "print the lowered program: every op with its peer, slot and waits",
     0},
    {"eval", OPT_EVAL, NULL, 0, "the evaluation program instead of the training one", 0},
    {"width", OPT_WIDTH, "COLUMNS", 0, "of the drawing (default: the terminal's, or 120)", 0},
    {0},
};

const char *argp_program_version = "dml-plan " DML_VERSION;

static int width_of(const char *text, struct argp_state *state)
{
    char *end;
    const long n = strtol(text, &end, 10);
    if (*end || n < MIN_COLUMNS || n > MAX_COLUMNS)
        argp_error(state, "--width %s: a number from %d to %d", text, MIN_COLUMNS, MAX_COLUMNS);
    return (int)n;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    command_line *c = state->input;
    switch (key) {
    case OPT_TEXT: c->text = true; return 0;
    case OPT_EVAL: c->eval = true; return 0;
    case OPT_WIDTH: c->width = width_of(arg, state); return 0;
    case ARGP_KEY_ARG:
        if (!c->spec)
            c->spec = arg;
        else if (c->n == MAX_ARGS)
            argp_error(state, "more than %d overrides", MAX_ARGS);
        else
            c->override[c->n++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (!c->spec) argp_error(state, "SPEC is missing");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static void print_stages(const dml_plan *p)
{
    printf("%-6s %-28s %-10s %12s %12s %12s\n", "stage", "layers", "workers", "parameters",
           "MFLOP/sample", "MiB/worker");
    for (int32_t s = 0; s < p->stages; s++) {
        const int32_t begin = p->stage_begin[s], end = p->stage_begin[s + 1];
        int64_t parameters = 0;
        double flops = 0.0;
        for (int32_t i = p->train.span[s].param_begin; i < p->train.span[s].param_end; i++)
            parameters += p->model.param[i].elems;
        for (int32_t i = begin; i < end; i++)
            for (int pass = 0; pass < 3; pass++)
                flops += (double)p->model.layer[i].flops[pass];
        char layers[64], workers[32];
        snprintf(layers, sizeof layers, "%s .. %s", p->model.layer[begin].spec->name,
                 p->model.layer[end - 1].spec->name);
        snprintf(workers, sizeof workers, p->replicas > 1 ? "%d-%d" : "%d", s * p->replicas,
                 (s + 1) * p->replicas - 1);
        printf("%-6d %-28s %-10s %12" PRId64 " %12.2f %12.2f\n", s, layers, workers, parameters,
               flops * 1e-6, (double)dml_plan_worker_bytes(p, s * p->replicas) / 1048576.0);
    }
}

static void print_workers(const dml_plan *p, const dml_sim *sim)
{
    printf("\n%-8s %-6s %-8s %10s %8s %12s\n", "worker", "stage", "replica", "busy ms", "bubble",
           "stash peak");
    for (int32_t w = 0; w < p->workers; w++)
        printf("%-8d %-6d %-8d %10.3f %7.1f%% %12d\n", w, dml_plan_stage(p, w),
               dml_plan_replica(p, w), (double)sim->busy_ns[w] * 1e-6,
               100.0 * dml_sim_bubble(sim, w), sim->peak_stash[w]);
}

static dml_err print_plan(const command_line *c, const dml_plan *p)
{
    const dml_spec *spec = p->spec;
    const dml_program *program = c->eval ? &p->eval : &p->train;
    dml_str out = {0};
    if (c->text) {
        dml_text_print(program, &out);
        fputs(dml_str_text(&out), stdout);
        dml_str_free(&out);
        return DML_ERR_OK;
    }
    const dml_schedule *schedule;
    DML_TRY(dml_schedule_find(spec->parallelism.schedule, &schedule));
    printf("%s: pp %d x dp %d = %d workers, schedule %s (%s)\n", spec->run.name, p->stages,
           p->replicas, p->workers, schedule->name, schedule->doc);
    printf("batch %d = %d samples x %d micro-batches, %d on each replica\n\n",
           spec->training.global_batch_size, spec->training.micro_batch_size, p->mbs,
           p->mbs / p->replicas);
    print_stages(p);
    dml_sim sim;
    DML_TRY(dml_simulate(program, &p->cost, &sim));
    print_workers(p, &sim);
    printf("\n%s: %.3f ms%s\n\n", c->eval ? "evaluation round" : "step",
           (double)sim.makespan_ns * 1e-6,
           p->cost_is_exact ? " (delay layers: exact)" : " at an assumed 50 GFLOP/s; not measured");
    dml_draw_text(program, &sim, c->width, &out);
    fputs(dml_str_text(&out), stdout);
    dml_str_free(&out);
    dml_sim_free(&sim);
    return DML_ERR_OK;
}

static int columns(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                           : DEFAULT_COLUMNS;
}

int main(int argc, char **argv)
{
    const struct argp argp = {options, parse, "SPEC [key.path=value ...]", doc, NULL, NULL, NULL};
    command_line c = {.width = columns()};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    if (argp_parse(&argp, argc, argv, 0, NULL, &c) != 0) return argp_err_exit_status;
    dml_spec spec = {0};
    dml_plan plan = {0};
    dml_err err = dml_spec_load(c.spec, c.override, c.n, &spec);
    if (err == DML_ERR_OK) err = dml_plan_make(&spec, &plan);
    if (err == DML_ERR_OK) err = print_plan(&c, &plan);
    if (err == DML_ERR_OK && (fflush(stdout) != 0 || ferror(stdout)))
        err =
            dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "cannot write to standard output");
    if (err != DML_ERR_OK)
        fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-plan: ", dml_err_trail());
    dml_plan_free(&plan);
    dml_spec_free(&spec);
    return dml_err_exit_code(err);
}
