/* tests/engine/test_data_loader.c - the loader's line against the data set read directly. */
#include "tests/support/test.h"

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/data_loader.h"

#include <pthread.h>
#include <stdlib.h>

enum { N = 97, B = 10, M = 4, G = 3, ELEMS = 12, DEPTH = 3, STEPS = 40 };

static dml_spec spec_of(dml_last_batch last)
{
    dml_spec s = {0};
    s.run.seed = 5;
    s.model.input_rank = 1;
    s.model.input[0] = ELEMS;
    s.model.classes = 10;
    s.data.format = DML_DATA_SYNTHETIC;
    s.data.samples = s.data.test_samples = N;
    s.data.shuffle = true;
    s.data.last_batch = last;
    s.training.global_batch_size = B;
    s.training.micro_batch_size = M;
    s.training.num_microbatches = G;
    s.training.max_steps = STEPS;
    return s;
}

/* A data set with a loader of micro-batches `mbs`; everything but the abort flag. */
typedef struct rig {
    dml_data *data;
    dml_loader *loader;
    void *memory;
    dml_abort abort;
} rig;

static void rig_open_segments(rig *r, const dml_spec *spec, bool test_split, dml_data_parts parts,
                              const int32_t *mbs, int32_t n_mbs, int64_t end_step,
                              dml_segments segments)
{
    *r = (rig){0};
    DML_CHECK_OK(dml_data_open(spec, test_split, DML_DATA_ALL, &r->data));
    const int64_t bytes = dml_loader_bytes(r->data, parts, DEPTH);
    r->memory = aligned_alloc(64, (size_t)bytes);
    DML_CHECK(r->memory != NULL);
    const dml_loader_config config = {.data = r->data,
                                      .parts = parts,
                                      .mbs = mbs,
                                      .n_mbs = n_mbs,
                                      .segments = segments,
                                      .end_step = end_step,
                                      .depth = DEPTH,
                                      .memory = r->memory,
                                      .abort = &r->abort};
    DML_CHECK_OK(dml_loader_open(&config, &r->loader));
}

static void rig_open(rig *r, const dml_spec *spec, bool test_split, dml_data_parts parts,
                     const int32_t *mbs, int32_t n_mbs, int64_t end_step)
{
    rig_open_segments(r, spec, test_split, parts, mbs, n_mbs, end_step, (dml_segments){0});
}

static void rig_close(rig *r)
{
    dml_loader_close(r->loader);
    dml_data_close(r->data);
    free(r->memory);
}

static int64_t soon(void)
{
    return dml_clock_ns() + 30 * DML_NS_PER_S;
}

/* `b` is what the data set says (step, mb) is. */
static void check_batch(rig *r, int64_t step, int32_t mb, const dml_batch *b)
{
    float images[M * ELEMS];
    int32_t labels[M];
    DML_CHECK_EQ(dml_data_rows(r->data, step, mb), b->rows);
    dml_data_fill_images(r->data, step, mb, images);
    dml_data_fill_labels(r->data, step, mb, labels);
    if (b->images) assert_memory_equal(images, b->images, (size_t)b->rows * ELEMS * sizeof(float));
    if (b->labels) assert_memory_equal(labels, b->labels, (size_t)b->rows * sizeof(int32_t));
}

static void take(rig *r, int64_t step, int32_t mb)
{
    dml_batch b;
    DML_CHECK_OK(dml_loader_get(r->loader, step, mb, soon(), &b));
    check_batch(r, step, mb, &b);
    if (b.rows > 0) dml_loader_release(r->loader);
}

