/* tests/engine/test_ctl.c - the control socket answers whoever it should, and nothing that comes in hurts the run. */
#include "tests/support/test.h"

#include "engine/ctl.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct rig {
    char folder[512], socket[544];
    dml_ctl *ctl;
    pthread_t thread;
    _Atomic bool over;
    _Atomic int32_t stops, faults;
    size_t status_bytes; /* of its padding */
} rig;

static void status(void *context, dml_str *json)
{
    const rig *g = context;
    dml_str_printf(json, "{\"pad\":\"");
    for (size_t i = 0; i < g->status_bytes; i++)
        dml_str_append(json, "x", 1);
    dml_str_printf(json, "\"}");
}

static dml_err inject(void *context, const dml_fault *fault)
{
    rig *g = context;
    if (fault->rank > 3) DML_FAIL(DML_ERR_SPEC, "there is no rank %d", fault->rank);
    g->faults++;
    return DML_ERR_OK;
}

static dml_err checkpoint(void *context)
{
    (void)context;
    DML_FAIL(DML_ERR_UNAVAILABLE, "no \"folder\"\nis named");
}

static dml_err stop(void *context)
{
    ((rig *)context)->stops++;
    return DML_ERR_OK;
}

static void *serve(void *arg)
{
    rig *g = arg;
    while (!g->over) {
        struct pollfd on[DML_CTL_FDS];
        dml_ctl_poll(g->ctl, on);
        if (poll(on, DML_CTL_FDS, 5) > 0) dml_ctl_serve(g->ctl, on);
    }
    return NULL;
}

/* A folder whose path is longer than a socket's name may be. */
static int setup(void **state)
{
    rig *g = calloc(1, sizeof *g);
    snprintf(g->folder, sizeof g->folder, "/tmp/dml-test-ctl-XXXXXX");
    if (!mkdtemp(g->folder)) return -1;
    for (int i = 0; i < 3; i++) {
        strcat(g->folder, "/a-folder-with-a-name-of-some-length-and-then-some");
        if (mkdir(g->folder, 0700) != 0) return -1;
    }
    snprintf(g->socket, sizeof g->socket, "%s/ctl.sock", g->folder);
    const dml_ctl_calls calls = {g, status, inject, checkpoint, stop};
    DML_CHECK_OK(dml_ctl_open(g->folder, &calls, &g->ctl));
    DML_CHECK_EQ(0, pthread_create(&g->thread, NULL, serve, g));
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    rig *g = *state;
    g->over = true;
    pthread_join(g->thread, NULL);
    dml_ctl_close(g->ctl);
    DML_CHECK(access(g->socket, F_OK) != 0); /* it takes its socket along */
    for (int i = 0; i < 4; i++) {
        rmdir(g->folder);
        *strrchr(g->folder, '/') = '\0';
    }
    free(g);
    return 0;
}

static int connected(const rig *g)
{
    int fd;
    DML_CHECK_OK(dml_ctl_connect(g->folder, &fd));
    return fd;
}

static void expect(int fd, const char *line, const char *answer)
{
    dml_str got = {0};
    DML_CHECK_OK(dml_ctl_ask(fd, line, 5000, &got));
    if (strcmp(dml_str_text(&got), answer) != 0)
        fail_msg("%s gave %s not %s", line, dml_str_text(&got), answer);
    dml_str_free(&got);
}

static void only_the_user_may_connect_and_the_socket_itself_names_the_run_too(void **state)
{
    rig *g = *state;
    struct stat s;
    DML_CHECK_EQ(0, stat(g->socket, &s));
    DML_CHECK_EQ(0600, s.st_mode & 0777);
    int fd;
    DML_CHECK_OK(dml_ctl_connect(g->socket, &fd));
    expect(fd, "{\"command\":\"stop\"}", "{\"ok\":true}\n");
    DML_CHECK_EQ(1, g->stops);
    close(fd);
}

static void commands_are_carried_out_or_refused_with_the_reason(void **state)
{
    rig *g = *state;
    const int fd = connected(g);
    expect(fd, "{\"command\":\"status\"}", "{\"ok\":true,\"status\":{\"pad\":\"\"}}\n");
    expect(fd, "{\"command\":\"inject\",\"fault\":\"kill@rank=3\"}", "{\"ok\":true}\n");
    DML_CHECK_EQ(1, g->faults);
    expect(fd, "{\"command\":\"inject\",\"fault\":\"kill@rank=4\"}",
           "{\"ok\":false,\"error\":\"there is no rank 4\"}\n");
    expect(
        fd, "{\"command\":\"inject\"}",
        "{\"ok\":false,\"error\":\"inject needs \\\"fault\\\", such as \\\"kill@rank=1\\\"\"}\n");
    dml_str got = {0};
    DML_CHECK_OK(dml_ctl_ask(fd, "{\"command\":\"checkpoint\"}", 5000, &got));
    DML_CHECK(strstr(dml_str_text(&got), "no \\\"folder\\\"\\nis named"));
    dml_str_free(&got);
    close(fd);
}

