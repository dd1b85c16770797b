/* engine/dml_profile.c - dml-plan profile: measures, prints a table, writes the JSON that `profile:` reads. */
#include "engine/dml_profile.h"

#include "engine/data_steps.h"
#include "engine/profile_run.h"
#include "engine/roofline.h"

#include <argp.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ARGS = 64, OPT_ROWS = 256, OPT_WORKERS, OPT_ITERATIONS, OPT_MODEL };

typedef struct command_line {
    const char *spec, *out;
    const char *override[MAX_ARGS];
    int32_t n;
    dml_profile_options options;
    bool model; /* estimated, not measured */
} command_line;

static const char doc[] = "Measures what SPEC's layers, links and all-reduces take on this "
                          "machine, in a short job on the real "
                          "backend, and writes it as JSON for `profile: FILE` of a spec.";

static const struct argp_option options[] = {
    {"output", 'o', "FILE", 0, "where to write (NAME.profile.json)", 0},
    {"iterations", OPT_ITERATIONS, "N", 0, "micro-batches of each size (100)", 0},
    {"rows", OPT_ROWS, "A,B,..", 0,
     "sizes of micro-batches (half, whole and twice training.micro_batch_size)", 0},
    {"workers", OPT_WORKERS, "N", 0, "processes that compute at once (as many as SPEC has workers)",
     0},
    {"model", OPT_MODEL, NULL, 0,
     "estimate by roofline, on SPEC's cluster.hardware, without it on this host calibrated", 0},
    {0},
};

static int32_t number_of(const char *text, char **end, int32_t least, int32_t most)
{
    const long n = strtol(text, end, 10);
    return *end == text || n < least || n > most ? -1 : (int32_t)n;
}

static int32_t option_of(const char *name, const char *text, int32_t least, int32_t most,
                         struct argp_state *state)
{
    char *end;
    const int32_t n = number_of(text, &end, least, most);
    if (n < 0 || *end)
        argp_error(state, "--%s %s: a number from %d to %d", name, text, least, most);
    return n;
}

