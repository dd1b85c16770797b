/* engine/saver.c - one thread, one job at a time, an eventfd when it is done. */
#include "engine/saver.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef enum saver_state { IDLE, ASKED, DONE } saver_state;

struct dml_saver {
    const dml_spec *spec;
    const dml_checkpoint_identity *identity;
    dml_checkpoint_folder folder;
    pthread_t thread;
    pthread_mutex_t mu; /* of what follows, but for what the job borrows while it runs */
    pthread_cond_t changed;
    saver_state state;
    bool ending;
    bool busy; /* the caller's view */
    dml_checkpoint_job job;
    char *plan; /* owned */
    dml_saved saved;
    int event;
};

static void run(dml_saver *s)
{
    dml_saved *r = &s->saved;
    const int64_t begin_ns = dml_clock_ns();
    r->step = s->job.bank->run->step;
    r->err = dml_checkpoint_write(&s->folder, &s->job, s->spec->checkpoint.keep, &r->bytes);
    r->wall_ns = dml_clock_ns() - begin_ns;
    if (r->err != DML_ERR_OK)
        snprintf(r->text, sizeof r->text, "%s", dml_err_trail());
    else
        snprintf(r->text, sizeof r->text, "%.2000s/step-%08lld", s->folder.path,
                 (long long)r->step);
}

static void *saver_main(void *context)
{
    dml_saver *s = context;
    pthread_mutex_lock(&s->mu);
    for (;;) {
        while (s->state != ASKED && !s->ending)
            pthread_cond_wait(&s->changed, &s->mu);
        if (s->state != ASKED) break;
        pthread_mutex_unlock(&s->mu);
        run(s);
        pthread_mutex_lock(&s->mu);
        s->state = DONE;
        (void)!write(s->event, &(uint64_t){1}, sizeof(uint64_t));
    }
    pthread_mutex_unlock(&s->mu);
    return NULL;
}

/* Signals are the main thread's; a file beyond ulimit -f is an error here, not a signal. */
static int start_thread(dml_saver *s)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&s->thread, NULL, saver_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

dml_err dml_saver_open(const dml_spec *spec, const dml_checkpoint_identity *identity,
                       const char *folder, dml_saver **out)
{
    dml_saver *s = calloc(1, sizeof *s);
    dml_err err;
    if (!s) DML_FAIL(DML_ERR_NOMEM, "a saver");
    *s = (dml_saver){.spec = spec,
                     .identity = identity,
                     .mu = PTHREAD_MUTEX_INITIALIZER,
                     .changed = PTHREAD_COND_INITIALIZER};
    err = dml_checkpoint_open(folder, &s->folder);
    if (err != DML_ERR_OK) goto fail_folder;
    s->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->event < 0) {
        err = dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__, "eventfd: %s", strerror(errno));
        goto fail_event;
    }
    const int failed = start_thread(s);
    if (failed) {
        err = dml_err_set(DML_ERR_UNAVAILABLE, __FILE__, __LINE__,
                          "no thread to write checkpoints: %s", strerror(failed));
        goto fail_thread;
    }
    *out = s;
    return DML_ERR_OK;
fail_thread:
    close(s->event);
fail_event:
    dml_checkpoint_close(&s->folder);
fail_folder:
    free(s);
    return err;
}

void dml_saver_close(dml_saver *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->mu);
    s->ending = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mu);
    pthread_join(s->thread, NULL);
    close(s->event);
    dml_checkpoint_close(&s->folder);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mu);
    free(s->plan);
    free(s);
}

bool dml_saver_is_busy(const dml_saver *s)
{
    return s->busy;
}

void dml_saver_start(dml_saver *s, int32_t bank, const dml_depot *depot, uint64_t stamp,
                     const char *plan)
{
    DML_ASSERT(!s->busy);
    pthread_mutex_lock(&s->mu);
    free(s->plan);
    s->plan = strdup(plan);
    s->busy = true;
    s->saved = (dml_saved){.bank = bank};
    s->job = (dml_checkpoint_job){.spec = s->spec,
                                  .identity = s->identity,
                                  .bank = depot,
                                  .stamp = stamp,
                                  .plan = s->plan ? s->plan : ""};
    s->state = ASKED;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

int dml_saver_fd(const dml_saver *s)
{
    return s->event;
}

bool dml_saver_take(dml_saver *s, dml_saved *out)
{
    uint64_t seen;
    pthread_mutex_lock(&s->mu);
    const bool done = s->state == DONE;
    if (done) {
        (void)!read(s->event, &seen, sizeof seen);
        *out = s->saved;
        s->state = IDLE;
        s->busy = false;
    }
    pthread_mutex_unlock(&s->mu);
    return done;
}
