/* tests/support/delayed.h - training with weights that are late, by the formula and nothing else.
 *
 * One thread goes through the updates in order.  It knows no schedule, no program and no executor: only
 * how many updates late each stage reads its weights,
 *
 *   w_s(t + 1) = w_s(t) - step(gradient of the loss at w_0(v_0), w_1(v_1), ..., w_(p-1)(v_(p-1)))
 *
 *   weight stashing   v_s = max(0, t - (p - 1 - s))      Narayanan et al. 2019, section 3.3
 *   vertical sync     v_s = max(0, t - (p - 1))
 *   2BW               v_s = max(0, t - 1)                Narayanan et al. 2021, section 3.1
 *   without stashing  forward as with it, backward at w_s(t): what stashing is there to prevent
 *
 * where t counts from the last drain: after every `drain` updates, and before each evaluation.  All versions of a segment are kept, on the host; each stage is one
 * chunk, whose weights are exchanged before every call.
 */
#ifndef DML_TEST_DELAYED_H
#define DML_TEST_DELAYED_H

#include <stdint.h>

typedef enum delayed_mode {
    DELAYED_STASHING,
    DELAYED_VERTICAL_SYNC,
    DELAYED_2BW,
    DELAYED_WITHOUT_STASHING,
} delayed_mode;

enum { DELAYED_UPDATES = 64, DELAYED_STAGES = 8 };

typedef struct delayed_result {
    int64_t updates;
    double loss[DELAYED_UPDATES]; /* mean over the samples of the update */
    double norm[DELAYED_UPDATES]; /* of the mean gradient, all stages together */
    uint64_t weights_hash;        /* all stages summed, as dml_chunk_weights_hash */
} delayed_result;

/* Trains the spec with its overrides (NULL-terminated) for its max_steps, cut into `stages` as the engine cuts it.
 * Fails the test when something fails. */
delayed_result delayed_train(const char *spec_path, const char *const *overrides, delayed_mode mode,
                             int32_t stages, int32_t drain);

#endif
