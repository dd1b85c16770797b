/* engine/dml_ctl.c - the program that asks and tells a live run: status, top, inject, checkpoint, stop. */
#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "engine/ctl.h"

#include <argp.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_WORDS = 16, TIMEOUT_MS = 10000, OPT_JSON = 256, BAR = 24 };

typedef struct command_line {
    const char *run, *command;
    const char *word[MAX_WORDS]; /* after the command */
    int n_words;
    bool json;
    double every_s;
} command_line;

static const char doc[] =
    "Asks and tells the live run whose output folder is RUN.\v"
    "Commands:\n"
    "  status                 how it stands: stages, states, throughput, failures\n"
    "  top                    the same, drawn again and again; once where there is no terminal\n"
    "  inject TYPE [OPTION]   a fault on purpose, now or at a step: kill rank=3; docs/failures.md\n"
    "  checkpoint             saves one after the current step\n"
    "  stop                   ends the run after the current step\n"
    "\n"
    "Examples:\n"
    "  dml-ctl runs/vgg8 status --json\n"
    "  dml-ctl runs/vgg8 inject kill rank=3\n"
    "  dml-ctl runs/vgg8 inject hang@step=400,phase=backward,micro_batch=3,rank=1,duration=20s\n"
    "\n"
    "Exit codes: 0 done, 2 usage or a fault that cannot be, 3 no such run, 6 the run ended or does "
    "not answer, 7 it refused.";

static const struct argp_option options[] = {
    {"json", OPT_JSON, NULL, 0, "status as the run sends it, one line", 0},
    {"interval", 'i', "S", 0, "seconds between two drawings of top; 1 by default", 0},
    {0},
};

const char *argp_program_version = "dml-ctl " DML_VERSION;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    command_line *c = state->input;
    char *end;
    switch (key) {
    case OPT_JSON: c->json = true; return 0;
    case 'i':
        c->every_s = strtod(arg, &end);
        if (*end || !(c->every_s >= 0.05)) argp_error(state, "--interval %s: at least 0.05", arg);
        return 0;
    case ARGP_KEY_ARG:
        if (!c->run)
            c->run = arg;
        else if (!c->command)
            c->command = arg;
        else if (c->n_words < MAX_WORDS)
            c->word[c->n_words++] = arg;
        else
            argp_error(state, "too many words");
        return 0;
    case ARGP_KEY_END:
        if (!c->command) argp_error(state, "RUN and a command are wanted");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static int fail(dml_err err)
{
    fprintf(stderr, "dml-ctl: %s\n", dml_err_trail());
    return dml_err_exit_code(err);
}

/* ---- asking ------------------------------------------------------------------------------------------ */

/* The answer, owned.  DML_ERR_CHECK  the run refused, and says why */
static dml_err ask(int fd, json_t *request, json_t **out)
{
    dml_str text = {0};
    char *line = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    const dml_err err = line ? dml_ctl_ask(fd, line, TIMEOUT_MS, &text) : DML_ERR_NOMEM;
    free(line);
    json_t *answer = err == DML_ERR_OK ? json_loads(dml_str_text(&text), 0, NULL) : NULL;
    dml_str_free(&text);
    if (err != DML_ERR_OK) return err;
    if (!answer) DML_FAIL(DML_ERR_PEER, "the run's answer is no JSON");
    if (json_is_true(json_object_get(answer, "ok"))) {
        *out = answer;
        return DML_ERR_OK;
    }
    const char *why = json_string_value(json_object_get(answer, "error"));
    dml_err_set(DML_ERR_SPEC, __FILE__, __LINE__, "%s", why ? why : "refused");
    json_decref(answer);
    return DML_ERR_CHECK;
}

/* ---- status ------------------------------------------------------------------------------------------ */

static const char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "-";
}

static long long whole_of(const json_t *o, const char *key)
{
    return (long long)json_integer_value(json_object_get(o, key));
}

/* "  loss 0.12345", or nothing where it is not known. */
static void print_number(dml_str *s, const json_t *o, const char *key, const char *name)
{
    const json_t *v = json_object_get(o, key);
    if (json_is_number(v)) dml_str_printf(s, "  %s %.6g", name, json_number_value(v));
}

static void print_bar(dml_str *s, long long step, long long steps)
{
    const int full = steps > 0 ? (int)(BAR * step / steps) : 0;
    dml_str_printf(s, "[");
    for (int i = 0; i < BAR; i++)
        dml_str_printf(s, i < full ? "#" : ".");
    dml_str_printf(s, "]");
}

static void print_list(dml_str *s, const char *name, const json_t *list)
{
    size_t i;
    json_t *v;
    if (json_array_size(list) == 0) return;
    dml_str_printf(s, "%s", name);
    json_array_foreach(list, i, v)
    {
        if (json_is_string(v))
            dml_str_printf(s, "%s%s", i ? ", " : " ", json_string_value(v));
        else
            dml_str_printf(s, "%s%lld", i ? ", " : " ", (long long)json_integer_value(v));
    }
    dml_str_printf(s, "\n");
}

static void print_workers(dml_str *s, const json_t *workers)
{
    size_t i;
    json_t *w;
    dml_str_printf(s, "%4s %8s %-10s %-14s %8s %10s %-12s %8s\n", "rank", "pid", "stages", "state",
                   "step", "ops", "last op", "beat");
    json_array_foreach(workers, i, w)
    {
        const json_t *beat = json_object_get(w, "beat_ms");
        char age[32] = "-";
        if (json_is_integer(beat)) snprintf(age, sizeof age, "%lld ms", whole_of(w, "beat_ms"));
        dml_str_printf(s, "%4lld %8lld %-10s %-14s %8lld %10lld %-12s %8s\n", whole_of(w, "rank"),
                       whole_of(w, "pid"), text_of(w, "stages"), text_of(w, "state"),
                       whole_of(w, "step"), whole_of(w, "ops"), text_of(w, "last_op"), age);
    }
}

