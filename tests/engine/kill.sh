#!/usr/bin/env bash
# Kills real processes of real runs with SIGKILL at random instants and looks at what is left.
#
#   kill.sh DML_TRAIN SPEC ROLE TRIALS SEED        ROLE: worker, agent or supervisor
#
# Each trial: the run ends within its deadline, with exit code 6 (the supervisor's own death: 137); a lost
# worker is named by rank, stage and step; no process of the run, no segment and no file stays.
set -uo pipefail
train=$1 spec=$2 role=$3 trials=$4 RANDOM=$5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0

fail() { echo "trial $trial: $*"; sed 's/^/    /' "$work/log" | tail -30; exit 1; }

children() { # of the supervisor, by the name they were started under
  local p
  for p in $(pgrep -P "$run" 2>/dev/null); do
    [ "$(tr '\0' ' ' 2>/dev/null <"/proc/$p/cmdline" | cut -d' ' -f1)" = "dml-$1" ] && echo "$p"
  done
}

left_over() { find /dev/shm /tmp -maxdepth 1 -newer "$work/start" -user "$(id -un)" -name '*dml*' 2>/dev/null; }

for trial in $(seq "$trials"); do
  touch "$work/start"
  mkdir -p "$work/out"
  setsid "$train" "$spec" run.output_dir="$work/out" logging.console=line logging.interval=1 \
    >"$work/log" 2>&1 &
  run=$!
  pids=''
  for _ in $(seq 200); do # until there is someone to kill
    case $role in supervisor) pids=$run ;; *) pids=$(children "$role") ;; esac
    [ -n "$pids" ] && break
    sleep 0.01
  done
  [ -n "$pids" ] || fail "no $role was started"
  sleep "$((RANDOM % 2)).$(printf %03d $((RANDOM % 1000)))"
  case $role in supervisor) pids=$run ;; *) pids=$(children "$role") ;; esac
  # shellcheck disable=SC2086
  set -- $pids
  [ $# -gt 0 ] || fail "the run was over before the kill: its spec is too short"
  shift $((RANDOM % $#))
  victim=$1
  kill -9 "$victim" 2>/dev/null
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
    agent) [ $code -eq 6 ] || fail "exit code $code, not 6"
      grep -q "agent (pid $victim) was killed by signal 9" "$work/log" || fail "the agent's death is not named" ;;
    worker) [ $code -eq 6 ] || fail "exit code $code, not 6"
      grep -Eq "rank [0-9]+" "$work/log" && grep -Eq "stage [0-9]+" "$work/log" &&
        grep -Eq "step [0-9]+" "$work/log" && grep -q "$victim" "$work/log" || fail "the lost worker is not named" ;;
  esac
  passed=$((passed + 1))
done
echo "$passed of $trials kills of the $role ended cleanly"
