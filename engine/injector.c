/* engine/injector.c - who is meant, and when it is time. */
#include "engine/injector.h"

#include "engine/base/rng.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* ---- draws ------------------------------------------------------------------------------------------- */

static void draw(dml_injector *in, uint32_t word[4])
{
    const uint64_t seed = in->c.plan->spec->failures.random.seed;
    dml_rng_block(dml_rng_key(seed, DML_RNG_FAULTS, 0), 0, in->draws++, word);
}

static uint64_t all_ranks(const dml_plan *plan)
{
    return plan->workers >= 64 ? UINT64_MAX : (UINT64_C(1) << plan->workers) - 1;
}

/* Set bit number word mod n of the n that are set; -1: none is. */
static int32_t pick(uint64_t bits, uint32_t word)
{
    const int32_t n = __builtin_popcountll(bits);
    if (n == 0) return -1;
    for (uint32_t k = word % (uint32_t)n; k > 0; k--)
        bits &= bits - 1;
    return __builtin_ctzll(bits);
}

/* The next of a Poisson process: -ln(1 - u) mean. */
static int64_t pause_ns(int64_t mean_ns, uint32_t word)
{
    return (int64_t)(-log1p(-(double)dml_rng_unit(word)) * (double)mean_ns) + 1;
}

/* ---- whom -------------------------------------------------------------------------------------------- */

static dml_err refuse(const dml_fault *f, const char *what, int32_t got, int32_t n)
{
    char text[DML_FAULT_TEXT_BYTES];
    dml_fault_print(f, text);
    DML_FAIL(DML_ERR_SPEC, "fault %s: %s %d; there are %d, from 0", text, what, got, n);
}

static dml_err check_tensor(const dml_fault *f, const dml_plan *plan)
{
    char text[DML_FAULT_TEXT_BYTES];
    for (int32_t p = 0; p < plan->model.n_params; p++)
        if (strcmp(plan->model.param[p].name, f->tensor) == 0) {
            int32_t stage = 0;
            while (plan->stage_begin[stage + 1] <= plan->model.param[p].layer)
                stage++;
            if (dml_plan_holds(plan, f->rank, stage)) return DML_ERR_OK;
            dml_fault_print(f, text);
            DML_FAIL(DML_ERR_SPEC,
                     "fault %s: that parameter is of stage %d, which rank %d does not run", text,
                     stage, f->rank);
        }
    dml_fault_print(f, text);
    DML_FAIL(DML_ERR_SPEC, "fault %s: the model has no such parameter; the first is %s", text,
             plan->model.n_params > 0 ? plan->model.param[0].name : "missing, too");
}

/* Gives the fault its rank. */
static dml_err resolve(dml_injector *in, dml_fault *f, const dml_plan *plan, uint64_t lost)
{
    if (f->stage >= 0) {
        int32_t holder[DML_HOST_WORKERS];
        if (f->stage >= plan->stages) return refuse(f, "stage", f->stage, plan->stages);
        const int32_t n = dml_plan_holders(plan, f->stage, holder),
                      k = f->replica < 0 ? 0 : f->replica;
        if (k >= n) return refuse(f, "replica", k, n);
        f->rank = holder[k];
    } else if (f->rank < 0) {
        uint32_t word[4];
        draw(in, word);
        f->rank = pick(all_ranks(plan) & ~lost & ~f->peers, word[0]);
        if (f->rank < 0) DML_FAIL(DML_ERR_SPEC, "no worker is left that a fault could strike");
    }
    if (f->rank >= in->c.plan->workers) return refuse(f, "rank", f->rank, in->c.plan->workers);
    for (int32_t r = in->c.plan->workers; r < DML_HOST_WORKERS; r++)
        if (f->peers >> r & 1) return refuse(f, "peer", r, in->c.plan->workers);
    return f->tensor[0] ? check_tensor(f, plan) : DML_ERR_OK;
}

/* ---- striking ---------------------------------------------------------------------------------------- */

/* What a signal from outside does; 0: the worker does it to itself. */
static int signal_of(const dml_injector *in, const dml_fault *f)
{
    if (!in->c.signal) return 0;
    if (f->type == DML_FAULT_KILL) return SIGKILL;
    if (f->type == DML_FAULT_SEGFAULT) return SIGSEGV;
    return f->type == DML_FAULT_HANG ? SIGSTOP : 0;
}

/* `number` to the process of the fault's rank; the caller says what it was, as the worker itself would have. */
static void send(dml_injector *in, const dml_fault *f, int number, int64_t now_ns)
{
    dml_report_fault r = {.type = f->type,
                          .step = atomic_load(&in->c.control->worker[f->rank].step),
                          .at_ns = now_ns};
    char text[DML_FAULT_TEXT_BYTES];
    dml_fault_print(f, text);
    snprintf(r.text, sizeof r.text, "%.*s", (int)sizeof r.text - 1, text);
    if (in->c.note) in->c.note(in->c.context, f->rank, &r);
    if (in->c.signal(in->c.context, f->rank, number)) dml_injector_take(in, f->rank, &r);
}

