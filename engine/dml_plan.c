/* engine/dml_plan.c - prints the plan, or chooses it, and draws the schedule; no device, no training. */
#include "engine/choose.h"
#include "engine/dml_fail.h"
#include "engine/dml_profile.h"
#include "engine/dml_replay.h"
#include "engine/plan_compare.h"
#include "engine/plan_file.h"
#include "engine/plan_print.h"
#include "engine/replan.h"
#include "engine/strategies.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    MAX_ARGS = 64,
    MIN_COLUMNS = 10,
    MAX_COLUMNS = 10000,
    DEFAULT_COLUMNS = 120,
    MOST_DEVICES = 65536,
    OPT_TEXT = 256,
    OPT_EVAL,
    OPT_WIDTH,
    OPT_COMPARE,
    OPT_DRAW,
    OPT_EXPORT,
    OPT_WORLD_SIZE,
    OPT_HARDWARE,
    OPT_ORACLE,
    OPT_SAVE,
    OPT_LOST,
    OPT_FAIL,
    OPT_ALL,
    ROWS = 10 /* of a ranking */
};

typedef struct command_line {
    const char *spec;
    const char *override[MAX_ARGS];
    int n;
    bool compare, oracle, all;
    int32_t world_size;         /* 0: the spec's */
    dml_arena arena;            /* owns overrides that options make */
    const char *save;           /* NULL: nowhere */
    uint64_t lost;              /* bit r: rank r */
    const char *fail[MAX_ARGS]; /* as written */
    int32_t n_fail;
    const char *file; /* of a picture; NULL: standard output */
    dml_plan_view view;
} command_line;

static const char doc[] = "Prints the plan of SPEC ('-': standard input) and draws its schedule, "
                          "without training.";

static const struct argp_option options[] = {
    {"text", OPT_TEXT, NULL, 0, "print the lowered program: every op with its peer, slot and waits",
     0},
    {"compare", OPT_COMPARE, NULL, 0, "a table of all schedules for this model and layout", 0},
    {"draw", OPT_DRAW, "text|svg|FILE.svg", 0,
     "the schedule's picture alone; with --fail and a file, beside what is printed", 0},
    {"export", OPT_EXPORT, "csv", 0,
     "the schedule as PyTorch's CSV: a row for each rank of a pipeline", 0},
    {"save", OPT_SAVE, "FILE", 0, "with plan=auto: the chosen plan as JSON, for plan: FILE", 0},
    {"all", OPT_ALL, NULL, 0,
     "with plan=auto: price every candidate and list them all; with --oracle: every schedule of "
     "every layout",
     0},
    {"eval", OPT_EVAL, NULL, 0, "the evaluation program instead of the training one", 0},
    {"world-size", OPT_WORLD_SIZE, "N", 0,
     "plan for N workers: plan=auto parallelism.world_size=N; none of them has to be here", 0},
    {"hardware", OPT_HARDWARE, "FILE", 0, "what they are: cluster.hardware=FILE", 0},
    {"oracle", OPT_ORACLE, NULL, 0,
     "a ranked table of parallel strategies on --world-size devices, by formula and simulation", 0},
    {"lost", OPT_LOST, "RANKS", 0,
     "what becomes of the plan when workers such as 2,5 are lost: before and after, side by side",
     0},
    {"fail", OPT_FAIL, "PLACE", 0,
     "all that could be done about a lost worker (stage=2,replica=1 or worker=7), with prices and "
     "pictures; repeat it for more of them",
     0},
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

static void take_picture(command_line *c, const char *text, struct argp_state *state)
{
    const char *end = strrchr(text, '.');
    const bool is_file = end && strcmp(end, ".svg") == 0;
    if (is_file)
        c->file = text;
    else if (strcmp(text, "svg") == 0)
        c->view.form = DML_FORM_SVG;
    else if (strcmp(text, "text") == 0)
        c->view.form = DML_FORM_PICTURE;
    else
        argp_error(state, "--draw %s: text, svg or a file whose name ends in .svg", text);
}

static void add_fail(command_line *c, const char *text, struct argp_state *state)
{
    if (c->n_fail == MAX_ARGS) argp_error(state, "more than %d --fail", MAX_ARGS);
    c->fail[c->n_fail++] = text;
}

static int32_t devices_of(const char *text, struct argp_state *state)
{
    char *end;
    const long n = strtol(text, &end, 10);
    if (*end || n < 1 || n > MOST_DEVICES)
        argp_error(state, "--world-size %s: a number from 1 to %d", text, MOST_DEVICES);
    return (int32_t)n;
}

static uint64_t ranks_of(const char *text, struct argp_state *state)
{
    uint64_t ranks = 0;
    for (const char *at = text; *at;) {
        char *end;
        const long n = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',') || n < 0 || n >= DML_HOST_WORKERS)
            argp_error(state, "--lost %s: ranks from 0 to %d, with commas between them", text,
                       DML_HOST_WORKERS - 1);
        ranks |= (uint64_t)1 << n;
        at = *end ? end + 1 : end;
    }
    if (ranks == 0) argp_error(state, "--lost: which ranks?");
    return ranks;
}

