#!/usr/bin/env bash
# Every type of fault, struck in real processes: the run ends as policy says, with the bits of the undisturbed run.
#   inject.sh BUILD_FOLDER SOURCE_FOLDER
set -uo pipefail
train=$1/dml-train ctl=$1/dml-ctl net=$2/tests/specs/inject.yaml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 passed=0 got=0 run=0
bits() { sed -n 's/^  weights  *//p' "$work/log"; }
# The log is empty before the run begins: who waits for a line of it does not find the run before.
begin() { : >"$work/log"; "$train" "$net" run.output_dir="$work/run" "$@" >"$work/log" 2>&1 </dev/null & run=$!; }
end() { wait $run; got=$?; }
fail() { failed=$((failed + 1)); echo "FAIL: $1"; tail -25 "$work/log" | sed 's/^/    /'; }

check() { # what, code wanted, hash wanted ("": any), texts wanted
  local what=$1 code=$2 hash=$3 text
  shift 3
  [ "$got" -eq "$code" ] || { fail "$what: exit $got, wanted $code"; return; }
  [ -z "$hash" ] || [ "$(bits)" = "$hash" ] || { fail "$what: weights $(bits), not $hash"; return; }
  for text in "$@"; do
    grep -qE -- "$text" "$work/log" || { fail "$what: no '$text'"; return; }
  done
  passed=$((passed + 1))
}

begin; end
want=$(bits)
check 'the undisturbed run' 0 "$want"
[ -n "$want" ] || fail 'no hash'

lost() { # fault, recoveries, texts
  local fault=$1 n=$2
  shift 2
  begin failures.policy=replan --inject "$fault" --expect-recoveries "$n"; end
  check "$fault" 0 "$want" 'injected into rank' "$@"
}
lost kill@step=5,rank=1 1 'LOST: rank 1 .*beacon.*injected' 'same bits'
lost kill@step=5,stage=1,replica=0 1 'LOST: rank 2'
lost kill@step=5,phase=backward,micro_batch=3,rank=1 1 'LOST: rank 1'
lost kill@step=5,phase=reduce,rank=0 1 'LOST: rank 0'
lost kill@step=5,phase=vote,rank=0 1 'LOST: rank 0'
lost kill@step=5,phase=commit,rank=3 1 'LOST: rank 3'
lost segfault@step=5,rank=1 1 'LOST: rank 1'
lost exit@step=5,rank=1,code=9 1 'LOST: rank 1'
lost hang@step=5,rank=2 1 'LOST: rank 2 .*heartbeat'
lost hang@step=5,rank=2,duration=50ms 0
lost slow@step=5,rank=1,factor=3 0
lost unhealthy@step=5,rank=3 1 '0 steps lost'
lost gpu_error@step=5,rank=0 1 'LOST: rank 0 .*its own report.*the device is lost'
lost gpu_hang@step=5,rank=1 1 'LOST: rank 1 .*(op deadline|its peers)'
lost gpu_oom@step=5,phase=backward,rank=2 1 'LOST: rank 2 .*its own report.*bytes'
lost xid:79@step=5,rank=1 1 'LOST: rank 1 .*Xid 79'
lost xid:74@step=5,rank=1 1 '0 steps lost'
lost xid:13@step=5,rank=1 0
lost comm_abort@step=5,rank=2 1 'LOST: rank 2 .*transport was aborted'
lost link_down@step=5,rank=0,peers=2 1 'LOST: rank [02] .*its peers'
lost link_down@step=5,rank=0,peers=2,duration=100ms 0

begin failures.policy=abort --inject kill@step=5,rank=1; end
check 'a kill under policy abort' 6 '' 'FAILED: rank 1'
begin --expect-recoveries 1; end
check 'a recovery too few' 7 "$want" '1 recoveries were expected, there were 0'
begin --inject kill@step=500,rank=1; end
check 'a fault that never comes' 0 "$want" 'never struck: kill@step=500,rank=1'
begin --inject kill@step=5,rank=8; end
check 'a fault for nobody' 2 '' 'rank 8; there are 4'
begin failures.policy=replan --inject corrupt@step=5,rank=1; end
check 'a gradient that is no number' 0 ''
[ "$(bits)" = "$want" ] && fail 'a step was to be skipped'
begin --inject corrupt@step=5,rank=0,tensor=fc1.weight; end
check 'a flipped bit' 1 '' 'differ'

# ---- live ----

ask() { # what, code, text wanted ("": any), words
  local what=$1 code=$2 text=$3
  shift 3
  "$ctl" "$work/run" "$@" >"$work/answer" 2>&1; got=$?
  if [ "$got" -eq "$code" ] && { [ -z "$text" ] || grep -qE -- "$text" "$work/answer"; }; then passed=$((passed + 1)); return; fi
  fail "$what: exit $got, wanted $code and '$text':"; sed 's/^/    /' "$work/answer"
}
begin failures.policy=replan training.max_steps=200000 logging.interval=1000
until grep -q '^step 1' "$work/log" || ! kill -0 $run 2>/dev/null; do sleep 0.02; done
ask 'status' 0 'net|inject' status
ask 'status as JSON' 0 '"workers":\[\{"rank":0,"pid":[1-9]' status --json
ask 'a fault that cannot be' 2 "did you mean 'kill'" inject kil rank=3
ask 'nobody there' 7 'rank 9; there are 4' inject kill rank=9
ask 'no such command' 2 'no command' jump
ask 'a kill' 0 '' inject kill rank=3
until grep -q '^recovered' "$work/log" || ! kill -0 $run 2>/dev/null; do sleep 0.02; done
ask 'top, once' 0 'lost: 3' top
ask 'who is gone already' 7 'was lost before' inject kill rank=3
ask 'stop' 0 '' stop
end
check 'a run that was told to stop' 143 '' 'injected into rank 3' 'stopped'
ask 'a run that is over' 3 'no run is under way' status
[ -e "$work/run/ctl.sock" ] && fail 'the socket is left'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