static void rows_of(dml_profile_options *o, const char *text, struct argp_state *state)
{
    for (o->n_rows = 0; *text; o->n_rows++) {
        char *end;
        const int32_t n = number_of(text, &end, 1, 1 << 24);
        const bool last = o->n_rows > 0 && n <= o->rows[o->n_rows - 1];
        if (n < 0 || last || o->n_rows == DML_PROFILE_SIZES || (*end && *end != ','))
            argp_error(state, "--rows %s: up to %d ascending sizes such as 8,16,32", text,
                       DML_PROFILE_SIZES);
        o->rows[o->n_rows] = n;
        text = *end ? end + 1 : end;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    command_line *c = state->input;
    switch (key) {
    case 'o': c->out = arg; return 0;
    case OPT_ITERATIONS:
        c->options.iterations =
            option_of("iterations", arg, DML_PROFILE_MICRO_BATCHES, 1 << 20, state);
        return 0;
    case OPT_WORKERS:
        c->options.workers = option_of("workers", arg, 1, DML_PROFILE_RANKS, state);
        return 0;
    case OPT_MODEL: c->model = true; return 0;
    case OPT_ROWS: rows_of(&c->options, arg, state); return 0;
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

/* ---- the table --------------------------------------------------------------------------------------- */

static double ms(int64_t ns)
{
    return (double)ns * 1e-6;
}

/* Of a median, how far the quartiles are apart. */
static double spread_of(const dml_spread *s)
{
    return s->median_ns > 0 ? 100.0 * (double)(s->p75_ns - s->p25_ns) / (double)s->median_ns : 0.0;
}

static void print_layers(const dml_profile *p, int32_t size)
{
    printf("%-20s %-12s %10s %10s %10s %8s %10s %12s %12s\n", "layer", "kind", "forward ms",
           "input ms", "weight ms", "spread", "step ms", "out B/sample", "stash B");
    for (int32_t l = 0; l < p->n_layers; l++) {
        const dml_profile_layer *y = &p->layer[l];
        double spread = 0.0;
        for (dml_pass pass = 0; pass < DML_PASSES; pass++)
            if (spread_of(&y->ns[pass][size]) > spread) spread = spread_of(&y->ns[pass][size]);
        printf("%-20s %-12s", y->name, y->kind);
        if (*y->within)
            printf(" %42s", y->within);
        else
            printf(" %10.4f %10.4f %10.4f %7.1f%%", ms(y->ns[DML_PASS_FORWARD][size].median_ns),
                   ms(y->ns[DML_PASS_INPUT][size].median_ns),
                   ms(y->ns[DML_PASS_WEIGHT][size].median_ns), spread);
        printf(" %10.4f %12" PRId64 " %12" PRId64 "\n", ms(y->step_ns), y->activation_bytes,
               y->stash_bytes);
    }
}

static void print_whole(const dml_profile *p)
{
    printf("\n%-6s %12s %12s %10s %10s %14s %14s\n", "rows", "forward ms", "backward ms", "step ms",
           "norm ms", "overhead ms", "samples/s");
    for (int32_t i = 0; i < p->n_rows; i++) {
        const dml_profile_whole *w = &p->whole[i];
        printf("%-6" PRId64 " %12.3f %12.3f %10.3f %10.3f %14.3f %14.1f\n", w->rows,
               ms(w->forward_ns), ms(w->backward_ns), ms(w->step_ns), ms(w->norm_ns),
               ms(w->overhead_ns),
               w->wall_ns > 0
                   ? (double)(w->rows * p->micro_batches * p->workers) * 1e9 / (double)w->wall_ns
                   : 0.0);
    }
}

static void print_fit(const char *what, const dml_profile_fit *f)
{
    printf("%-24s %10.2f us", what, (double)f->latency_ns * 1e-3);
    if (f->bytes_per_s > 0)
        printf(" + bytes / %8.3f GB/s", (double)f->bytes_per_s * 1e-9);
    else
        printf(", however many bytes      "); /* so few that the noise is more */
    printf("   (fitted to %" PRId64 " .. %" PRId64 " bytes)\n", f->from_bytes, f->to_bytes);
}

static void print_links(const dml_profile *p)
{
    if (p->link.members == 0) return;
    printf("\nlinks: %s, %s\n", p->machine.transport, p->machine.link);
    print_fit("to a neighbour", &p->link);
    for (int32_t i = 0; i < p->n_reduces; i++) {
        char what[32];
        snprintf(what, sizeof what, "sum among %" PRId64, p->reduce[i].members);
        print_fit(what, &p->reduce[i]);
    }
    printf("%-24s %10.2f us\n", "vote", (double)p->vote_ns * 1e-3);
}

static void print_profile(const dml_profile *p, const char *path)
{
    int32_t size = p->n_rows / 2;
    printf("%s, %s%s%s; %s; %" PRId64 " workers at once, %" PRId64
           " threads each; layers at micro-batches of %" PRId64 "\n",
           p->machine.cpu, p->machine.backend, *p->machine.device ? ", " : "", p->machine.device,
           p->machine.libraries, p->workers, p->model.threads, p->rows[size]);
    print_layers(p, size);
    print_whole(p);
    print_links(p);
    printf("\nwritten to %s; in a spec: profile: %s\n", path, path);
}

/* ---- the program ------------------------------------------------------------------------------------- */

/* For an estimate with a roofline, that of the hardware it names or else of this host. */
static dml_err load(const command_line *c, dml_spec *spec)
{
    const char *override[MAX_ARGS + 2];
    int32_t n = c->n;
    memcpy(override, c->override, (size_t)n * sizeof *override);
    if (c->model) override[n++] = "costs={}";
    DML_TRY(dml_spec_load(c->spec, override, n, spec));
    if (!c->model || spec->cluster.hardware[0]) return DML_ERR_OK;
    dml_spec_free(spec);
    override[n++] = "cluster.hardware=" DML_HARDWARE_HERE;
    return dml_spec_load(c->spec, override, n, spec);
}

static dml_err profile(const command_line *c, dml_arena *arena)
{
    dml_spec spec = {0};
    dml_profile p;
    DML_TRY(load(c, &spec));
    const char *path = c->out ? c->out : dml_arena_printf(arena, "%s.profile.json", spec.run.name);
    dml_err err = dml_data_resolve_steps(&spec);
    if (err == DML_ERR_OK)
        err = c->model ? dml_profile_estimate(&spec, arena, &p)
                       : dml_profile_measure(&spec, &c->options, arena, &p);
    if (err == DML_ERR_OK) err = dml_profile_write(&p, path);
    if (err == DML_ERR_OK) print_profile(&p, path);
    dml_spec_free(&spec);
    return err;
}

/* Threads of several workers that spin starve each other (dml-train does the same), and the library reads this when it is
 * loaded: the program starts again with it. */
static void start_with(const char *variable, const char *value, char **argv)
{
    char self[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (getenv(variable) || n <= 0 || setenv(variable, value, 0) != 0) return;
    self[n] = '\0';
    execv(self, argv);
}

int dml_profile_main(int argc, char **argv)
{
    const struct argp argp = {options, parse, "SPEC [key.path=value ...]", doc, NULL, NULL, NULL};
    command_line c = {.options = {.iterations = 100, .progress = stderr}};
    dml_arena arena = {0};
    start_with("OMP_WAIT_POLICY", "passive", argv - 1);
    char name[] = "dml-plan profile";
    argv[0] = name;
    argp_err_exit_status = dml_err_exit_code(DML_ERR_SPEC);
    if (argp_parse(&argp, argc, argv, 0, NULL, &c) != 0) return argp_err_exit_status;
    const dml_err err = profile(&c, &arena);
    if (err != DML_ERR_OK)
        fprintf(stderr, "%s%s\n", err == DML_ERR_SPEC ? "" : "dml-plan profile: ", dml_err_trail());
    dml_arena_free(&arena);
    return dml_err_exit_code(err);
}
