/* engine/dml_profile.h - the sub-command `dml-plan profile`. */
#ifndef DML_ENGINE_DML_PROFILE_H
#define DML_ENGINE_DML_PROFILE_H

/* argv[0] is "profile", behind the program's name in the same array; returns the program's exit code. */
int dml_profile_main(int argc, char **argv);

#endif
