/* tests/support/history.h - is what a run committed what a run without faults commits?  From its metrics.jsonl alone.
 *
 *   I1  each micro-batch of a step counts once     samples, loss and gradient norm are those of the undisturbed run: bit for
 *                                                  bit in exact mode, where one micro-batch more or less changes both
 *   I2  steps rise by 1, no step has two outcomes  a step comes again only where a recovery record says that its state was
 *                                                  older, by exactly that many steps, and then with the same bits
 *   I3  replicas agree                             a weights hash is recorded only where they do
 *   I4  the final weights are the undisturbed run's
 *   I6  the run ends, and says how; each loss was recovered from, but for those that ended it
 *
 * Nothing of the engine is used: a checker that shares code shares mistakes.
 */
#ifndef DML_TEST_HISTORY_H
#define DML_TEST_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct history_step {
    int64_t step, samples, generation;
    double loss, grad_norm; /* nan: not finite */
    bool skipped;
} history_step;

typedef struct history_recovery {
    int64_t generation, step, steps_lost, after; /* after: step records before it */
    int64_t losses;                              /* ranks lost in it; 0: a rejoin */
} history_recovery;

typedef struct history {
    history_step *step; /* [n_steps], as they stand in the file */
    history_recovery *recovery;
    int32_t n_steps, n_recoveries;
    int64_t failures; /* records of losses */
    int64_t total_steps, batch;
    bool exact, has_end;
    int64_t exit_code, end_steps;
    char status[16], hash[17];
} history;

/* Reads the last run of the file.  False: `why` says what is wrong with it.  Freed in any case. */
bool history_read(const char *path, history *out, char *why, size_t bytes);
void history_free(history *h);

/* Of a run that finished.  `oracle`: the undisturbed one, NULL: only what the run says of itself is checked.
 *   tolerance  most relative difference of losses where sums may be made in another order; exact runs: none
 * False: `why` names the step and what does not hold there. */
bool history_check(const history *h, const history *oracle, double tolerance, char *why,
                   size_t bytes);

#endif
