/* engine/keeper.c - asks, pins, starts, unpins. */
#include "engine/keeper.h"

#include <inttypes.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct dml_keeper {
    dml_keeper_config c;
    const dml_spec *spec;
    dml_checkpoint_identity identity;
    dml_saver *saver; /* NULL: the spec saves nothing */
    dml_arena arena;  /* owns `folder` */
    const char *folder;
    /* From here on it is noted in the logbook. */
    int64_t due;   /* step of which one is to be saved; INT64_MAX: none */
    int64_t saved; /* step of the newest that is published; -1: none */
    bool wanted;   /* one is to be saved as soon as there is a snapshot */
    bool stopping, ending;
    int64_t newest;    /* step of which one is saved, or is about to be; -1: none */
    int64_t stop_step; /* of the snapshot that stopping waited for; -1: it still does */
    int32_t now_bank;  /* snapshot that the saver writes, pinned; -1: none */
    uint64_t now_stamp;
    int32_t next_bank; /* the one that waits for it, pinned; -1: none */
    uint64_t next_stamp;
};

static void say(const dml_keeper *k, bool failed, const char *text)
{
    if (k->c.note) k->c.note(k->c.context, failed, text);
}

/* ---- what the run begins with ---- */

static dml_err resume(dml_keeper *k, int64_t *step)
{
    const char *path, *told;
    char text[1024];
    DML_TRY(
        dml_checkpoint_resume(k->spec, &k->identity, k->c.bank[0], &k->arena, step, &path, &told));
    if (path) {
        snprintf(text, sizeof text, "resumed from %s: %" PRId64 " steps%s%s", path, *step,
                 *told ? "; " : "", told);
        say(k, false, text);
        if (strncmp(path, k->folder, strlen(k->folder)) == 0) k->newest = *step;
    } else if (*told) {
        say(k, true, told);
    }
    return DML_ERR_OK;
}

static int64_t due_after(const dml_keeper *k, int64_t step)
{
    const int64_t every = k->spec->checkpoint.interval_steps;
    return every > 0 ? (step / every + 1) * every : INT64_MAX;
}

static dml_err open_all(dml_keeper *k, int64_t *step)
{
    const dml_spec *s = k->spec;
    const bool resumes = strcmp(s->checkpoint.resume, "never") != 0;
    k->folder = dml_checkpoint_where(s, &k->arena);
    if (!resumes && !dml_checkpoint_wanted(s)) return DML_ERR_OK;
    DML_TRY(dml_checkpoint_identify(s, &k->identity));
    if (!k->c.again) DML_TRY(resume(k, step));
    k->due = due_after(k, *step);
    return dml_checkpoint_wanted(s) ? dml_saver_open(s, &k->identity, k->folder, &k->saver)
                                    : DML_ERR_OK;
}

dml_err dml_keeper_open(const dml_keeper_config *config, dml_keeper **out, int64_t *step)
{
    dml_keeper *k = calloc(1, sizeof *k);
    if (!k) DML_FAIL(DML_ERR_NOMEM, "a keeper of checkpoints");
    *k = (dml_keeper){.c = *config,
                      .spec = config->plan->spec,
                      .due = INT64_MAX,
                      .saved = -1,
                      .stop_step = -1,
                      .newest = -1,
                      .now_bank = -1,
                      .next_bank = -1};
    *step = 0;
    const dml_err err = open_all(k, step);
    if (err == DML_ERR_OK)
        *out = k;
    else
        dml_keeper_close(k);
    return err;
}

void dml_keeper_close(dml_keeper *k)
{
    if (!k) return;
    dml_saver_close(k->saver);
    dml_arena_free(&k->arena);
    free(k);
}

bool dml_keeper_restore(dml_keeper *k, dml_depot *bank, uint32_t generation, int64_t *step)
{
    const char *path, *told;
    if (!k->saver) return false;
    const dml_err err = dml_checkpoint_newest(k->folder, k->spec, &k->identity, bank, generation,
                                              &k->arena, step, &path, &told);
    if (err != DML_ERR_OK)
        say(k, true, dml_err_trail());
    else if (*told)
        say(k, true, told);
    return err == DML_ERR_OK && path;
}

/* ---- saving ---- */

static void start(dml_keeper *k, int32_t bank, uint64_t stamp)
{
    char *text = calloc(1, 1 << 20);
    if (text && k->c.plan_fd >= 0) (void)!pread(k->c.plan_fd, text, (1 << 20) - 1, 0);
    dml_saver_start(k->saver, bank, k->c.bank[bank], stamp, text ? text : "");
    free(text);
    k->now_bank = bank;
    k->now_stamp = stamp;
}