static void bad_input_is_answered_and_the_next_line_counts_again(void **state)
{
    rig *g = *state;
    static const char *const bad[] = {
        "",
        "status",
        "{\"command\":",
        "[]",
        "{}",
        "{\"command\":7}",
        "{\"command\":\"reboot\"}",
        "{\"command\":\"status\",\"command\":\"stop\"}",
        "{\"command\":\"inject\",\"fault\":7}",
        "\xff\xfe\x01",
    };
    const int fd = connected(g);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dml_str got = {0};
        DML_CHECK_OK(dml_ctl_ask(fd, bad[i], 5000, &got));
        DML_CHECK(strstr(dml_str_text(&got), "{\"ok\":false,\"error\":"));
        dml_str_free(&got);
    }
    DML_CHECK_EQ(0, g->stops + g->faults);
    expect(fd, "{\"command\":\"stop\"}", "{\"ok\":true}\n");
    close(fd);
}

static void requests_come_in_pieces_and_several_at_once(void **state)
{
    rig *g = *state;
    const int fd = connected(g);
    const char text[] = "{\"command\":\"stop\"}\n{\"command\":\"stop\"}\n{\"comm";
    DML_CHECK_EQ(sizeof text - 1, send(fd, text, sizeof text - 1, 0));
    while (g->stops < 2)
        usleep(1000);
    dml_str got = {0};
    DML_CHECK_OK(dml_ctl_ask(fd, "and\":\"stop\"}", 5000, &got)); /* the first two answers */
    while (g->stops < 3)
        usleep(1000);
    dml_str_free(&got);
    close(fd);
}

static void a_line_too_long_ends_its_client_alone(void **state)
{
    rig *g = *state;
    const int fd = connected(g), other = connected(g);
    char *line = malloc(2 * DML_CTL_LINE_BYTES);
    dml_str got = {0};
    memset(line, 'x', 2 * DML_CTL_LINE_BYTES);
    line[2 * DML_CTL_LINE_BYTES - 1] = '\0';
    DML_CHECK_EQ(DML_ERR_PEER, dml_ctl_ask(fd, line, 5000, &got));
    expect(other, "{\"command\":\"stop\"}", "{\"ok\":true}\n");
    close(fd);
    close(other);
    free(line);
    dml_str_free(&got);
}

static void who_does_not_read_is_dropped_and_the_others_are_served(void **state)
{
    rig *g = *state;
    g->status_bytes = 100000;
    const int fd = connected(g), other = connected(g);
    const char line[] = "{\"command\":\"status\"}\n";
    for (int i = 0; i < 200; i++)
        if (send(fd, line, sizeof line - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
    expect(other, "{\"command\":\"stop\"}", "{\"ok\":true}\n");
    close(fd);
    expect(other, "{\"command\":\"stop\"}", "{\"ok\":true}\n");
    close(other);
}

static void more_clients_than_there_is_room_for_are_turned_away(void **state)
{
    rig *g = *state;
    int fd[DML_CTL_CLIENTS + 1];
    for (int i = 0; i < DML_CTL_CLIENTS; i++) {
        fd[i] = connected(g);
        expect(fd[i], "{\"command\":\"stop\"}", "{\"ok\":true}\n");
    }
    dml_str got = {0};
    fd[DML_CTL_CLIENTS] = connected(g);
    DML_CHECK_EQ(DML_ERR_PEER,
                 dml_ctl_ask(fd[DML_CTL_CLIENTS], "{\"command\":\"stop\"}", 5000, &got));
    for (int i = 0; i <= DML_CTL_CLIENTS; i++)
        close(fd[i]);
    usleep(20000);
    const int again = connected(g);
    expect(again, "{\"command\":\"stop\"}", "{\"ok\":true}\n");
    close(again);
    dml_str_free(&got);
}

static void the_socket_of_a_killed_run_is_replaced_and_clients_are_told(void **state)
{
    rig *g = *state;
    char folder[] = "/tmp/dml-test-ctl-XXXXXX", path[64];
    DML_CHECK(mkdtemp(folder));
    int fd;
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "no run is under way there", dml_ctl_connect(folder, &fd));
    const dml_ctl_calls calls = {g, status, inject, checkpoint, stop};
    const pid_t child = fork();
    if (child == 0) {
        dml_ctl *left;
        _exit(dml_ctl_open(folder, &calls, &left) == DML_ERR_OK ? 0 : 1); /* without closing */
    }
    int code;
    DML_CHECK(waitpid(child, &code, 0) == child && code == 0);
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "the run is over", dml_ctl_connect(folder, &fd));
    dml_ctl *ctl;
    DML_CHECK_OK(dml_ctl_open(folder, &calls, &ctl));
    DML_CHECK_OK(dml_ctl_connect(folder, &fd));
    close(fd);
    dml_ctl_close(ctl);
    snprintf(path, sizeof path, "%s/none", folder);
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "No such file", dml_ctl_open(path, &calls, &ctl));
    DML_CHECK_FAILS(DML_ERR_UNAVAILABLE, "a run is named by its output folder",
                    dml_ctl_connect(path, &fd));
    rmdir(folder);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(only_the_user_may_connect_and_the_socket_itself_names_the_run_too),
        T(commands_are_carried_out_or_refused_with_the_reason),
        T(bad_input_is_answered_and_the_next_line_counts_again),
        T(requests_come_in_pieces_and_several_at_once),
        T(a_line_too_long_ends_its_client_alone),
        T(who_does_not_read_is_dropped_and_the_others_are_served),
        T(more_clients_than_there_is_room_for_are_turned_away),
        T(the_socket_of_a_killed_run_is_replaced_and_clients_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
