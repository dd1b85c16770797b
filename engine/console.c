/* engine/console.c - one function per block of output; small writers for numbers below them.
 *
 * The bar is the step line behind a gauge.  It is erased before anything else is printed, so the terminal's
 * history holds whole lines only.
 */
#include "engine/console.h"

#include "engine/base/clock.h"
#include "engine/console_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { GAUGE_CELLS = 20, DEFAULT_COLUMNS = 80 };
#define REDRAW_NS  (100 * DML_NS_PER_MS)
#define ERASE_LINE "\r\x1b[K"

typedef dml_word word;

/* ---- opening ---- */

static bool is_set(const char *variable)
{
    const char *value = getenv(variable);
    return value && value[0];
}

static int32_t columns_of(FILE *to, int32_t otherwise)
{
    struct winsize size;
    const int fd = fileno(to);
    const bool known = fd >= 0 && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col : otherwise;
}

dml_console_env dml_console_env_of(FILE *to)
{
    const char *term = getenv("TERM");
    const int fd = fileno(to);
    return (dml_console_env){
        .tty = fd >= 0 && isatty(fd),
        .dumb = !term || strcmp(term, "dumb") == 0,
        .ci = is_set("CI"),
        .no_color = is_set("NO_COLOR"),
        .columns = columns_of(to, 0),
    };
}

dml_console_view dml_console_open(FILE *to, dml_console mode, int64_t interval, dml_console_env env)
{
    const bool redraws = env.tty && !env.dumb;
    const bool wanted = mode == DML_CONSOLE_BAR || (mode == DML_CONSOLE_AUTO && !env.ci);
    return (dml_console_view){
        .to = to,
        .quiet = mode == DML_CONSOLE_QUIET,
        .bar = redraws && wanted,
        .color = redraws && !env.no_color,
        .separators = env.tty,
        .columns = env.columns > 0 ? env.columns : DEFAULT_COLUMNS,
        .interval = interval > 0 ? interval : 1,
        .redraw_ns = REDRAW_NS,
    };
}

/* ---- numbers for people ---- */

/* 1824300, or 1,824,300 on a terminal. */
static word count(const dml_console_view *v, int64_t n)
{
    char digits[DML_WORD_BYTES];
    word w = {{0}};
    const int len = snprintf(digits, sizeof digits, "%" PRId64, n);
    for (int i = 0, at = 0; i < len; i++) {
        const int left = len - i;
        if (v->separators && i > 0 && left % 3 == 0 && digits[i - 1] != '-') w.text[at++] = ',';
        w.text[at++] = digits[i];
    }
    return w;
}

/* 45s, 3m12s, 1h29m, 2d03h; under ten seconds with a tenth. */
static word duration(double s)
{
    word w;
    const int64_t t = s < 1e15 ? (int64_t)(s + 0.5) : 0;
    if (!isfinite(s) || s < 0 || s >= 1e15)
        snprintf(w.text, sizeof w.text, "?");
    else if (s < 9.95)
        snprintf(w.text, sizeof w.text, "%.1fs", s);
    else if (t < 60)
        snprintf(w.text, sizeof w.text, "%" PRId64 "s", t);
    else if (t < 3600)
        snprintf(w.text, sizeof w.text, "%" PRId64 "m%02" PRId64 "s", t / 60, t % 60);
    else if (t < 86400)
        snprintf(w.text, sizeof w.text, "%" PRId64 "h%02" PRId64 "m", t / 3600, t / 60 % 60);
    else
        snprintf(w.text, sizeof w.text, "%" PRId64 "d%02" PRId64 "h", t / 86400, t / 3600 % 24);
    return w;
}

dml_word dml_console_bytes(int64_t n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    word w;
    double x = (double)n;
    size_t u = 0;
    for (; x >= 1024 && u + 1 < sizeof units / sizeof *units; u++)
        x /= 1024;
    snprintf(w.text, sizeof w.text, u == 0 ? "%.0f %s" : "%.1f %s", x, units[u]);
    return w;
}

/* A rate for people: whole, "?" when the time it was divided by was nothing. */
static word rate(const dml_console_view *v, double x)
{
    return fabs(x) < 1e15 ? count(v, llround(x)) : (word){"?"};
}

/* Fixed decimals as long as that fits; a diverging loss may have 300 digits. */
static word real(double x, int decimals)
{
    word w;
    snprintf(w.text, sizeof w.text, fabs(x) < 1e9 ? "%.*f" : "%.*e", decimals, x);
    return w;
}

dml_word dml_console_figure(double x, const char *unit)
{
    word w;
    if (isnan(x))
        snprintf(w.text, sizeof w.text, "-");
    else
        snprintf(w.text, sizeof w.text, "%.1f%s", x, unit);
    return w;
}

