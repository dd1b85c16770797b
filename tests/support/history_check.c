/* tests/support/history_check.c - history_check METRICS [UNDISTURBED [TOLERANCE]]: 0 when all holds, else says what does not. */
#include "tests/support/history.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    char why[512];
    history h = {0}, oracle = {0};
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: history_check METRICS [UNDISTURBED [TOLERANCE]]\n");
        return 2;
    }
    const bool ok = history_read(argv[1], &h, why, sizeof why) &&
                    (argc < 3 || history_read(argv[2], &oracle, why, sizeof why)) &&
                    history_check(&h, argc < 3 ? NULL : &oracle, argc < 4 ? 0.0 : atof(argv[3]),
                                  why, sizeof why);
    if (ok)
        printf("%" PRId64 " steps, %d recoveries of %" PRId64 " losses, weights %s\n", h.end_steps,
               h.n_recoveries, h.failures, h.hash);
    else
        fprintf(stderr, "%s: %s\n", argv[1], why);
    history_free(&h);
    history_free(&oracle);
    return ok ? 0 : 1;
}
