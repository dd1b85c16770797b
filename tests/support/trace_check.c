/* trace_check FILE: looks whether a file of trace events is one, and says what is in it:
 * "4 workers, steps 3-5, 132 steps and ops as they ran, 2 of them not done, 132 predicted". */
#include "tests/support/trace_read.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    trace_file f;
    const char *wrong = argc == 2 ? trace_read(argv[1], &f) : "usage: trace_check FILE";
    if (wrong) {
        printf("%s\n", wrong);
        return 1;
    }
    int64_t first = 0, last = 0;
    int32_t ran = 0, open = 0, predicted = 0;
    for (int32_t i = 0; i < f.n; i++) {
        const trace_span *s = &f.span[i];
        if (first == 0 || s->step < first) first = s->step;
        if (s->step > last) last = s->step;
        ran += !s->predicted;
        open += !s->predicted && s->end_ns == -1;
        predicted += s->predicted;
    }
    printf("%d workers, steps %lld-%lld, %d steps and ops as they ran, %d of them not done, %d "
           "predicted\n",
           f.workers, (long long)first, (long long)last, ran, open, predicted);
    trace_free(&f);
    return 0;
}
