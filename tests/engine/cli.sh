#!/usr/bin/env bash
# The command line as a user meets it: exit codes, and messages that name the place and the mend.
#   cli.sh BUILD_FOLDER SOURCE_FOLDER
set -uo pipefail
train=$1/dml-train plan=$1/dml-plan examples=$2/examples trace_check=$1/tests/engine/trace_check
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 passed=0

expect() { # code, text in the output, command...
  local code=$1 text=$2 got
  shift 2
  "$@" >"$work/log" 2>&1 </dev/null
  got=$?
  if [ "$got" -eq "$code" ] && grep -qF -- "$text" "$work/log"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAIL: $*"; echo "  exit $got, wanted $code and '$text' in:"; sed 's/^/    /' "$work/log" | head -12
  fi
}

quick=(logging.console=line logging.interval=1 run.output_dir="$work/run")
delay=$examples/pipe4-delay.yaml tiny=$2/tests/specs/tiny-cnn.yaml

expect 0 'Usage: dml-train' "$train" --help
expect 0 'dml-train ' "$train" --version
expect 0 'pipeline_parallel_size' "$train" --keys
expect 2 'SPEC is missing' "$train"
expect 2 "No such file" "$train" "$work/absent.yaml"
expect 3 'one node for now' "$train" "$delay" --nnodes 2
expect 0 'schedule:' "$train" "$delay" --print-config
expect 2 "did you mean" "$train" "$delay" parallelism.schedul=gpipe
expect 2 "nearest is '1f1b'" "$train" "$delay" parallelism.schedule=1fb1
h100=$examples/hardware/h100-sxm.yaml
expect 0 'at most 49: parts' "$plan" "$examples/mlp24-wide.yaml" --world-size 4096 --hardware "$h100" --oracle
expect 0 'roofline of' "$plan" "$tiny" --world-size 2 --hardware "$examples/hardware/dgx-h100.yaml" --oracle --all
expect 2 'name a hardware file' "$plan" "$tiny" --world-size 4 --oracle
expect 2 'cannot open' "$plan" "$tiny" --hardware "$work/absent.yaml"
expect 2 '--world-size 0' "$plan" "$tiny" --world-size 0
expect 0 'costs:' "$train" "$delay" cluster.hardware=here --print-config
expect 2 'dml-train' "$train" --no-such-option
expect 0 'test accuracy' "$train" "$delay" --max-steps 2 "${quick[@]}"
expect 0 'weights' "$train" "$delay" --max-steps 1 "${quick[@]}" parallelism.pp=1 parallelism.split=auto
expect 4 'train-images-idx3-ubyte.gz' "$train" "$examples/mlp-fashion-mnist.yaml" data.path="$work" --max-steps 1 "${quick[@]}"
expect 3 'no GPU: ' "$train" "$examples/mlp-fashion-mnist.yaml" parallelism.backend=cuda --max-steps 1 "${quick[@]}"
expect 4 "$work/file" sh -c "touch '$work/file'; '$train' '$delay' --max-steps 1 run.output_dir='$work/file/run'"
expect 2 'would work' "$train" "$delay" --max-steps 1 "${quick[@]}" parallelism.dp=3
expect 2 'stages' "$train" "$delay" parallelism.pp=20 parallelism.split=auto "${quick[@]}"
expect 0 '27.3%' "$plan" "$delay"
expect 0 'SEND_F0.0' "$plan" "$delay" --text
expect 2 'allowed: sequential gpipe' "$plan" "$delay" parallelism.schedule=zz
expect 2 'a number from 10 to 10000' "$plan" "$delay" --width 99999999999