static void a_run_gets_its_micro_batches_in_line(void **state)
{
    (void)state;
    static const struct {
        dml_last_batch last;
        dml_data_parts parts;
        int32_t n_mbs, mbs[G];
    } cases[] = {
        {DML_LAST_WRAP, DML_DATA_ALL, 3, {0, 1, 2}},
        {DML_LAST_SHORT, DML_DATA_IMAGES, 2, {0, 2}},
        {DML_LAST_SHORT, DML_DATA_LABELS, 2, {2, 1}}, /* an order of use that is not ascending */
        {DML_LAST_DROP, DML_DATA_ALL, 1, {1}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const dml_spec spec = spec_of(cases[c].last);
        rig r;
        rig_open(&r, &spec, false, cases[c].parts, cases[c].mbs, cases[c].n_mbs, STEPS);
        for (int64_t step = 0; step < STEPS; step++)
            for (int32_t i = 0; i < cases[c].n_mbs; i++)
                take(&r, step, cases[c].mbs[i]);
        dml_batch b;
        DML_CHECK_FAILS(DML_ERR_BUG, "beyond the loader's last step",
                        dml_loader_get(r.loader, STEPS, cases[c].mbs[0], soon(), &b));
        rig_close(&r);
    }
}

/* Segments of 3 steps, cut before every fourth: 0 1 2 | 3 | 4 5 6 | 7 | 8 9; this worker has micro-batches 2 and 0 of
 * each step, in that order and half a step ahead, as a pipeline takes them. */
static void a_segment_gets_the_micro_batches_of_its_steps(void **state)
{
    (void)state;
    enum { END = 10, LONGEST = 3 };
    static const int32_t begin[] = {0, 3, 4, 7, 8, END};
    int32_t mbs[2 * LONGEST];
    for (int32_t i = 0; i < 2 * LONGEST; i++)
        mbs[i] = i / 2 * G + (i % 2 ? 0 : 2);
    const dml_spec spec = spec_of(DML_LAST_SHORT);
    const dml_segments segments = {.steps = LONGEST, .mbs = G, .every = 4};
    rig r;
    rig_open_segments(&r, &spec, false, DML_DATA_ALL, mbs, 2 * LONGEST, END, segments);
    for (size_t s = 0; s + 1 < sizeof begin / sizeof *begin; s++) {
        const int32_t n = begin[s + 1] - begin[s];
        DML_CHECK_EQ(n, dml_segment_steps(&segments, begin[s], END));
        for (int32_t i = 0; i < 2 * LONGEST; i++) {
            dml_batch b;
            DML_CHECK_OK(dml_loader_get(r.loader, begin[s], mbs[i], soon(), &b));
            if (mbs[i] / G < n)
                check_batch(&r, begin[s] + mbs[i] / G, mbs[i] % G, &b);
            else
                DML_CHECK_EQ(0, b.rows);
            if (b.rows > 0) dml_loader_release(r.loader);
        }
    }
    dml_batch b;
    DML_CHECK_FAILS(DML_ERR_BUG, "beyond the loader's last step",
                    dml_loader_get(r.loader, END, mbs[0], soon(), &b));
    rig_close(&r);
}

static void only_the_parts_asked_for_are_there(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0};
    rig r;
    dml_batch b;
    rig_open(&r, &spec, false, DML_DATA_LABELS, mbs, 1, STEPS);
    DML_CHECK_OK(dml_loader_get(r.loader, 0, 0, soon(), &b));
    DML_CHECK(b.images == NULL && b.labels != NULL);
    rig_close(&r);
    rig_open(&r, &spec, false, DML_DATA_IMAGES, mbs, 1, STEPS);
    DML_CHECK_OK(dml_loader_get(r.loader, 0, 0, soon(), &b));
    DML_CHECK(b.images != NULL && b.labels == NULL);
    rig_close(&r);
}

static void buffers_that_are_held_stay_as_they_are(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0, 1};
    rig r;
    rig_open(&r, &spec, false, DML_DATA_ALL, mbs, 2, STEPS);
    dml_batch held[DEPTH];
    DML_CHECK_EQ(DEPTH, dml_loader_depth(r.loader));
    for (int i = 0; i < DEPTH; i++)
        DML_CHECK_OK(dml_loader_get(r.loader, i / 2, i % 2, soon(), &held[i]));
    dml_batch b;
    DML_CHECK_FAILS(DML_ERR_PEER, "the data loader",
                    dml_loader_get(r.loader, 1, 1, dml_clock_ns() + 20 * DML_NS_PER_MS, &b));
    for (int i = 0; i < DEPTH; i++)
        check_batch(&r, i / 2, i % 2, &held[i]);
    dml_loader_release(r.loader); /* the oldest; the others are still held */
    DML_CHECK_OK(dml_loader_get(r.loader, 1, 1, soon(), &b));
    DML_CHECK(b.images == held[0].images);
    check_batch(&r, 0, 1, &held[1]);
    check_batch(&r, 1, 0, &held[2]);
    check_batch(&r, 1, 1, &b);
    rig_close(&r);
}

