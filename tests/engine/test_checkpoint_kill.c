/* tests/engine/test_checkpoint_kill.c - a process that saves without end is killed at random instants: whatever moment it
 * is, the newest checkpoint loads, and it is no older than the last one that the process said was published.
 *
 *   test_engine_checkpoint_kill [kills [seed]]      60 kills by default
 */
#include "tests/support/test.h"

#include "tests/support/depot_by_text.h"

#include "engine/base/clock.h"
#include "engine/base/rng.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static char folder[] = "/tmp/dml-checkpoint-kill-XXXXXX";
static int kills = 60;
static uint64_t seed = 1;

/* Saves steps from `step` on, and tells each that is published through `to`. */
static void save_for_ever(banked *b, int64_t step, int to)
{
    dml_checkpoint_folder f;
    int64_t bytes;
    if (dml_checkpoint_open(folder, &f) != DML_ERR_OK) _exit(2);
    for (;; step++) {
        banked_fill(b, step);
        const dml_checkpoint_job job = banked_job(b);
        if (dml_checkpoint_write(&f, &job, 2, &bytes) != DML_ERR_OK) _exit(3);
        if (write(to, &step, sizeof step) != sizeof step) _exit(4);
    }
}

/* Returns the last step that it said was published; -1: none. */
static int64_t save_and_kill(banked *b, int64_t step, int64_t after_ns)
{
    int pipe_fd[2], status;
    int64_t told, last = -1;
    DML_CHECK(pipe(pipe_fd) == 0);
    const pid_t pid = fork();
    DML_CHECK(pid >= 0);
    if (pid == 0) save_for_ever(b, step, pipe_fd[1]);
    close(pipe_fd[1]);
    nanosleep(&(struct timespec){.tv_nsec = after_ns}, NULL);
    kill(pid, SIGKILL);
    DML_CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    while (read(pipe_fd[0], &told, sizeof told) == sizeof told)
        last = told;
    close(pipe_fd[0]);
    return last;
}

static void the_newest_loads_whenever_the_saver_is_killed(void **state)
{
    (void)state;
    banked b;
    int64_t step = 1, published = 0;
    int32_t none = 0;
    banked_open(&b, NULL, 0);
    for (int i = 0; i < kills; i++) {
        /* a save takes a few ms; so short that some are killed in their first one */
        uint32_t random[4];
        dml_rng_block(dml_rng_key(seed, DML_RNG_DATA, (uint64_t)i), 0, 0, random);
        const int64_t last = save_and_kill(&b, step, random[0] % 20000000);
        dml_arena arena = {0};
        const char *path, *told;
        int64_t found = 0;
        DML_CHECK_OK(dml_checkpoint_newest(folder, &b.spec, &b.identity, &b.bank, 0, &arena, &found,
                                           &path, &told));
        if (*told) fail_msg("kill %d of seed %llu: %s", i, (unsigned long long)seed, told);
        if (last > published) published = last;
        if (found < published || (path && !banked_is(&b, found)))
            fail_msg("kill %d of seed %llu: step %lld, %lld was published", i,
                     (unsigned long long)seed, (long long)found, (long long)published);
        none += last < 0;
        step = found + 1;
        dml_arena_free(&arena);
    }
    printf(
        "%d kills, seed %llu: %lld checkpoints, 0 torn; %d kills before the first was published\n",
        kills, (unsigned long long)seed, (long long)published, none);
    DML_CHECK(published > 0);
    banked_close(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_loads_whenever_the_saver_is_killed),
    };
    if (argc > 1) kills = atoi(argv[1]);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    if (!mkdtemp(folder)) return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_tree(folder);
    return failed;
}