# what could be done about a lost worker
slip=$examples/slipstream-delay.yaml
expect 0 '> re-route, staggered' "$plan" "$slip" --fail stage=2,replica=1
expect 0 'without worker 3 (stage 1, replica 0), worker 7 (stage 2, replica 1)' "$plan" "$slip" --fail worker=7 --fail rank=3
expect 0 'before: 270.070 ms' "$plan" "$slip" --fail stage=2,replica=1 --draw text
expect 0 '<svg' "$plan" "$slip" --fail stage=2,replica=1 --draw svg
expect 0 'orange' sh -c "'$plan' '$slip' --fail worker=7 --draw '$work/fail.svg' >/dev/null && cat '$work/fail.svg'"
expect 2 'the plan has stages 0 to 3' "$plan" "$slip" --fail stage=4,replica=0
expect 2 'stage 2 has replicas 0 to 2, which are workers 6, 7, 8' "$plan" "$slip" --fail stage=2,replica=3
expect 2 'such as stage=2,replica=0' "$plan" "$slip" --fail stage=2
expect 2 'the plan has workers 0 to 11' "$plan" "$slip" --fail worker=12
expect 2 'such as stage=2,replica=1 or worker=7' "$plan" "$slip" --fail stage=2,worker=1
expect 2 'goes with --fail' "$plan" "$slip" --draw "$work/fail.svg"
expect 3 'cannot write' "$plan" "$slip" --fail worker=7 --draw "$work/absent/fail.svg"
expect 3 'cannot write to standard output' sh -c "'$plan' '$delay' 2>&1 >/dev/full"
expect 3 'cannot write to standard output' sh -c "'$train' '$delay' --print-config 2>&1 >/dev/full"
expect 0 'weights' sh -c "'$train' - --max-steps 1 ${quick[*]} <'$delay'"

# what is written is what is read, of replicas, too
replicas=("$tiny" parallelism.pp=2 parallelism.dp=2 parallelism.schedule=zb_h1)
"$plan" "${replicas[@]}" --export csv >"$work/order.csv"
"$plan" "${replicas[@]}" --text >"$work/program"
expect 0 'same' sh -c "'$plan' $(printf "'%s' " "${replicas[@]}") parallelism.schedule='csv:$work/order.csv' --text | cmp - '$work/program' && echo same"

# stages that name their workers, in processes: the plan, and in exact mode the bits of one worker
placed=$examples/placed-delay.yaml
expect 0 '0        0,2                360.000' "$plan" "$placed"
expect 2 'parallelism.stages takes schedule auto' "$plan" "$placed" parallelism.schedule=zb_h1
expect 2 'keep one' "$train" "$placed" parallelism.pp=3
stages='parallelism.stages=[{workers: [0, 1]}, {workers: [2]}, {workers: [0, 3], shares: [1, 3]}]'
"$train" "$tiny" "${quick[@]}" >"$work/log" 2>&1 </dev/null
bits=$(grep '^  weights ' "$work/log")
expect 0 "${bits:-no weights}" "$train" "$tiny" "${quick[@]}" "$stages" parallelism.schedule=auto

# the loss is always on the leader's console, and never behind a carriage return when this is no terminal
"$train" "$delay" --max-steps 2 "${quick[@]}" logging.console=auto >"$work/out" 2>"$work/err" </dev/null
if grep -q 'step 2/2 | loss ' "$work/err" && ! grep -q $'\r' "$work/err" && [ ! -s "$work/out" ]; then
  passed=$((passed + 1))
else
  failed=$((failed + 1)); echo "FAIL: console"; head "$work/err"
fi

