#!/usr/bin/env bash
# Kills real processes of real runs with SIGKILL at random instants and looks at what is left.
#
#   kill.sh DML_TRAIN SPEC ROLE TRIALS SEED [STEPS]     ROLE: worker, agent or supervisor; STEPS that last over 1.2 s,
#                                                       after which a run whose agent is killed ends (5)
#
# Every second kill falls into the first 150 ms, in which processes start and transports open; the others are
# spread over 1.2 s.
#
# Each trial: the run ends within its deadline, with exit code 6 (the supervisor's own death: 137; the agent's: 0,
# another has gone on, or begun anew); a lost worker is named by rank, stage and step; no process of the run, no segment and no file stays.
set -uo pipefail
train=$1 spec=$2 role=$3 trials=$4 RANDOM=$5 steps=${6:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 starting=0

fail() { echo "trial $trial: $*"; sed 's/^/    /' "$work/log" | tail -30; exit 1; }

. "$(dirname "$0")/../support/children.sh"

left_over() { find /dev/shm /tmp -maxdepth 1 -newer "$work/start" -user "$(id -un)" -name '*dml*' 2>/dev/null; }

for trial in $(seq "$trials"); do
  touch "$work/start"
  ms=$((RANDOM % (trial % 2 ? 150 : 1200)))
  mkdir -p "$work/out"
  setsid "$train" "$spec" failures.policy=abort run.output_dir="$work/out" logging.console=line logging.interval=1 \
    $([ "$role" = agent ] && echo --max-steps "$steps") \
    >"$work/log" 2>&1 &
  run=$!
  sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
  for _ in $(seq 2000); do # until there is someone to kill
    case $role in supervisor) pids=$run ;; *) children "$role" ;; esac
    [ -n "$pids" ] && break
    kill -0 "$run" 2>/dev/null || break
    sleep 0.001
  done
  # shellcheck disable=SC2086
  set -- $pids
  [ $# -gt 0 ] || fail "no $role to kill after $ms ms"
  shift $((RANDOM % $#))
  victim=$1
  kill -9 "$victim" 2>/dev/null
  grep -q '^step 1/' "$work/log" || starting=$((starting + 1))
  for _ in $(seq 300); do
    kill -0 "$run" 2>/dev/null || break
    sleep 0.05
  done
  kill -0 "$run" 2>/dev/null && { kill -9 "$run"; fail "still running 15 s after SIGKILL of $role $victim"; }
  wait "$run"
  code=$?
  for _ in $(seq 100); do # orphans die by their parent-death signal
    pgrep -s "$run" >/dev/null || break
    sleep 0.02
  done
  pgrep -s "$run" >/dev/null && fail "processes stay: $(pgrep -as "$run")"
  [ -z "$(left_over)" ] || fail "files stay: $(left_over)"
  case $role in
    supervisor) [ $code -eq 137 ] || fail "exit code $code, not 137" ;;
    agent)
      grep -q "agent (pid $victim) was killed by signal 9 (Killed); starting it again" "$work/log" || fail "the agent's death is not named"
      [ $code -eq 0 ] && grep -q "^step $steps/$steps" "$work/log" || fail "exit code $code, or not all steps" ;;
    worker) [ $code -eq 6 ] || fail "exit code $code, not 6"
      grep -Eq "rank [0-9]+" "$work/log" && grep -Eq "stage [0-9]+" "$work/log" &&
        grep -Eq "step [0-9]+" "$work/log" && grep -q "$victim" "$work/log" || fail "the lost worker is not named" ;;
  esac
  passed=$((passed + 1))
done
echo "$passed of $trials kills of the $role ended cleanly, $starting of them before the first step was done"