static void print_status(dml_str *s, const json_t *o)
{
    dml_str_printf(s, "%s on %s: %s, plan %lld\n", text_of(o, "run"), text_of(o, "backend"),
                   text_of(o, "state"), whole_of(o, "generation"));
    print_bar(s, whole_of(o, "step"), whole_of(o, "steps"));
    dml_str_printf(s, " step %lld/%lld", whole_of(o, "step"), whole_of(o, "steps"));
    print_number(s, o, "loss", "loss");
    print_number(s, o, "samples_per_s", "samples/s");
    print_number(s, o, "eta_s", "eta s");
    dml_str_printf(s, "\nfailures %lld  recoveries %lld\n", whole_of(o, "failures"),
                   whole_of(o, "recoveries"));
    print_list(s, "lost:", json_object_get(o, "lost"));
    print_list(s, "faults to come:", json_object_get(o, "faults"));
    dml_str_printf(s, "\n");
    print_workers(s, json_object_get(o, "workers"));
}

static dml_err fetch_status(int fd, json_t **answer)
{
    return ask(fd, json_pack("{s:s}", "command", "status"), answer);
}

static dml_err status(const command_line *c, int fd)
{
    json_t *answer;
    DML_TRY(fetch_status(fd, &answer));
    const json_t *o = json_object_get(answer, "status");
    dml_str s = {0};
    char *line = c->json ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (c->json)
        dml_str_printf(&s, "%s\n", line ? line : "null");
    else
        print_status(&s, o);
    fputs(dml_str_text(&s), stdout);
    free(line);
    dml_str_free(&s);
    json_decref(answer);
    return DML_ERR_OK;
}

/* ---- top --------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t over;

static void end_top(int number)
{
    (void)number;
    over = 1;
}

/* In place: from the upper left, each line cleared to its end, then what is below. */
static void redraw(const char *text)
{
    fputs("\033[H", stdout);
    for (const char *line = text; *line;) {
        const size_t n = strcspn(line, "\n");
        printf("%.*s\033[K\n", (int)n, line);
        line += n + (line[n] != '\0');
    }
    fputs("\033[J", stdout);
    fflush(stdout);
}

static dml_err draw_until_over(const command_line *c, int fd)
{
    while (!over) {
        json_t *answer;
        dml_str s = {0};
        const int64_t next_ns = dml_clock_ns() + (int64_t)(c->every_s * 1e9);
        DML_TRY(fetch_status(fd, &answer));
        print_status(&s, json_object_get(answer, "status"));
        redraw(dml_str_text(&s));
        dml_str_free(&s);
        json_decref(answer);
        while (!over && dml_clock_ns() < next_ns)
            usleep(20000);
    }
    return DML_ERR_OK;
}

static dml_err top(const command_line *c, int fd)
{
    const char *term = getenv("TERM");
    if (!isatty(STDOUT_FILENO) || !term || strcmp(term, "dumb") == 0) return status(c, fd);
    signal(SIGINT, end_top);
    signal(SIGTERM, end_top);
    fputs("\033[?25l\033[2J", stdout); /* no cursor; clear */
    const dml_err err = draw_until_over(c, fd);
    fputs("\033[?25h", stdout);
    fflush(stdout);
    return err;
}

/* ---- orders ------------------------------------------------------------------------------------------ */

/* inject kill rank=3 step=9, or one word as --inject has it. */
static dml_err inject(const command_line *c, int fd)
{
    dml_fault fault;
    dml_str text = {0};
    for (int i = 0; i < c->n_words; i++)
        dml_str_printf(&text, "%s%s",
                       i == 0                               ? ""
                       : i == 1 && !strchr(c->word[0], '@') ? "@"
                                                            : ",",
                       c->word[i]);
    json_t *answer;
    dml_err err = dml_fault_parse(dml_str_text(&text), &fault);
    if (err == DML_ERR_OK)
        err = ask(fd, json_pack("{s:s, s:s}", "command", "inject", "fault", dml_str_text(&text)),
                  &answer);
    dml_str_free(&text);
    if (err == DML_ERR_OK) json_decref(answer);
    return err;
}

static dml_err order(const char *command, int fd)
{
    json_t *answer;
    const dml_err err = ask(fd, json_pack("{s:s}", "command", command), &answer);
    if (err == DML_ERR_OK) json_decref(answer);
    return err;
}

static dml_err carry_out(const command_line *c, int fd)
{
    if (strcmp(c->command, "status") == 0) return status(c, fd);
    if (strcmp(c->command, "top") == 0) return top(c, fd);
    if (strcmp(c->command, "inject") == 0) return inject(c, fd);
    if (strcmp(c->command, "checkpoint") == 0 || strcmp(c->command, "stop") == 0)
        return order(c->command, fd);
    DML_FAIL(DML_ERR_SPEC, "no command '%s': status, top, inject, checkpoint or stop", c->command);
}

int main(int argc, char **argv)
{
    const struct argp argp = {
        options, parse, "RUN status|top|inject|checkpoint|stop [WORD ...]", doc, NULL, NULL, NULL};
    command_line c = {.every_s = 1.0};
    int fd;
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    if (argp_parse(&argp, argc, argv, 0, NULL, &c) != 0) return argp_err_exit_status;
    dml_err err = dml_ctl_connect(c.run, &fd);
    if (err != DML_ERR_OK) return fail(err);
    err = carry_out(&c, fd);
    close(fd);
    return err == DML_ERR_OK ? 0 : fail(err);
}
