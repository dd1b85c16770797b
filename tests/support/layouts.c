/* tests/support/layouts.c - one spec, many layouts. */
#include "tests/support/test.h"

#include "tests/support/layouts.h"

#include <inttypes.h>

enum { MAX_OVERRIDES = 20 };

run_result run_layout_hooked(const char *spec_path, const layout *l, const char *const *extra,
                             run_hooks hooks)
{
    const bool placed = l->pp[0] == '[';
    char pp[256], dp[64], schedule[512], threads[64], each[64];
    const char *times = strstr(l->schedule, " x");
    snprintf(pp, sizeof pp, "parallelism.%s=%s", placed ? "stages" : "pipeline_parallel_size",
             l->pp);
    snprintf(dp, sizeof dp, "parallelism.data_parallel_size=%s", l->dp);
    snprintf(schedule, sizeof schedule, "parallelism.schedule=%.*s",
             times ? (int)(times - l->schedule) : (int)strlen(l->schedule), l->schedule);
    snprintf(each, sizeof each, "parallelism.virtual_pipeline_stages=%s", times ? times + 2 : "1");
    snprintf(threads, sizeof threads, "parallelism.threads_per_worker=%s", l->threads);
    const char *overrides[MAX_OVERRIDES + 1] = {pp, schedule, threads, dp, each};
    int n = placed ? 3 : 5;
    if (placed) overrides[3] = overrides[4] = NULL;
    while (extra && *extra && n < MAX_OVERRIDES)
        overrides[n++] = *extra++;
    return run_threads_hooked(spec_path, overrides, hooks);
}

run_result run_layout(const char *spec_path, const layout *l, const char *const *extra)
{
    const run_result r = run_layout_hooked(spec_path, l, extra, (run_hooks){0});
    if (r.err != DML_ERR_OK)
        fail_msg("pp %s dp %s %s: %s: %s", l->pp, l->dp, l->schedule, dml_err_text(r.err), r.trail);
    return r;
}

static bool same_double(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

void expect_same(const run_result *a, const run_result *b, const layout *l)
{
    DML_CHECK_EQ(a->steps, b->steps);
    for (int64_t i = 0; i < a->steps; i++) {
        DML_CHECK(same_double(a->step[i].loss, b->step[i].loss));
        DML_CHECK(same_double(a->step[i].grad_norm, b->step[i].grad_norm));
        DML_CHECK_EQ(a->step[i].correct, b->step[i].correct);
    }
    DML_CHECK(same_double(a->eval.loss, b->eval.loss));
    DML_CHECK_EQ(a->eval.correct, b->eval.correct);
    if (a->weights_hash != b->weights_hash)
        fail_msg("pp %s dp %s %s, %s threads: weights %016" PRIx64 ", not %016" PRIx64, l->pp,
                 l->dp, l->schedule, l->threads, b->weights_hash, a->weights_hash);
}

run_result expect_all_same(const char *spec_path, const layout *layouts, size_t n,
                           const char *const *extra)
{
    const run_result first = run_layout(spec_path, &layouts[0], extra);
    for (size_t i = 1; i < n; i++) {
        const run_result r = run_layout(spec_path, &layouts[i], extra);
        expect_same(&first, &r, &layouts[i]);
    }
    return first;
}
