/* tests/comm/nccl/test_id_page.c - a communicator's id goes round through a shared page. */
#include "tests/support/test.h"

#include "comm/nccl/id_page.h"
#include "engine/base/clock.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

static dml_id_page *new_page(int *fd)
{
    dml_id_page *page = NULL;
    *fd = memfd_create("id", MFD_CLOEXEC);
    assert_true(*fd >= 0);
    DML_CHECK_OK(dml_id_page_open(*fd, &page));
    return page;
}

static int64_t in_ms(int64_t ms)
{
    return dml_clock_ns() + ms * DML_NS_PER_MS;
}

static void fill_id(char id[DML_ID_BYTES], char with)
{
    memset(id, with, DML_ID_BYTES);
}

/* Another rank's mapping of the same file, in another thread. */
typedef struct reader {
    int fd;
    uint64_t group;
    dml_err err;
    char id[DML_ID_BYTES];
} reader;

static void *read_id(void *arg)
{
    reader *r = arg;
    dml_id_page *page = NULL;
    r->err = dml_id_page_open(r->fd, &page);
    if (r->err == DML_ERR_OK)
        r->err = dml_id_await(page, 0, 3, r->group, in_ms(20000), NULL, r->id);
    dml_id_page_close(page);
    return NULL;
}

static void readers_get_the_id_of_their_epoch_and_group(void **state)
{
    (void)state;
    int fd;
    dml_id_page *page = new_page(&fd);
    enum { READERS = 4 };
    reader readers[READERS];
    pthread_t threads[READERS];
    for (int i = 0; i < READERS; i++) {
        readers[i] = (reader){.fd = fd, .group = 7};
        assert_int_equal(pthread_create(&threads[i], NULL, read_id, &readers[i]), 0);
    }
    char id[DML_ID_BYTES];
    for (char turn = 1; turn < 50; turn++) { /* older epochs and other groups are passed over */
        fill_id(id, turn);
        dml_id_publish(page, turn % 2 ? 2 : 3, 6, id);
        dml_id_withdraw(page);
    }
    fill_id(id, 'x');
    dml_id_publish(page, 3, 7, id);
    for (int i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
        DML_CHECK_EQ(DML_ERR_OK, readers[i].err);
        assert_memory_equal(readers[i].id, id, DML_ID_BYTES);
    }
    dml_id_page_close(page);
    close(fd);
}

static void a_withdrawn_id_is_not_taken(void **state)
{
    (void)state;
    int fd;
    dml_id_page *page = new_page(&fd);
    char id[DML_ID_BYTES] = {0};
    dml_id_publish(page, 1, 1, id);
    dml_id_withdraw(page);
    DML_CHECK_FAILS(DML_ERR_PEER, "worker 5's communicator id",
                    dml_id_await(page, 5, 1, 1, in_ms(5), NULL, id));
    dml_id_page_close(page);
    close(fd);
}

static void a_page_whose_owner_died_while_writing_serves_the_next_epoch(void **state)
{
    (void)state;
    int fd;
    dml_id_page *page = new_page(&fd);
    char id[DML_ID_BYTES], got[DML_ID_BYTES];
    fill_id(id, 'y');
    atomic_store(&page->word, 5);
    DML_CHECK_FAILS(DML_ERR_PEER, "nothing for", dml_id_await(page, 0, 1, 1, in_ms(5), NULL, got));
    dml_id_publish(page, 2, 1, id);
    DML_CHECK_OK(dml_id_await(page, 0, 2, 1, INT64_MAX, NULL, got));
    assert_memory_equal(id, got, DML_ID_BYTES);
    dml_id_page_close(page);
    close(fd);
}

static void a_later_epoch_is_refused_and_the_abort_flag_ends_the_wait(void **state)
{
    (void)state;
    int fd;
    dml_id_page *page = new_page(&fd);
    dml_abort abort = {.raised = 1};
    char id[DML_ID_BYTES] = {0};
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped",
                    dml_id_await(page, 0, 1, 1, INT64_MAX, &abort, id));
    dml_id_publish(page, 2, 1, id);
    DML_CHECK_FAILS(DML_ERR_PEER, "worker 0 is at membership epoch 2, this one at 1",
                    dml_id_await(page, 0, 1, 1, INT64_MAX, NULL, id));
    dml_id_page_close(page);
    close(fd);
}

static void ranks_meet_at_an_epoch_and_the_late_are_refused(void **state)
{
    (void)state;
    enum { N = 3 };
    int fd[N];
    dml_id_page *page[N];
    for (int i = 0; i < N; i++)
        page[i] = new_page(&fd[i]);
    DML_CHECK_FAILS(DML_ERR_PEER, "worker 1 to open epoch 5",
                    dml_id_meet(page, N, 0, 5, in_ms(5), NULL));
    dml_wait_set(&page[1]->opened, 5 + 1);
    dml_wait_set(&page[2]->opened, 5 + 1);
    DML_CHECK_OK(dml_id_meet(page, N, 0, 5, in_ms(20000), NULL));
    dml_wait_set(&page[2]->opened, 6 + 1);
    DML_CHECK_FAILS(DML_ERR_PEER, "refused: worker 2 is at epoch 6, worker 0 still at 5",
                    dml_id_meet(page, N, 0, 5, in_ms(20000), NULL));
    const dml_abort abort = {.raised = 1};
    DML_CHECK_FAILS(DML_ERR_PEER, "being stopped", dml_id_meet(page, N, 0, 6, INT64_MAX, &abort));
    for (int i = 0; i < N; i++) {
        dml_id_page_close(page[i]);
        close(fd[i]);
    }
}

static void stopping_waits_for_the_living_until_the_deadline(void **state)
{
    (void)state;
    int fd[2];
    dml_id_page *page[2];
    for (int i = 0; i < 2; i++)
        page[i] = new_page(&fd[i]);
    const int64_t begin_ns = dml_clock_ns();
    DML_CHECK(!dml_id_is_stopped(page, 2, 3));
    dml_id_stop(page, 2, 0, 3, in_ms(20)); /* rank 1 is dead */
    DML_CHECK(dml_id_is_stopped(page, 2, 3));
    DML_CHECK(!dml_id_is_stopped(page, 2, 4));
    DML_CHECK(dml_clock_ns() - begin_ns >= 20 * DML_NS_PER_MS);
    DML_CHECK_EQ(4, atomic_load(&page[0]->stopped));
    dml_wait_set(&page[1]->stopped, 4); /* not dead after all: a wait without end ends */
    dml_id_stop(page, 2, 0, 3, INT64_MAX);
    for (int i = 0; i < 2; i++) {
        dml_id_page_close(page[i]);
        close(fd[i]);
    }
}

static void what_is_no_memory_file_is_named(void **state)
{
    (void)state;
    dml_id_page *page = NULL;
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "descriptor -1 is no memory file",
                    dml_id_page_open(-1, &page));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_get_the_id_of_their_epoch_and_group),
        cmocka_unit_test(a_withdrawn_id_is_not_taken),
        cmocka_unit_test(a_page_whose_owner_died_while_writing_serves_the_next_epoch),
        cmocka_unit_test(a_later_epoch_is_refused_and_the_abort_flag_ends_the_wait),
        cmocka_unit_test(ranks_meet_at_an_epoch_and_the_late_are_refused),
        cmocka_unit_test(stopping_waits_for_the_living_until_the_deadline),
        cmocka_unit_test(what_is_no_memory_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
