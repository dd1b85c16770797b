/* engine/dml_plan.c - prints the plan and draws the schedule; no device, no training. */
#include "engine/plan_compare.h"
#include "engine/plan_print.h"

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
    OPT_TEXT = 256,
    OPT_EVAL,
    OPT_WIDTH,
    OPT_COMPARE,
    OPT_DRAW,
    OPT_EXPORT
};

typedef struct command_line {
    const char *spec;
    const char *override[MAX_ARGS];
    int n;
    bool compare;
    dml_plan_view view;
} command_line;

static const char doc[] = "Prints the plan of SPEC ('-': standard input) and draws its schedule, "
                          "without training.";

static const struct argp_option options[] = {
    {"text", OPT_TEXT, NULL, 0, "print the lowered program: every op with its peer, slot and waits",
     0},
    {"compare", OPT_COMPARE, NULL, 0, "a table of all schedules for this model and layout", 0},
    {"draw", OPT_DRAW, "text|svg", 0, "the schedule's picture alone", 0},
    {"export", OPT_EXPORT, "csv", 0,
     "the schedule as PyTorch's CSV: a row for each rank of a pipeline", 0},
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

static dml_form picture_of(const char *text, struct argp_state *state)
{
    if (strcmp(text, "svg") == 0) return DML_FORM_SVG;
    if (strcmp(text, "text") != 0) argp_error(state, "--draw %s: text or svg", text);
    return DML_FORM_PICTURE;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    command_line *c = state->input;
    switch (key) {
    case OPT_TEXT: c->view.form = DML_FORM_TEXT; return 0;
    case OPT_COMPARE: c->compare = true; return 0;
    case OPT_DRAW: c->view.form = picture_of(arg, state); return 0;
    case OPT_EXPORT:
        if (strcmp(arg, "csv") != 0) argp_error(state, "--export %s: csv is the only form", arg);
        c->view.form = DML_FORM_CSV;
        return 0;
    case OPT_EVAL: c->view.eval = true; return 0;
    case OPT_WIDTH: c->view.width = width_of(arg, state); return 0;
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

static dml_err print_comparison(const dml_spec *spec)
{
    dml_str out = {0};
    const dml_err err = dml_plan_compare(spec, &out);
    fputs(dml_str_text(&out), stdout);
    dml_str_free(&out);
    return err;
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
    command_line c = {.view.width = columns()};
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    if (argp_parse(&argp, argc, argv, 0, NULL, &c) != 0) return argp_err_exit_status;
    dml_spec spec = {0};
    dml_err err = dml_spec_load(c.spec, c.override, c.n, &spec);
    if (err == DML_ERR_OK)
        err = c.compare ? print_comparison(&spec) : dml_plan_print(&spec, &c.view);
    if (err == DML_ERR_OK && (fflush(stdout) != 0 || ferror(stdout)))
        err =
            dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "cannot write to standard output");
    if (err != DML_ERR_OK)
        fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-plan: ", dml_err_trail());
    dml_spec_free(&spec);
    return dml_err_exit_code(err);
}