static void ask(dml_recovery *r)
{
    if (!dml_recovery_is_busy(r)) (void)dml_recovery_snapshot(r);
}

void dml_keeper_step(dml_keeper *k, dml_recovery *r, int64_t step)
{
    if (!k->saver) return;
    const bool stops = k->stopping && k->stop_step < 0;
    const bool due = (k->wanted || step + 1 >= k->due) && !dml_saver_is_busy(k->saver);
    if (stops || due) ask(r);
}

void dml_keeper_snapshot(dml_keeper *k, dml_recovery *r, const dml_recovery_event *e)
{
    uint64_t stamp;
    if (!k->saver || !dml_depot_complete(k->c.bank[e->bank], &stamp)) return;
    const bool stops = k->stopping && k->stop_step < 0;
    const bool due = (k->wanted || e->step >= k->due) && !dml_saver_is_busy(k->saver);
    if (!stops && !due && !k->ending) return;
    dml_recovery_pin(r, e->bank, true);
    k->newest = e->step;
    k->wanted = false;
    k->due = due_after(k, e->step);
    if (dml_saver_is_busy(k->saver)) {
        k->next_bank = e->bank;
        k->next_stamp = stamp;
    } else {
        start(k, e->bank, stamp);
    }
    if (!stops) return;
    k->stop_step = e->step;
    atomic_store(&k->c.control->stop, 1);
}

void dml_keeper_no_snapshot(dml_keeper *k)
{
    if (k->stopping && k->stop_step < 0) atomic_store(&k->c.control->stop, 1);
}

bool dml_keeper_wants_last(dml_keeper *k, int64_t step)
{
    if (!k->saver || k->stopping || step == k->newest) return false;
    k->ending = true;
    return true;
}

int dml_keeper_fd(const dml_keeper *k)
{
    return k->saver ? dml_saver_fd(k->saver) : -1;
}

static void tell(dml_keeper *k, const dml_saved *s)
{
    char text[2304];
    if (s->err == DML_ERR_OK) {
        k->saved = s->step;
        snprintf(text, sizeof text, "saved %s: %.1f MB in %.2f s", s->text, (double)s->bytes * 1e-6,
                 (double)s->wall_ns * 1e-9);
    } else {
        snprintf(text, sizeof text,
                 "the checkpoint of step %" PRId64 " is not saved, training goes on: %s", s->step,
                 s->text);
    }
    say(k, s->err != DML_ERR_OK, text);
}

void dml_keeper_take(dml_keeper *k, dml_recovery *r)
{
    dml_saved s;
    if (!k->saver || !dml_saver_take(k->saver, &s)) return;
    const int32_t next = k->next_bank;
    if (r && s.bank != next) dml_recovery_pin(r, s.bank, false);
    tell(k, &s);
    k->now_bank = k->next_bank = -1;
    if (next >= 0) start(k, next, k->next_stamp);
}

bool dml_keeper_want(dml_keeper *k, dml_recovery *r)
{
    if (!k->saver) return false;
    k->wanted = true;
    if (!dml_saver_is_busy(k->saver)) ask(r); /* busy: after the next step */
    return true;
}

/* ---- another agent ---- */

dml_logbook_part dml_keeper_part(dml_keeper *k)
{
    return (dml_logbook_part){&k->due, (int64_t)(sizeof *k - offsetof(struct dml_keeper, due))};
}

void dml_keeper_again(dml_keeper *k)
{
    if (k->saver && k->now_bank >= 0) start(k, k->now_bank, k->now_stamp);
}

/* ---- the end ---- */

bool dml_keeper_stop(dml_keeper *k, dml_recovery *r)
{
    if (!k->saver) {
        atomic_store(&k->c.control->stop, 1);
        return false;
    }
    k->stopping = true;
    if (k->stop_step < 0) ask(r); /* busy: after the next step */
    return true;
}

void dml_keeper_finish(dml_keeper *k)
{
    while (k->saver && dml_saver_is_busy(k->saver)) {
        struct pollfd on = {dml_saver_fd(k->saver), POLLIN, 0};
        (void)!poll(&on, 1, -1);
        dml_keeper_take(k, NULL);
    }
}

bool dml_keeper_is_saved(const dml_keeper *k)
{
    return k->stop_step >= 0 && k->saved >= k->stop_step;
}