/* ---- lines and the bar ---- */

static void erase_bar(dml_console_view *v)
{
    if (v->bar_on_screen) fputs(ERASE_LINE, v->to);
    v->bar_on_screen = false;
}

static void line(dml_console_view *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(dml_console_view *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(v->to, fmt, ap);
    va_end(ap);
    fputc('\n', v->to);
}

/* "  name         value" */
#define ENTRY "  %-12s "

void dml_console_note(dml_console_view *v, const char *fmt, ...)
{
    if (v->quiet) return;
    erase_bar(v);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(v->to, fmt, ap);
    va_end(ap);
    fputc('\n', v->to);
    fflush(v->to);
}

static void step_text(const dml_console_view *v, const dml_step_record *s, char *out, size_t size)
{
    const word bubble = dml_console_figure(s->bubble_ratio * 100, "%"), eta = duration(s->eta_s);
    const bool has_bubble = !isnan(s->bubble_ratio), has_eta = !isnan(s->eta_s);
    snprintf(out, size,
             "step %" PRId64 "/%" PRId64 " | loss %s | gnorm %s | lr %.2e | %s ms | %s samples/s"
             "%s%s%s%s",
             s->step, s->total_steps, real(s->loss, 5).text, real(s->grad_norm, 4).text, s->lr,
             real(s->step_time_s * 1e3, 1).text, rate(v, s->samples_per_second).text,
             has_bubble ? " | bubble " : "", has_bubble ? bubble.text : "",
             has_eta ? " | eta " : "", has_eta ? eta.text : "");
}

/* [#######.............]  36% step 120/18865 | ... */
static void draw_bar(dml_console_view *v, const dml_step_record *s, const char *text)
{
    const double share = s->total_steps > 0 ? (double)s->step / (double)s->total_steps : 0;
    const int cells = (int)(share * GAUGE_CELLS);
    char gauge[GAUGE_CELLS + 1] = {0}, whole[640];
    for (int i = 0; i < GAUGE_CELLS; i++)
        gauge[i] = i < cells ? '#' : '.';
    snprintf(whole, sizeof whole, "[%s] %3d%% %s", gauge, (int)(share * 100), text);
    /* One column stays free: a full line would scroll on some terminals. */
    fprintf(v->to, ERASE_LINE "%.*s", (int)columns_of(v->to, v->columns) - 1, whole);
    v->bar_on_screen = true;
}

void dml_console_step(dml_console_view *v, const dml_step_record *s)
{
    if (v->quiet) return;
    const bool last = s->step == s->total_steps;
    const int64_t now_ns = dml_clock_ns();
    const bool due =
        v->bar ? now_ns - v->drawn_ns >= v->redraw_ns : s->step == 1 || s->step % v->interval == 0;
    if (!due && !last) return;
    char text[512];
    step_text(v, s, text, sizeof text);
    if (v->bar) {
        draw_bar(v, s, text);
        v->drawn_ns = now_ns;
        if (last) fputc('\n', v->to);
        v->bar_on_screen = !last;
    } else {
        line(v, "%s", text);
    }
    fflush(v->to);
}

void dml_console_eval(dml_console_view *v, const dml_eval_record *e)
{
    dml_console_note(v,
                     "eval after step %" PRId64 " | test loss %s | test accuracy %.2f%% (%s/%s) "
                     "| %s",
                     e->step, real(e->loss, 5).text, e->accuracy_ratio * 100,
                     count(v, e->correct).text, count(v, e->samples).text,
                     duration(e->eval_time_s).text);
}

/* ---- the header ---- */

/* "256 samples = 8 micro-batches x 32", or with a smaller last one "250 samples = 7 x 32 + 26". */
static void batch_line(dml_console_view *v, const dml_run_start_record *r)
{
    const int64_t last = r->global_batch_size - (r->num_microbatches - 1) * r->micro_batch_size;
    if (last == r->micro_batch_size)
        line(v, ENTRY "%" PRId64 " samples = %" PRId64 " micro-batches x %" PRId64, "batch",
             r->global_batch_size, r->num_microbatches, r->micro_batch_size);
    else
        line(v,
             ENTRY "%" PRId64 " samples = %" PRId64 " micro-batches, %" PRId64 " x %" PRId64
                   " + %" PRId64,
             "batch", r->global_batch_size, r->num_microbatches, r->num_microbatches - 1,
             r->micro_batch_size, last);
}

static void stage_lines(dml_console_view *v, const dml_stage_figures *stages, int32_t n_stages)
{
    if (n_stages == 0) return;
    line(v, "  stage  layers     workers          parameters   work      memory");
    for (int32_t i = 0; i < n_stages; i++) {
        const dml_stage_figures *s = &stages[i];
        word layers;
        snprintf(layers.text, sizeof layers.text, "%d-%d", s->first_layer, s->last_layer);
        line(v, "  %5d  %-9s  %-12s  %13s  %4.0f%%  %10s", s->stage, layers.text, s->workers,
             count(v, s->parameters).text, s->flops_share * 100,
             dml_console_bytes(s->memory_bytes).text);
    }
}

static void layout_line(dml_console_view *v, const dml_run_start_record *r,
                        const dml_plan_record *p)
{
    word layout;
    if (p->pipeline_parallel_size > 0)
        snprintf(layout.text, sizeof layout.text, "pp %" PRId64 " x dp %" PRId64,
                 p->pipeline_parallel_size, p->data_parallel_size);
    else
        snprintf(layout.text, sizeof layout.text, "%" PRId64 " stages, %" PRId64 " workers",
                 p->stages, p->world_size);
    line(v, ENTRY "%s, schedule %s, backend %s, numerics %s", "layout", layout.text, p->schedule,
         r->backend, r->numerics);
}

/* Synchronous schedules all make the same updates; of the others a person should know how they differ. */
static void updates_line(dml_console_view *v, const dml_plan_record *p)
{
    if (p->drain_steps == 0) return;
    if (p->drain_steps == 1) {
        line(v, ENTRY "a drain after each step: those of 1f1b", "updates");
        return;
    }
    line(v, ENTRY "asynchronous, not gradient-equivalent; drains after at most %" PRId64 " steps",
         "updates", p->drain_steps);
    line(v, ENTRY "by stage, updates late %s; versions of the weights %s", "", p->staleness,
         p->versions);
}

void dml_console_header(dml_console_view *v, const dml_run_start_record *r,
                        const dml_plan_record *p, const dml_stage_figures *stages, int32_t n_stages)
{
    if (v->quiet) return;
    line(v, ENTRY "%s -> %s", "run", r->run, r->output_dir);
    line(v, ENTRY "%s, %" PRId64 " layers, %s parameters", "model", r->model, r->layers,
         count(v, r->parameters).text);
    line(v, ENTRY "%s, %s training and %s test samples", "data", r->data,
         count(v, r->train_samples).text, count(v, r->test_samples).text);
    layout_line(v, r, p);
    batch_line(v, r);
    updates_line(v, p);
    line(v, ENTRY "%s steps, %.4g epochs", "length", count(v, r->total_steps).text, r->epochs);
    stage_lines(v, stages, n_stages);
    if (!isnan(p->predicted_step_time_s))
        line(v, ENTRY "%.1f ms a step, bubble %s%s%s", "planned", p->predicted_step_time_s * 1e3,
             dml_console_figure(p->predicted_bubble_ratio * 100, "%").text, p->costs ? ", by " : "",
             p->costs ? p->costs : "");
    fflush(v->to);
}

/* ---- failures ---- */

void dml_console_how_it_ended(const dml_failure_record *f, char out[DML_CONSOLE_HOW])
{
    if (f->signal > 0) {
        const char *name = sigabbrev_np((int)f->signal);
        snprintf(out, DML_CONSOLE_HOW, "was killed by signal %" PRId64 " (%s%s)", f->signal,
                 name ? "SIG" : "", name ? name : "?");
    } else if (f->exit_code >= 0) {
        snprintf(out, DML_CONSOLE_HOW, "exited with code %" PRId64, f->exit_code);
    } else {
        snprintf(out, DML_CONSOLE_HOW, "stopped answering");
    }
}

static void root_cause(dml_console_view *v, const dml_failure_record *f)
{
    char how[DML_CONSOLE_HOW];
    dml_console_how_it_ended(f, how);
    line(v, "%sFAILED: rank %" PRId64 " %s%s", v->color ? "\x1b[1;31m" : "", f->rank, how,
         v->color ? "\x1b[0m" : "");
    line(v, ENTRY "%.3f s into the run, noticed after %.3f s by %s", "time", f->t_fault_s,
         f->t_detect_s - f->t_fault_s, f->detected_by ? f->detected_by : "?");
    line(v, ENTRY "rank %" PRId64 ", pid %" PRId64 " on %s", "worker", f->rank, f->pid,
         f->host ? f->host : "?");
    line(v, ENTRY "stage %" PRId64 ", replica %" PRId64 ", step %" PRId64, "place", f->stage,
         f->replica, f->step);
    line(v, ENTRY "%s", "last done", f->last_action ? f->last_action : "unknown");
    if (!f->cause || !f->cause[0]) return;
    line(v, ENTRY "%.*s", "cause", (int)strcspn(f->cause, "\n"), f->cause);
    for (const char *at = strchr(f->cause, '\n'); at; at = strchr(at + 1, '\n'))
        line(v, ENTRY "%.*s", "", (int)strcspn(at + 1, "\n"), at + 1);
}

static void consequence(dml_console_view *v, const dml_failure_record *f)
{
    char how[DML_CONSOLE_HOW];
    dml_console_how_it_ended(f, how);
    const char *cause = f->cause ? f->cause : "";
    line(v, "  then at %.3f s rank %" PRId64 " (stage %" PRId64 ", pid %" PRId64 ") %s%s%.*s",
         f->t_fault_s, f->rank, f->stage, f->pid, how, cause[0] ? ": " : "",
         (int)strcspn(cause, "\n"), cause);
}

/* The failure that comes after `last` in order of (time, place in the list); -1 at the end. */
static int32_t next_in_time(const dml_failure_record *f, int32_t n, int32_t last)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
        const bool later = last < 0 || f[i].t_fault_s > f[last].t_fault_s ||
                           (f[i].t_fault_s == f[last].t_fault_s && i > last);
        if (later && (best < 0 || f[i].t_fault_s < f[best].t_fault_s)) best = i;
    }
    return best;
}

