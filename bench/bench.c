/* bench/bench.c - dml-bench: picks a sub-command. */
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *doc;
    int (*run)(int argc, char **argv);
} commands[] = {
#define X(name, doc) {#name, doc, dml_bench_##name},
    DML_BENCH_LIST(X)
#undef X
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void help(FILE *to)
{
    fprintf(to, "Usage: dml-bench COMMAND [OPTION...]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-12s %s\n", commands[i].name, commands[i].doc);
    fprintf(to, "\ndml-bench COMMAND --help lists the options of one.\n");
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        help(stdout);
        return 0;
    }
    for (int i = 0; i < COMMANDS && argc > 1; i++) {
        if (strcmp(argv[1], commands[i].name) != 0) continue;
        char name[64];
        snprintf(name, sizeof name, "dml-bench %s", commands[i].name);
        argv[1] = name; /* as the command's own name, for its messages */
        return commands[i].run(argc - 1, argv + 1);
    }
    if (argc > 1) fprintf(stderr, "dml-bench: no command '%s'\n", argv[1]);
    help(stderr);
    return dml_err_exit_code(DML_ERR_SPEC);
}
