/* What really crosses: bytes that each worker sends to each other one, counted at the transport. */
#include "tests/support/test.h"

#include "comm/transport.h"
#include "tests/support/layouts.h"

#include <pthread.h>
#include <stdatomic.h>

#define U_NET DML_SOURCE_DIR "/tests/specs/u-net.yaml"

enum { WORKERS = 4, OPEN = 64, STEP_SAMPLES = 24 };

static struct {
    const dml_transport *transport;
    int32_t rank;
} opened[OPEN];
static int32_t n_opened;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int64_t sent[WORKERS][WORKERS]; /* [from][to] */
static const dml_transport_api *real;

static dml_err noting_open(const dml_transport_config *config, dml_device *device,
                           dml_transport **out)
{
    DML_TRY(real->open(config, device, out));
    pthread_mutex_lock(&lock);
    DML_CHECK(n_opened < OPEN);
    opened[n_opened].transport = *out;
    opened[n_opened++].rank = config->rank;
    pthread_mutex_unlock(&lock);
    return DML_ERR_OK;
}

static int32_t rank_of(const dml_transport *t)
{
    int32_t rank = -1;
    pthread_mutex_lock(&lock);
    for (int32_t i = 0; i < n_opened; i++)
        if (opened[i].transport == t) rank = opened[i].rank; /* the latest at that address */
    pthread_mutex_unlock(&lock);
    return rank;
}

static dml_err counting_send(dml_transport *t, dml_queue *queue, int32_t peer, const void *src,
                             int64_t bytes, uint32_t tag)
{
    atomic_fetch_add(&sent[rank_of(t)][peer], bytes);
    return real->send(t, queue, peer, src, bytes, tag);
}

dml_err __real_dml_transport_find(const char *name, const dml_transport_api **out);
dml_err __wrap_dml_transport_find(const char *name, const dml_transport_api **out);

dml_err __wrap_dml_transport_find(const char *name, const dml_transport_api **out)
{
    static dml_transport_api counted;
    DML_TRY(__real_dml_transport_find(name, out));
    pthread_mutex_lock(&lock);
    if (!real) { /* the others use it already */
        counted = **out;
        counted.open = noting_open;
        counted.send = counting_send;
        real = *out;
    }
    pthread_mutex_unlock(&lock);
    *out = &counted;
    return DML_ERR_OK;
}

static void run_steps(const char *steps, const char *split, const char *schedule,
                      int64_t out[WORKERS][WORKERS])
{
    const char *const extra[] = {split, steps, NULL};
    n_opened = 0;
    memset(sent, 0, sizeof sent);
    run_layout(U_NET, &(layout){"4", "1", schedule, "1"}, extra);
    for (int32_t from = 0; from < WORKERS; from++)
        for (int32_t to = 0; to < WORKERS; to++)
            out[from][to] = atomic_load(&sent[from][to]);
}

/* One step's: what the second adds to the first, both with the same evaluation behind them. */
static void expect_bytes(const char *split, const char *schedule,
                         const int32_t sample_bytes[WORKERS][WORKERS])
{
    int64_t one[WORKERS][WORKERS], two[WORKERS][WORKERS];
    run_steps("training.max_steps=1", split, schedule, one);
    run_steps("training.max_steps=2", split, schedule, two);
    for (int32_t from = 0; from < WORKERS; from++)
        for (int32_t to = 0; to < WORKERS; to++)
            if (two[from][to] - one[from][to] != sample_bytes[from][to] * STEP_SAMPLES)
                fail_msg("%s, %s: %lld bytes from %d to %d, not %d", split, schedule,
                         (long long)(two[from][to] - one[from][to]), from, to,
                         sample_bytes[from][to] * STEP_SAMPLES);
}

/* 6x6 floats: 4, 6 or 8 channels. */
enum { FOUR = 4 * 36 * 4, SIX = 6 * 36 * 4, EIGHT = 8 * 36 * 4 };

static const char *const schedules[] = {"1f1b", "gpipe", "zb_h1"};

/* stem's output goes from 0 to 3 and its gradient back, past 1 and 2.  outer.conv1's is what crosses from 0 to 1, and
 * goes from 0 to 2: its gradient goes to 1, which has the value, too.  middle.conv1's goes from 1 to 2 beside what
 * crosses. */
static void nothing_of_a_skip_is_on_the_stages_passed_over(void **state)
{
    (void)state;
    static const int32_t want[WORKERS][WORKERS] = {
        {0, SIX, SIX, FOUR},
        {SIX, 0, EIGHT + EIGHT, 0},
        {0, EIGHT + EIGHT + SIX, 0, SIX},
        {FOUR, 0, SIX, 0},
    };
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++)
        expect_bytes("parallelism.split=[4, 4, 6, 10]", schedules[i], want);
}

/* One value of 0, read by 1, 2 and 3: it goes three times straight, its gradient once down each link of the chain. */
static void a_value_read_three_times_comes_back_once(void **state)
{
    (void)state;
    static const int32_t want[WORKERS][WORKERS] = {
        {0, FOUR, FOUR, FOUR},
        {FOUR, 0, FOUR, 0},
        {0, FOUR + FOUR, 0, FOUR},
        {0, 0, FOUR + FOUR, 0},
    };
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++)
        expect_bytes("parallelism.split=[17, 3, 1, 3]", schedules[i], want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_of_a_skip_is_on_the_stages_passed_over),
        cmocka_unit_test(a_value_read_three_times_comes_back_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