static void asking_out_of_line_is_a_bug_that_changes_nothing(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0, 2};
    rig r;
    dml_batch b;
    rig_open(&r, &spec, false, DML_DATA_ALL, mbs, 2, STEPS);
    DML_CHECK_FAILS(DML_ERR_BUG, "micro-batch 2 of step 0 was asked for, but 0 of step 0 is next",
                    dml_loader_get(r.loader, 0, 2, soon(), &b));
    DML_CHECK_FAILS(DML_ERR_BUG, "0 of step 0 is next", dml_loader_get(r.loader, 1, 0, soon(), &b));
    take(&r, 0, 0);
    take(&r, 0, 2);
    rig_close(&r);
}

static void micro_batches_without_samples_are_passed_over(void **state)
{
    (void)state;
    /* short: 97 = 9 x 10 + 7, so step 9 has 7 samples: rows 4, 3, 0 */
    const dml_spec spec = spec_of(DML_LAST_SHORT);
    const int32_t mbs[] = {1, 2};
    rig r;
    dml_batch b;
    rig_open(&r, &spec, false, DML_DATA_ALL, mbs, 2, STEPS);
    dml_loader_seek(r.loader, 9);
    take(&r, 9, 1);
    DML_CHECK_OK(dml_loader_get(r.loader, 9, 2, soon(), &b));
    DML_CHECK_EQ(0, b.rows);
    take(&r, 10, 1); /* whether it was asked for or not */
    rig_close(&r);
}

static void the_test_split_ends_and_seek_starts_it_again(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0, 1, 2};
    rig r;
    dml_batch b;
    rig_open(&r, &spec, true, DML_DATA_ALL, mbs, 3, 100); /* far beyond the 9 rounds there are */
    for (int pass = 0; pass < 3; pass++) {
        dml_loader_seek(r.loader, 0);
        int64_t samples = 0;
        for (int64_t round = 0; round < dml_data_epoch_steps(r.data); round++)
            for (int32_t mb = 0; mb < G; mb++) {
                take(&r, round, mb);
                samples += dml_data_rows(r.data, round, mb);
            }
        DML_CHECK_EQ(N, samples);
    }
    DML_CHECK_OK(dml_loader_get(r.loader, 50, 0, soon(), &b));
    DML_CHECK_EQ(0, b.rows);
    rig_close(&r);
}

/* Redo of a step at any moment, with buffers held and the thread busy. */
static void seek_goes_anywhere_at_any_time(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0, 1, 2};
    rig r;
    rig_open(&r, &spec, false, DML_DATA_ALL, mbs, G, STEPS);
    for (uint64_t i = 0; i < 500; i++) {
        uint32_t w[4];
        dml_rng_block(3, 0, i, w);
        const int64_t step = w[0] % (STEPS - 2);
        dml_loader_seek(r.loader, step);
        int32_t held = 0;
        for (int32_t k = 0; k < (int32_t)(w[1] % 6); k++) {
            dml_batch b;
            if (held == DEPTH || (held > 0 && w[2] >> k & 1)) {
                dml_loader_release(r.loader);
                held--;
            }
            DML_CHECK_OK(dml_loader_get(r.loader, step + k / G, k % G, soon(), &b));
            check_batch(&r, step + k / G, k % G, &b);
            held++;
        }
    }
    dml_loader_seek(r.loader, STEPS - 1);
    take(&r, STEPS - 1, 0);
    rig_close(&r);
}

