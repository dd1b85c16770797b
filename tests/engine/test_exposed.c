/* Exposed communication as a run measures it: bounds that hold on any machine, however slow. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "tests/support/layouts.h"

#define TINY DML_SOURCE_DIR "/tests/specs/tiny-cnn.yaml"

enum { LATENCY_MS = 3 };

static const char *const far[] = {"parallelism.link.latency=3ms", "comm.overlap=false",
                                  "training.numerics=fast",       "training.max_steps=4",
                                  "training.eval_interval=0",     NULL};

static void check_within_the_idle_time(const run_result *r)
{
    for (int32_t w = 0; w < r->workers; w++) {
        const dml_report_end *e = &r->end[w];
        DML_CHECK(e->exposed_ns >= 0);
        DML_CHECK(e->exposed_ns * (r->steps - 1) <= e->wall_ns - e->busy_ns);
    }
}

static void a_worker_alone_exposes_nothing(void **state)
{
    (void)state;
    const layout one = {"1", "1", "sequential", "1"};
    const run_result r = run_layout(TINY, &one, far);
    DML_CHECK_EQ(0, r.end[0].exposed_ns);
}

/* Two calls, moments and gradients, after the last backward: 2 (n - 1) latencies each. */
static void replicas_without_overlap_expose_their_ring_at_least(void **state)
{
    (void)state;
    const layout two = {"1", "2", "gpipe", "1"};
    const run_result r = run_layout(TINY, &two, far);
    check_within_the_idle_time(&r);
    for (int32_t w = 0; w < r.workers; w++)
        DML_CHECK(r.end[w].exposed_ns >= 2 * LATENCY_MS * DML_NS_PER_MS);
}

static void a_pipeline_exposes_no_more_than_its_bubble(void **state)
{
    (void)state;
    const layout three = {"3", "1", "1f1b", "1"};
    const run_result r = run_layout(TINY, &three, far);
    check_within_the_idle_time(&r);
    for (int32_t w = 0; w < r.workers; w++)
        DML_CHECK(r.end[w].exposed_ns > 0);
}

static void an_asynchronous_segment_counts_its_steps(void **state)
{
    (void)state;
    const layout late = {"3", "1", "pipedream_2bw", "1"};
    const run_result r = run_layout(TINY, &late, far);
    for (int32_t w = 0; w < r.workers; w++) {
        DML_CHECK(r.end[w].exposed_ns >= 0);
        DML_CHECK(r.end[w].exposed_ns * r.steps <= r.end[w].wall_ns - r.end[w].busy_ns);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_alone_exposes_nothing),
        cmocka_unit_test(replicas_without_overlap_expose_their_ring_at_least),
        cmocka_unit_test(a_pipeline_exposes_no_more_than_its_bubble),
        cmocka_unit_test(an_asynchronous_segment_counts_its_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
