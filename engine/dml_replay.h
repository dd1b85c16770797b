/* engine/dml_replay.h - the sub-command `dml-plan replay`. */
#ifndef DML_ENGINE_DML_REPLAY_H
#define DML_ENGINE_DML_REPLAY_H

/* argv[0] is "replay", behind the program's name in the same array; returns the program's exit code. */
int dml_replay_main(int argc, char **argv);

#endif
