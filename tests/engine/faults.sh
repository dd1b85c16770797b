#!/usr/bin/env bash
# What can happen to a run beside kills: stops, silence, and machines that lack something.
#   faults.sh BUILD_FOLDER SOURCE_FOLDER
set -uo pipefail
train=$1/dml-train trace_check=$1/tests/engine/trace_check delay=$2/examples/pipe4-delay.yaml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 passed=0
options=(failures.policy=abort logging.console=line logging.interval=1 run.output_dir="$work/run")

check() { # what, code wanted, texts wanted in the log...
  local what=$1 code=$2 text
  shift 2
  for text in "$@"; do
    grep -qF -- "$text" "$work/log" && continue
    failed=$((failed + 1)); echo "FAIL: $what: no '$text' in:"; sed 's/^/    /' "$work/log" | tail -20
    return
  done
  if [ "$got" -eq "$code" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1)); echo "FAIL: $what: exit $got, wanted $code"; sed 's/^/    /' "$work/log" | tail -20
  fi
}

# In a session of its own, with signals as they are for a user: a script's background jobs ignore INT.
begin() {
  : >"$work/log"
  env --default-signal=INT setsid "$train" "$delay" "${options[@]}" "$@" >"$work/log" 2>&1 </dev/null &
  run=$!
}
until_text() { until grep -q "$1" "$work/log" || ! kill -0 $run 2>/dev/null; do sleep 0.02; done; }
until_step() { until_text "^step $1/"; }
end() { wait $run; got=$?; }

children() { # of the run, by role
  local p
  for p in $(cat /proc/$run/task/$run/children 2>/dev/null); do
    [ "$(tr '\0' ' ' <"/proc/$p/cmdline" | cut -d' ' -f1)" = "dml-$1" ] && echo "$p"
  done
}

# ---- asked to stop ----

begin; until_step 1; kill -INT -$run; end # as the terminal does: to everyone
check 'an interrupt of all processes' 130 'interrupted: stopping after this step' 'stopped' 'weights'

begin parallelism.pp=1 parallelism.split=auto training.global_batch_size=256 # a step of 8 s: no race with its end
until_text planned; kill -TERM $run
until_text stopping; kill -TERM $run; end
check 'the second signal' 143 'stopped at once by the second signal (Terminated)'

trap '' HUP # what is ignored here is ignored in the child from its first instant on
begin --max-steps 3
trap - HUP
until_step 1; kill -HUP $run; end
check 'a hang-up under nohup' 0 'finished     3 steps'

for ms in 005 010 020 040 080; do
  begin; sleep 0.$ms; kill -TERM $run; end
  check "a stop ${ms} ms after the start" 143
done

# ---- a trace of what is left ----

begin --trace "$work/t.json" --trace-steps 1-20; until_step 2
kill -KILL "$(children worker | sed -n 3p)"; end
check 'a worker killed under a trace' 6 'FAILED: rank 2 was killed by signal 9' 'trace        steps 1-20 in'
"$trace_check" "$work/t.json" >"$work/log"; got=$?
check 'the trace of it' 0 '4 workers, steps 1-'
grep -q ' 0 of them not done' "$work/log" && { failed=$((failed + 1)); echo 'FAIL: the killed step has an end'; }

# ---- silence ----

begin parallelism.timeout=1s; until_step 1
victim=$(children worker | sed -n 3p)
kill -STOP "$victim"; end
check 'a stopped worker' 6 'FAILED: rank 2 stopped answering' "pid $victim" 'by heartbeat' 'the process is stopped' 'failures     1'

begin parallelism.pp=1 parallelism.split=auto parallelism.timeout=2s; until_step 1
kill -STOP "$(children worker)"; end
check 'a lone stopped worker' 6 'FAILED: rank 0 stopped answering' 'ms: the process is stopped'

begin --max-steps 4; until_step 1
kill -STOP -- "-$run"; sleep 2.5; kill -CONT -- "-$run"; end
check 'all of it stopped and continued (^Z, fg)' 0 'step 4/4' 'finished     4 steps' 'weights'

begin --max-steps 4 parallelism.pp=1 parallelism.split=auto; until_step 1
agent=$(children agent) worker=$(children worker)
kill -STOP "$agent"
while [ -n "$worker" ] && kill -0 "$worker" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$worker/status"; do sleep 0.05; done
kill -CONT "$agent"; end
check 'an agent that reads everything late' 0 'step 4/4' 'finished     4 steps' 'weights'

# ---- what the machine lacks ----

one() { "$train" "$delay" "${options[@]}" --max-steps 1 "$@" >"$work/log" 2>&1 </dev/null; got=$?; }

(ulimit -n 20; one; exit $got); got=$?
check '20 descriptors' 3 'Too many open files'
(ulimit -n 64; one; exit $got); got=$?
check '64 descriptors' 0 'finished     1 steps'

"$train" "$delay" "${options[@]}" --max-steps 1 <&- >&- 2>&-
got=$?
: >"$work/log"
check 'no standard descriptors' 0

mkdir -p "$work/full"
ln -s /dev/full "$work/full/metrics.jsonl"
one run.output_dir="$work/full"
check 'a full disk' 4 "metrics.jsonl': No space left on device"
[ "$(grep -c 'No space left' "$work/log")" -eq 1 ] || { failed=$((failed + 1)); echo 'FAIL: a full disk is told of twice'; }

mkdir -p "$work/large" # room for some 80 steps; segments are smaller than the limit
head -c 1000000 /dev/zero | tr '\0' '\n' >"$work/large/metrics.jsonl"
(ulimit -f 1000; one --max-steps 2000 run.output_dir="$work/large" 'model.layers=[flatten, linear: 10]' parallelism.split=auto parallelism.pp=1; exit $got)
got=$?
check 'a file that grows too large' 4 'step 10/' 'dml-train: cannot append to' "large/metrics.jsonl"

begin --max-steps 4; until_step 1
cp "$work/log" "$work/first"
one
check 'two runs in one folder' 3 "another run is writing to '$work/run/metrics.jsonl'"
end; cp "$work/first" "$work/log"
check 'the first of two runs in one folder' 0

one parallelism.pp=5 parallelism.dp=16 parallelism.split=auto training.global_batch_size=64
check 'more workers than one host runs' 2 '5 stages x 16 replicas; one host runs at most 64 workers'

one training.max_steps=50 'model.layers=[flatten, linear: 10, linear: 10]' parallelism.split=auto parallelism.pp=2 optimizer.lr=1e30
check 'a run that diverges' 5 'were not finite in 6 steps in a row' 'failures     1'

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