void dml_console_failures(dml_console_view *v, const dml_failure_record *failures, int32_t n)
{
    erase_bar(v);
    int32_t i = next_in_time(failures, n, -1);
    if (i >= 0) root_cause(v, &failures[i]);
    while (i >= 0 && (i = next_in_time(failures, n, i)) >= 0)
        consequence(v, &failures[i]);
    fflush(v->to);
}

/* ---- the summary ---- */

static void worker_lines(dml_console_view *v, const dml_worker_figures *workers, int32_t n_workers)
{
    if (n_workers == 0) return;
    line(v, "                        planned           predicted                    measured");
    line(v,
         "  worker  stage    step ms  bubble    step ms  bubble  stash    step ms  bubble  stash   "
         "stash memory   exposed ms  predicted");
    for (int32_t i = 0; i < n_workers; i++) {
        const dml_worker_figures *w = &workers[i];
        line(v, "  %6d  %-6s  %8s  %6s   %8s  %6s  %5d   %8s  %6s  %5d   %12s   %10s  %9s",
             w->worker, w->place, dml_console_figure(w->planned_step_s * 1e3, "").text,
             dml_console_figure(w->planned_bubble_ratio * 100, "%").text,
             dml_console_figure(w->predicted_step_s * 1e3, "").text,
             dml_console_figure(w->predicted_bubble_ratio * 100, "%").text, w->predicted_stash,
             dml_console_figure(w->measured_step_s * 1e3, "").text,
             dml_console_figure(w->measured_bubble_ratio * 100, "%").text, w->measured_stash,
             dml_console_bytes(w->stash_bytes).text,
             dml_console_figure(w->measured_exposed_s * 1e3, "").text,
             dml_console_figure(w->predicted_exposed_s * 1e3, "").text);
    }
}