/* Now, whatever the worker is doing, if that can be. */
static dml_err strike_now(dml_injector *in, const dml_fault *f, int64_t now_ns)
{
    const int number = signal_of(in, f);
    if (number == 0) return dml_board_add(in->board, f);
    send(in, f, number, now_ns);
    return DML_ERR_OK;
}

dml_err dml_injector_open(const dml_injector_config *config, dml_injector *out)
{
    const dml_spec *spec = config->plan->spec;
    *out = (dml_injector){.c = *config, .board = &config->control->faults};
    for (int32_t i = 0; i < spec->failures.n_faults; i++) {
        dml_fault f = spec->failures.fault[i];
        DML_TRY(resolve(out, &f, config->plan, 0));
        DML_TRY(dml_board_add(out->board, &f));
    }
    return DML_ERR_OK;
}

static void plan_random(dml_injector *in, int64_t now_ns)
{
    const dml_fault_random *random = &in->c.plan->spec->failures.random;
    uint32_t word[4];
    in->next_random_ns = INT64_MAX;
    if (random->mtbf_ns == 0 || (random->max > 0 && in->drawn >= random->max)) return;
    draw(in, word);
    in->next_random_ns = now_ns + pause_ns(random->mtbf_ns, word[0]);
}

void dml_injector_begin(dml_injector *in, int64_t now_ns)
{
    if (in->begin_ns != 0) return;
    in->begin_ns = now_ns;
    plan_random(in, now_ns);
}

dml_err dml_injector_add(dml_injector *in, const dml_fault *fault, const dml_plan *plan,
                         uint64_t lost, int64_t now_ns)
{
    dml_fault f = *fault;
    DML_TRY(resolve(in, &f, plan, lost));
    if (lost >> f.rank & 1)
        DML_FAIL(DML_ERR_SPEC, "rank %d is not there: it was lost before", f.rank);
    if (f.step == 0 && f.time_ns < 0) return strike_now(in, &f, now_ns);
    return dml_board_add(in->board, &f);
}

void dml_injector_take(dml_injector *in, int32_t rank, const dml_report_fault *fault)
{
    dml_fault f;
    if (fault->type != DML_FAULT_HANG || dml_fault_parse(fault->text, &f) != DML_ERR_OK) return;
    if (f.duration_ns > 0) in->resume_ns[rank] = fault->at_ns + f.duration_ns;
}

/* ---- time -------------------------------------------------------------------------------------------- */

static void strike_random(dml_injector *in, int64_t now_ns, uint64_t lost)
{
    const uint32_t types = in->c.plan->spec->failures.random.types;
    dml_fault f = dml_fault_none();
    uint32_t word[4];
    draw(in, word);
    f.type = pick(types ? types : 1u << DML_FAULT_KILL, word[0]);
    f.rank = pick(all_ranks(in->c.plan) & ~lost, word[1]);
    if (f.rank >= 0 && strike_now(in, &f, now_ns) == DML_ERR_OK) in->drawn++;
    plan_random(in, now_ns);
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Those of the board that sleep; returns when the next wakes. */
static int64_t wake(dml_injector *in, int64_t now_ns)
{
    int64_t next_ns = INT64_MAX;
    const uint32_t n = atomic_load(&in->board->n);
    for (uint32_t i = 0; i < n; i++) {
        const dml_fault *f = &in->board->slot[i].fault;
        if (atomic_load(&in->board->slot[i].state) != DML_FAULT_SLEEPS) continue;
        const int64_t due_ns = in->begin_ns + f->time_ns;
        const int number = signal_of(in, f);
        if (due_ns > now_ns)
            next_ns = sooner(next_ns, due_ns);
        else if (number == 0)
            dml_board_wake(in->board, i);
        else if (dml_board_claim(in->board, i))
            send(in, f, number, now_ns);
    }
    return next_ns;
}

static int64_t resume(dml_injector *in, int64_t now_ns)
{
    int64_t next_ns = INT64_MAX;
    for (int32_t r = 0; r < DML_HOST_WORKERS; r++) {
        if (in->resume_ns[r] == 0) continue;
        if (in->resume_ns[r] > now_ns) {
            next_ns = sooner(next_ns, in->resume_ns[r]);
            continue;
        }
        in->resume_ns[r] = 0;
        if (in->c.signal) in->c.signal(in->c.context, r, SIGCONT);
    }
    return next_ns;
}

int64_t dml_injector_tick(dml_injector *in, int64_t now_ns, uint64_t lost)
{
    int64_t next_ns = resume(in, now_ns);
    if (in->begin_ns == 0) return next_ns;
    if (now_ns >= in->next_random_ns) strike_random(in, now_ns, lost);
    next_ns = sooner(next_ns, in->next_random_ns);
    return sooner(next_ns, wake(in, now_ns));
}

int32_t dml_injector_left(const dml_injector *in, dml_str *out)
{
    int32_t left = 0;
    const uint32_t n = atomic_load(&in->board->n);
    for (uint32_t i = 0; i < n; i++) {
        char text[DML_FAULT_TEXT_BYTES];
        if (atomic_load(&in->board->slot[i].state) == DML_FAULT_STRUCK) continue;
        dml_fault_print(&in->board->slot[i].fault, text);
        dml_str_printf(out, "%s%s", left++ ? "; " : "", text);
    }
    return left;
}
