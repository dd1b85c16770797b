#!/usr/bin/env bash
# Every step of the protocol, in every role, hit with kill, pause and error in real processes; what has to follow is the table.
#   failpoints.sh BUILD_FOLDER SOURCE_FOLDER
#
#   point | action | rules beside it | code | weights | text wanted in the log | options
#
#   code     0: the run ends as if nothing had been, or after a recovery; 3, 6: it cannot, and says why; 137: the supervisor is killed
#   weights  same: those of the undisturbed run, and its history (tests/support/history.h); -: the run has not got there
#
# After each run no process of it is left.  Every point of engine/base/failpoint.h has to be in the table, or the test fails.
set -uo pipefail
train=$1/dml-train check=$1/tests/engine/history_check net=$2/tests/specs/inject.yaml list=$2/engine/base/failpoint.h
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 passed=0

fail() { failed=$((failed + 1)); echo "FAIL: $1"; grep -v '^  ' "$work/log" | tail -15 | sed 's/^/    /'; }

# The session of the run is its own, so that whoever is left is found.
run() { # rules, options
  local rules=$1
  shift
  rm -rf "$work/run"
  DML_FAILPOINTS=$rules setsid --wait timeout 60 "$train" "$net" run.output_dir="$work/run" logging.interval=100 "$@" >"$work/log" 2>&1 </dev/null &
  waiter=$!
  wait $waiter 2>/dev/null
  got=$?
}

left() { # orphans die by their parent-death signal
  local i
  for ((i = 0; i < 100; i++)); do
    pgrep -f "run.output_dir=$work/run" >/dev/null || return 1
    sleep 0.02
  done
}

row() { # point, action, rules beside it, code, weights, text, options...
  local what rules="$3${3:+; }$1:$2" code=$4 weights=$5 text=$6 oracle
  shift 6
  run "$rules" "$@"
  what="$rules ${*:-}"
  case "$*" in *"$long"*) oracle=$work/long.jsonl ;; *) oracle=$work/short.jsonl ;; esac
  [ "$got" -eq "$code" ] || { fail "$what: exit $got, wanted $code"; return; }
  left && { fail "$what: a process is left"; return; }
  [ -z "$text" ] || grep -qE -- "$text" "$work/log" || { fail "$what: no '$text'"; return; }
  if [ "$weights" = same ]; then
    "$check" "$work/run/metrics.jsonl" "$oracle" >>"$work/log" 2>&1 || { fail "$what: the history"; return; }
  fi
  passed=$((passed + 1))
}

long=training.max_steps=400
for length in short long; do
  [ $length = short ] && run '' || run '' $long
  [ "$got" -eq 0 ] && cp "$work/run/metrics.jsonl" "$work/$length.jsonl" || fail "the undisturbed run, $length"
done

lost='worker.vote.after@rank=1,hit=3:kill' # of stage 0, whose other worker is rank 0; stage 1 is ranks 2 and 3
respawn=failures.respawn=on snaps=failures.snapshot_interval=2 saves='checkpoint.interval=10'
while IFS='|' read -r point action beside code weights text options; do
  point=${point// /} action=${action// /} code=${code// /} weights=${weights// /}
  case $point in '' | '#'*) continue ;; esac
  beside=${beside//LOST/$lost} beside=${beside# } beside=${beside%"${beside##*[! ]}"} text=${text# } text=${text% }
  options=${options//RESPAWN/$respawn} options=${options//SNAPS/$snaps} options=${options//SAVES/$saves} options=${options//LONG/$long} options=${options//FOLDER/$work/run/saved}
  # shellcheck disable=SC2086
  row "$point" "$action" "$beside" "$code" "$weights" "${text%"${text##*[! ]}"}" $options
done <"$(dirname "$0")/failpoints.table"

# Each point there is has each action that it can have.
for point in $(sed -n 's/^ *X([A-Z_]*, *"\([a-z.]*\)").*/\1/p' "$list"); do
  for action in kill pause error; do
    grep -qE "^$point(@[^|]*)? *\| *$action" "$(dirname "$0")/failpoints.table" || fail "$point is not hit with $action"
  done
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
