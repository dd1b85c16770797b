/* engine/agent_save.c - what a run begins with, and what is kept of it: the agent's side of engine/keeper.h. */
#include "engine/agent_impl.h"

#include <signal.h>

static void note(void *context, bool failed, const char *text)
{
    dml_agent *a = context;
    dml_leader_message(&a->leader, failed ? "error" : "info", text);
}

dml_err dml_agent_open_keeper(dml_agent *a)
{
    const dml_keeper_config config = {.plan = &a->plan,
                                      .plan_fd = a->plan_fd,
                                      .control = a->control,
                                      .bank = {&a->bank[0], &a->bank[1]},
                                      .again = a->options->again,
                                      .note = note,
                                      .context = a};
    DML_TRY(dml_keeper_open(&config, &a->keeper, &a->begins_after));
    if (a->begins_after > 0) dml_leader_resume(&a->leader, a->begins_after);
    return DML_ERR_OK;
}

bool dml_agent_restore(void *context, dml_depot *bank, uint32_t generation, int64_t *step)
{
    dml_agent *a = context;
    return dml_keeper_restore(a->keeper, bank, generation, step);
}

bool dml_agent_saves_last(void *context, int64_t step)
{
    const dml_agent *a = context;
    return a->stop_signal == 0 && dml_keeper_wants_last(a->keeper, step);
}

/* SIGTERM is a request to be started again: by a scheduler that wants the machine. */
bool dml_agent_saves_before(dml_agent *a, int signal)
{
    return signal == SIGTERM && dml_keeper_stop(a->keeper, a->recovery);
}

int dml_agent_stop_code(const dml_agent *a)
{
    return a->stop_signal == SIGTERM && dml_keeper_is_saved(a->keeper) ? DML_EXIT_SAVED
                                                                       : 128 + a->stop_signal;
}