void dml_console_summary(dml_console_view *v, const dml_run_end_record *e,
                         const dml_worker_figures *workers, int32_t n_workers)
{
    if (v->quiet) return;
    erase_bar(v);
    line(v, ENTRY "%s steps, %s samples in %s, %s samples/s", e->status, count(v, e->steps).text,
         count(v, e->samples).text, duration(e->train_time_s).text,
         rate(v, e->samples_per_second).text);
    line(v, ENTRY "median %s, p95 %s, planned %s, predicted %s", "step time",
         dml_console_figure(e->step_time_median_s * 1e3, " ms").text,
         dml_console_figure(e->step_time_p95_s * 1e3, " ms").text,
         dml_console_figure(e->planned_step_time_s * 1e3, " ms").text,
         dml_console_figure(e->predicted_step_time_s * 1e3, " ms").text);
    line(v, ENTRY "%s, predicted %s", "bubble", dml_console_figure(e->bubble_ratio * 100, "%").text,
         dml_console_figure(e->predicted_bubble_ratio * 100, "%").text);
    worker_lines(v, workers, n_workers);
    line(v, ENTRY "%s", "last loss", real(e->loss, 5).text);
    if (!isnan(e->test_accuracy_ratio))
        line(v, ENTRY "accuracy %.2f%%, loss %s", "test", e->test_accuracy_ratio * 100,
             real(e->test_loss, 5).text);
    if (e->memory_peak_bytes > 0)
        line(v, ENTRY "%s", "memory peak", dml_console_bytes(e->memory_peak_bytes).text);
    if (e->weights_hash) line(v, ENTRY "%s", "weights", e->weights_hash);
    if (e->failures > 0 && e->recoveries == 0) line(v, ENTRY "%" PRId64, "failures", e->failures);
    fflush(v->to);
}