static void add_override(command_line *c, const char *text, struct argp_state *state)
{
    if (c->n == MAX_ARGS) argp_error(state, "more than %d overrides", MAX_ARGS);
    c->override[c->n++] = text;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    command_line *c = state->input;
    switch (key) {
    case OPT_TEXT: c->view.form = DML_FORM_TEXT; return 0;
    case OPT_COMPARE: c->compare = true; return 0;
    case OPT_DRAW: take_picture(c, arg, state); return 0;
    case OPT_EXPORT:
        if (strcmp(arg, "csv") != 0) argp_error(state, "--export %s: csv is the only form", arg);
        c->view.form = DML_FORM_CSV;
        return 0;
    case OPT_SAVE: c->save = arg; return 0;
    case OPT_ALL: c->all = true; return 0;
    case OPT_LOST: c->lost = ranks_of(arg, state); return 0;
    case OPT_FAIL: add_fail(c, arg, state); return 0;
    case OPT_EVAL: c->view.eval = true; return 0;
    case OPT_WORLD_SIZE:
        c->world_size = devices_of(arg, state);
        add_override(c, dml_arena_printf(&c->arena, "parallelism.world_size=%s", arg), state);
        return 0;
    case OPT_HARDWARE:
        add_override(c, dml_arena_printf(&c->arena, "cluster.hardware=%s", arg), state);
        return 0;
    case OPT_ORACLE: c->oracle = true; return 0;
    case OPT_WIDTH: c->view.width = width_of(arg, state); return 0;
    case ARGP_KEY_ARG:
        if (!c->spec)
            c->spec = arg;
        else
            add_override(c, arg, state);
        return 0;
    case ARGP_KEY_END:
        if (!c->spec) argp_error(state, "SPEC is missing");
        if (c->file && c->n_fail == 0)
            argp_error(state, "--draw FILE.svg goes with --fail; else --draw svg >FILE.svg");
        if (c->world_size > 0 && !c->oracle) add_override(c, "plan=auto", state);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static dml_err print_comparison(const dml_spec *spec)
{
    dml_str out = {0};
    const dml_err err = dml_plan_compare(spec, &out);
    fputs(dml_str_text(&out), stdout);
    dml_str_free(&out);
    return err;
}

static dml_err print_strategies(const dml_spec *spec, bool all)
{
    dml_str out = {0};
    const int32_t asked = spec->parallelism.world_size;
    const dml_err err =
        dml_strategies_print(spec, asked > 0 ? asked : dml_spec_workers(spec), all, &out);
    fputs(dml_str_text(&out), stdout);
    dml_str_free(&out);
    return err;
}

/* ---- without some of the workers --------------------------------------------------------------------- */

static dml_err check_ranks(uint64_t lost, int32_t workers)
{
    for (int32_t r = 0; r < DML_HOST_WORKERS; r++)
        if (r >= workers && lost >> r & 1)
            DML_FAIL(DML_ERR_SPEC, "--lost %d: the layout has %d workers", r, workers);
    return DML_ERR_OK;
}

static dml_err print_without(const dml_spec *spec, uint64_t lost, int fd)
{
    dml_plan first;
    dml_replan r;
    dml_str out = {0};
    DML_TRY(dml_plan_make(spec, &first));
    dml_err err = check_ranks(lost, first.workers);
    if (err == DML_ERR_OK) err = dml_replan_make(fd, &first, lost, NULL, &r);
    if (err == DML_ERR_OK) {
        dml_replan_print(&first, lost, &r, &out);
        printf("%s\nplanned in %.1f ms\n", dml_str_text(&out), (double)r.took_ns * 1e-6);
        dml_planned_free(r.planned);
    }
    dml_str_free(&out);
    dml_plan_free(&first);
    return err;
}

static dml_err print_lost(const dml_spec *spec, uint64_t lost)
{
    int fd;
    dml_err err = dml_spec_to_memory(spec, &fd);
    if (err == DML_ERR_OK) err = print_without(spec, lost, fd);
    if (fd >= 0) close(fd);
    return err;
}

/* ---- plan: auto -------------------------------------------------------------------------------------- */

/* A line that is written over, where somebody watches. */
static void tell(void *ctx, int32_t priced, int32_t n)
{
    (void)ctx;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%d of %d candidates priced ", priced, n);
    else
        fprintf(stderr, "%d of %d candidates priced\n", priced, n);
}

static dml_err print_choice(const command_line *c, const dml_spec *spec)
{
    const dml_choose_options o = {.all = c->all, .progress = tell};
    dml_choice choice;
    DML_TRY(dml_choose(spec, &o, &choice));
    dml_str out = {0};
    dml_choice_print(spec, &choice, c->all ? 0 : ROWS, &out);
    fputs(dml_str_text(&out), stdout);
    dml_str_free(&out);
    const dml_err err = c->save ? dml_plan_file_save(&choice, spec, c->save) : DML_ERR_OK;
    dml_choice_free(&choice);
    return err;
}

/* A plan that is to be chosen is ranked; other forms are those of the one chosen. */
static dml_err print(const command_line *c, dml_spec *spec)
{
    const bool open = strcmp(spec->planner.plan, DML_PLAN_AUTO) == 0;
    if (c->oracle) return print_strategies(spec, c->all);
    if ((c->save || c->all) && !open)
        DML_FAIL(DML_ERR_SPEC, "--save and --all go with plan=auto: there is nothing to choose");
    const bool ranking =
        c->save || c->all ||
        (c->view.form == DML_FORM_SUMMARY && !c->compare && !c->lost && !c->n_fail);
    if (open && ranking) return print_choice(c, spec);
    DML_TRY(dml_choose_resolve(spec));
    if (c->lost) return print_lost(spec, c->lost);
    if (c->n_fail > 0)
        return dml_fail_print(spec, &(dml_fail){.place = c->fail,
                                                .n = c->n_fail,
                                                .form = c->view.form,
                                                .width = c->view.width,
                                                .file = c->file});
    return c->compare ? print_comparison(spec) : dml_plan_print(spec, &c->view);
}

static int columns(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                           : DEFAULT_COLUMNS;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "profile") == 0) return dml_profile_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "replay") == 0) return dml_replay_main(argc - 1, argv + 1);
    const struct argp argp = {options, parse, "SPEC [key.path=value ...]", doc, NULL, NULL, NULL};
    command_line c = {.view.width = columns()};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    if (argp_parse(&argp, argc, argv, 0, NULL, &c) != 0) return argp_err_exit_status;
    dml_spec spec = {0};
    dml_err err = dml_spec_load(c.spec, c.override, c.n, &spec);
    if (err == DML_ERR_OK) err = print(&c, &spec);
    if (err == DML_ERR_OK && (fflush(stdout) != 0 || ferror(stdout)))
        err =
            dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "cannot write to standard output");
    if (err != DML_ERR_OK)
        fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-plan: ", dml_err_trail());
    dml_spec_free(&spec);
    dml_arena_free(&c.arena);
    return dml_err_exit_code(err);
}