# what ran, as trace events and as pictures; mistakes are told before anything runs
short=("$2/tests/specs/trace.yaml" "${quick[@]}") # 2 workers of 13 and 14 ops and what begins a step
expect 0 'steps 3-4 in' "$train" "${short[@]}" --trace "$work/t.json" --trace-steps 3-9
expect 0 '2 workers, steps 3-4, ' "$trace_check" "$work/t.json"
expect 0 ' steps and ops as they ran, 0 of them not done, ' "$trace_check" "$work/t.json"
expect 0 'steps 2-4 in' "$train" "${short[@]}" --trace "$work/t.json" --trace-steps auto
expect 0 'steps 1-1 in' "$train" "${short[@]}" --trace "$work/t.json" --trace-steps auto --max-steps 1
expect 0 'drawing      step 4 in' "$train" "${short[@]}" --draw "$work/t.svg" --trace-steps 4 logging.trace="$work/u.json"
expect 0 'step 4 as it ran: ' grep '</svg>\|as it ran' "$work/t.svg"
expect 0 'drawing      step ' "$train" "${short[@]}" --draw "$work/t.txt" logging.trace="$work/u.json"
expect 0 'F forward, B backward' cat "$work/t.txt"
expect 2 "expected steps such as 3-5, got text '3..5'" "$train" "${short[@]}" --trace "$work/t.json" --trace-steps 3..5
expect 2 "no step is in 5-3; 3-5 has 3" "$train" "${short[@]}" --trace "$work/t.json" --trace-steps 5-3
expect 2 'the run has 4, trace_steps begins at 5' "$train" "${short[@]}" --trace "$work/t.json" --trace-steps 5-8
expect 2 "ends in .svg, for a picture, or .txt, for text" "$train" "${short[@]}" --draw "$work/t.png"
expect 2 "'trace' has no value" "$train" "${short[@]}" --trace ''
expect 4 "cannot write '$work/absent/t.json': No such file or directory" "$train" "${short[@]}" --trace "$work/absent/t.json"
expect 4 "cannot write '/dev/full': No space left on device" "$train" "${short[@]}" --trace /dev/full

# asynchronous schedules: the plan says what they are; in processes, one stage is late by nothing and 2BW by one update
once=(training.global_batch_size=4 parallelism.schedule=pipedream)
expect 0 'asynchronous, not gradient-equivalent; drains after at most 8 steps' "$plan" "$delay" "${once[@]}" parallelism.drain_interval=8
expect 0 'step: 41.250 ms, of a segment of 8: 330.000 ms' "$plan" "$delay" "${once[@]}" parallelism.drain_interval=8
expect 0 'updates late 3 2 1 0; versions of the weights 4 3 2 1' "$train" "$delay" "${once[@]}" --max-steps 6 "${quick[@]}"
expect 2 'micro_batch_size x data_parallel_size = 4' "$train" "$delay" "${quick[@]}" parallelism.schedule=pipedream
late=("$tiny" "${quick[@]}" parallelism.schedule=2bw training.numerics=exact_wide)
"$train" "${late[@]}" >"$work/log" 2>&1 </dev/null
bits=$(grep '^  weights ' "$work/log")
expect 0 "${bits:-no weights}" "$train" "${late[@]}" parallelism.pp=3 parallelism.dp=2

# every worker's bubble: planned from the delays, predicted from the run's own times, measured
"$train" "$delay" --max-steps 2 "${quick[@]}" >"$work/log" 2>&1 </dev/null
if [ "$(grep -cE '^ +[0-3] +[0-3]\.0 +330\.0 +27\.3% +[0-9.]+ +[0-9.]+% +[1-4] +[0-9.]+ +[0-9.]+% ' "$work/log")" -eq 4 ] &&
  [ "$(grep -c '"type":"worker".*"planned_bubble_ratio":0.27.*"bubble_ratio":0.' "$work/run/metrics.jsonl")" -ge 4 ]; then
  passed=$((passed + 1))
else
  failed=$((failed + 1)); echo "FAIL: bubble per worker"; tail -15 "$work/log"
fi

# metrics.jsonl is one JSON object a line
if [ "$(grep -c '^{"v":1,"type":"[a-z_]*",.*}$' "$work/run/metrics.jsonl")" -eq "$(wc -l <"$work/run/metrics.jsonl")" ]; then
  passed=$((passed + 1))
else
  failed=$((failed + 1)); echo "FAIL: metrics.jsonl"; head -3 "$work/run/metrics.jsonl"
fi

# a stop is a clean end: the step is finished, the summary printed, 128 + 15
"$train" "$delay" "${quick[@]}" >"$work/log" 2>&1 </dev/null &
run=$!
for _ in $(seq 100); do grep -q '^step 1/' "$work/log" && break; sleep 0.05; done
kill -TERM $run
wait $run
if [ $? -eq 143 ] && grep -q 'stopped' "$work/log" && grep -q 'weights' "$work/log"; then
  passed=$((passed + 1))
else
  failed=$((failed + 1)); echo "FAIL: SIGTERM"; tail -5 "$work/log"
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