static void an_abort_ends_a_wait_for_data(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0};
    rig r;
    dml_batch b;
    rig_open(&r, &spec, false, DML_DATA_ALL, mbs, 1, STEPS);
    for (int64_t step = 0; step < DEPTH; step++)
        DML_CHECK_OK(dml_loader_get(r.loader, step, 0, soon(), &b));
    atomic_store(&r.abort.raised, 1);
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped", dml_loader_get(r.loader, DEPTH, 0, soon(), &b));
    rig_close(&r);
}

/* Another thread gives buffers back, as a queue does when a copy has run. */
typedef struct releaser {
    dml_loader *loader;
    _Atomic uint32_t held;
} releaser;

static void *release_all(void *arg)
{
    releaser *w = arg;
    for (uint32_t i = 1; i <= STEPS * G; i++) {
        if (dml_wait_reached(&w->held, i, soon(), NULL, "a batch") != DML_ERR_OK) return arg;
        dml_loader_release(w->loader);
    }
    return NULL;
}

static void another_thread_may_release(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0, 1, 2};
    rig r;
    rig_open(&r, &spec, false, DML_DATA_ALL, mbs, G, STEPS);
    releaser w = {.loader = r.loader};
    pthread_t thread;
    DML_CHECK_EQ(0, pthread_create(&thread, NULL, release_all, &w));
    for (int64_t step = 0; step < STEPS; step++)
        for (int32_t mb = 0; mb < G; mb++) {
            dml_batch b;
            DML_CHECK_OK(dml_loader_get(r.loader, step, mb, soon(), &b));
            check_batch(&r, step, mb, &b);
            dml_wait_advance(&w.held);
        }
    void *failed = NULL;
    pthread_join(thread, &failed);
    DML_CHECK(failed == NULL);
    rig_close(&r);
}

/* As in a worker that has the first stage and the last: images and labels apart, one data set. */
static void two_loaders_share_a_data_set(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0, 1, 2};
    rig r;
    rig_open(&r, &spec, false, DML_DATA_IMAGES, mbs, G, STEPS);
    static _Alignas(64) char memory[4096];
    DML_CHECK(dml_loader_bytes(r.data, DML_DATA_LABELS, 1) <= (int64_t)sizeof memory);
    const dml_loader_config config = {.data = r.data,
                                      .parts = DML_DATA_LABELS,
                                      .mbs = mbs,
                                      .n_mbs = G,
                                      .first_step = 20,
                                      .end_step = STEPS,
                                      .depth = 1,
                                      .memory = memory};
    rig labels = {.data = r.data};
    DML_CHECK_OK(dml_loader_open(&config, &labels.loader));
    for (int64_t step = 0; step < 20; step++)
        for (int32_t mb = 0; mb < G; mb++) {
            take(&r, step, mb);
            take(&labels, 20 + step, mb);
        }
    dml_loader_close(labels.loader);
    rig_close(&r);
}

static void closing_does_not_wait_for_the_line_to_end(void **state)
{
    (void)state;
    const dml_spec spec = spec_of(DML_LAST_WRAP);
    const int32_t mbs[] = {0, 1, 2};
    for (int i = 0; i < 50; i++) {
        rig r;
        rig_open(&r, &spec, false, DML_DATA_ALL, mbs, i % 4, STEPS); /* 0: nothing to do */
        rig_close(&r);
    }
    dml_loader_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_gets_its_micro_batches_in_line),
        cmocka_unit_test(a_segment_gets_the_micro_batches_of_its_steps),
        cmocka_unit_test(only_the_parts_asked_for_are_there),
        cmocka_unit_test(buffers_that_are_held_stay_as_they_are),
        cmocka_unit_test(asking_out_of_line_is_a_bug_that_changes_nothing),
        cmocka_unit_test(micro_batches_without_samples_are_passed_over),
        cmocka_unit_test(the_test_split_ends_and_seek_starts_it_again),
        cmocka_unit_test(seek_goes_anywhere_at_any_time),
        cmocka_unit_test(an_abort_ends_a_wait_for_data),
        cmocka_unit_test(another_thread_may_release),
        cmocka_unit_test(two_loaders_share_a_data_set),
        cmocka_unit_test(closing_does_not_wait_for_the_line_to_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
