/* tests/comm/nccl/test_sweep.c - every call the transport makes of a library fails once, and never ends once.
 *
 * Calls are counted by where in our code they stand.  Whatever fails, the rank it happens to says which call it
 * was and on which device, the other's waits end, and both close; the next site is tried until there is none.
 */
#include "tests/support/test.h"

#include "tests/comm/nccl/gpu_world.h"

#include "engine/base/clock.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/emulation/emulation.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const dml_transport_api *const api = &dml_nccl_transport;

/* What a run without a failure does, and one that loses a peer. */
typedef enum ending { GOOD_END, BAD_END } ending;

typedef struct trial {
    ending ending;
    bool hangs;
    int64_t site;
} trial;

enum { SITE_PASSED, SITE_ABSENT, SITE_FAILED, SITES = 100 };

static char (
    *names)[64]; /* [SITES] the call at each site, shared with the processes that try them */

static dml_err use_all(gpu_rank *r, dml_group *g, int32_t *word, int32_t n)
{
    const int32_t other = 1 - r->rank;
    DML_TRY(api->all_reduce(g, r->send, word, n / 2, DML_I32, DML_SUM));
    DML_TRY(api->reduce_scatter(g, r->send, word, n / 2, DML_I32, DML_SUM));
    DML_TRY(api->all_gather(g, r->send, word, &word[r->rank * n / 2], n * 2));
    DML_TRY(api->send(r->transport, r->send, other, word, n * 4, 0));
    return api->recv(r->transport, r->recv, other, word, n * 4, 0);
}

static dml_err exchange(gpu_rank *r)
{
    enum { N = 64, SHORT_MS = 50 };
    static const int32_t both[] = {0, 1};
    const trial *t = r->arg;
    int32_t *word;
    dml_group *g;
    DML_TRY(gpu_meet_ring(r));
    DML_TRY(api->group_open(r->transport, both, 2, 0, &g));
    DML_TRY(api->alloc(r->transport, N * 4, (void **)&word));
    const dml_err err = use_all(r, g, word, N);
    api->group_close(g);
    DML_TRY(err);
    if (t->ending == BAD_END)
        DML_TRY(api->recv(r->transport, r->recv, 1 - r->rank, word, N * 4, 0)); /* nobody sends */
    const int64_t ms = t->hangs || t->ending == BAD_END ? SHORT_MS : GPU_PATIENCE_MS;
    DML_TRY(gpu_wait(r->send, ms));
    return gpu_wait(r->recv, ms);
}

static bool is_one_of(const char *call, const char *list)
{
    const char *at = strstr(list, call);
    return at && at[strlen(call)] == ' ';
}

/* Giving back what is no longer needed, and asking for hints: an error there changes nothing.  (A revoke
 * or a finalize that fails is followed by an abort.) */
static const char tidying[] =
    "cudaFree cudaFreeHost cudaStreamDestroy ncclCommRevoke cudaGetLastError "
    "cudaDeviceGetPCIBusId cudaSetDevice ncclCommFinalize "
    "ncclCommGetAsyncError ";

/* Somebody said which call, on which device; of what is called within another, that one. */
static bool is_told(const gpu_rank ranks[2], const char *call)
{
    const bool polled =
        is_one_of(call, "cudaGetDeviceCount ncclCommGetAsyncError ncclGroupStart ncclGroupEnd ");
    for (int r = 0; r < 2; r++)
        for (int k = 0; k < 2; k++) {
            const char *trail = k ? ranks[r].closing : ranks[r].trail;
            if ((polled || strstr(trail, call)) &&
                (strstr(trail, "device") || strstr(call, "Version")))
                return true;
        }
    return false;
}

/* In a process of its own, since what fails may leave the emulated device unusable. */
static int run_trial(const trial *t)
{
    gpu_rank ranks[2];
    dml_abort stop = {0};
    dml_emu_fail(-1, t->site, t->hangs);
    gpu_run(
        &(gpu_world){
            .world = 2, .abort = &stop, .stop = &stop, .timeout_ms = t->hangs ? 100 : 0, .arg = t},
        exchange, ranks);
    const char *call = dml_emu_failed();
    if (call[0] == '\0') return SITE_ABSENT;
    snprintf(names[t->site], sizeof *names, "%s", call);
    const bool failed = ranks[0].err != DML_ERR_OK || ranks[1].err != DML_ERR_OK ||
                        ranks[0].closed != DML_ERR_OK || ranks[1].closed != DML_ERR_OK;
    if (!failed && (t->hangs || is_one_of(call, tidying))) return SITE_PASSED;
    if (failed && (t->hangs || t->ending == BAD_END || is_told(ranks, call))) return SITE_PASSED;
    fprintf(stderr, "site %lld, %s: rank 0 says '%s', rank 1 says '%s'\n", (long long)t->site, call,
            ranks[0].trail, ranks[1].trail);
    return SITE_FAILED;
}

static int in_process(const trial *t)
{
    const pid_t pid = fork();
    DML_CHECK(pid >= 0);
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stdout)) _exit(SITE_FAILED);
        _exit(run_trial(t));
    }
    int status;
    DML_CHECK_EQ(pid, waitpid(pid, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : SITE_FAILED;
}

/* Tries sites from `first` on until there is no such site.  Returns how many there are. */
static int64_t sweep(ending end, int64_t first)
{
    for (int64_t site = first; site < SITES; site++) {
        const int result = in_process(&(trial){end, false, site});
        if (result == SITE_FAILED) fail_msg("site %lld did not pass", (long long)site);
        if (result == SITE_ABSENT) return site - 1;
    }
    fail_msg("there are more than %d sites", SITES);
    return 0;
}

static int64_t sites; /* of a run without a failure */

static void each_call_that_fails_is_told_and_all_close(void **state)
{
    (void)state;
    sites = sweep(GOOD_END, 1);
    printf("%lld call sites\n", (long long)sites);
    DML_CHECK(sites > 30);
}

/* Up to there it is the same run. */
static void each_call_that_fails_after_a_failure_is_survived(void **state)
{
    (void)state;
    DML_CHECK(sweep(BAD_END, sites - 10) > sites);
}

/* What a GPU never does is the device's to find (tests/kernels/cuda/test_device_cuda.c). */
static void no_call_of_nccl_that_never_ends_holds_a_rank(void **state)
{
    (void)state;
    int64_t tried = 0;
    for (int64_t site = 1; site <= sites; site++) {
        if (strncmp(names[site], "nccl", 4) != 0) continue;
        DML_CHECK(in_process(&(trial){GOOD_END, true, site}) != SITE_FAILED);
        tried++;
    }
    DML_CHECK(tried > 10);
}

int main(void)
{
    names = mmap(NULL, SITES * sizeof *names, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                 -1, 0);
    if (names == MAP_FAILED) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_call_that_fails_is_told_and_all_close),
        cmocka_unit_test(each_call_that_fails_after_a_failure_is_survived),
        cmocka_unit_test(no_call_of_nccl_that_never_ends_holds_a_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
