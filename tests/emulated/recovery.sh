#!/usr/bin/env bash
# Workers as processes on emulated GPUs; one of them is lost, in one of many ways, and the others go on: the weights are
# those of the run that nobody left, and who was healthy is the same process as before.
#   recovery.sh DML_TRAIN MODULE STAND_INS SPEC LONG_SPEC
set -euo pipefail
train=$1 spec=$4 long=$5
export DML_CUDA_MODULE=$2 LD_LIBRARY_PATH=$3${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "$*"; cat "$dir/log"; exit 1; }
weights() { sed -n 's/^ *weights *//p' "$dir/log"; }

# run LAYOUT OVERRIDE...: LAYOUT is stages x replicas
run() {
  local layout=$1
  shift
  rm -rf "$dir/out"
  timeout 60 "$train" "$spec" training.numerics=exact training.max_steps=12 parallelism.timeout=10s \
    parallelism.pipeline_parallel_size="${layout%x*}" parallelism.data_parallel_size="${layout#*x}" \
    failures.policy=replan run.output_dir="$dir/out" logging.console=line logging.jsonl=true "$@" >"$dir/log" 2>&1
}

# same NAME: the run has recovered, and came to the same weights
same() {
  grep -q '^recovered in' "$dir/log" || fail "$1: nothing was recovered from"
  grep -q 'same bits' "$dir/log" || fail "$1: not the same bits"
  [ "$(weights)" = "$undisturbed" ] || fail "$1: weights $(weights), undisturbed $undisturbed"
}

run 2x2 || fail "the undisturbed run failed"
undisturbed=$(weights)
[ -n "$undisturbed" ] || fail "no weights"

for point in vote.before vote.after commit; do
  for where in "1x2 1" "2x2 0" "2x2 3"; do
    set -- $where
    export DML_FAILPOINTS="worker.$point@rank=$2,hit=5:kill"
    run "$1" || fail "$1, rank $2 killed at $point: exit code $?"
    same "$1, rank $2 killed at $point"
  done
done
unset DML_FAILPOINTS

for fault in gpu_error gpu_hang; do
  for where in "1x2 1" "2x2 2"; do
    set -- $where
    run "$1" --inject "$fault@step=5,rank=$2" || fail "$1, $fault on rank $2: exit code $?"
    same "$1, $fault on rank $2"
    [ $fault != gpu_error ] || grep -q 'traps (cudaErrorLaunchFailure)' "$dir/log" || fail "$fault: the device's words are lost"
  done
done

# The driver says that device 3 is gone, while the run goes on.
export NVML_STAND_IN=$dir/xid
: >"$NVML_STAND_IN"
rm -rf "$dir/out"
"$train" "$long" training.max_steps=800 parallelism.timeout=10s failures.policy=replan run.output_dir="$dir/out" logging.console=line \
  logging.interval=1 >"$dir/log" 2>&1 &
pid=$!
workers() { pgrep -P $pid dml-worker | sort; }
steps() { cat "$dir/out/metrics.jsonl" 2>/dev/null | grep -c '"type":"step"' || true; }
for _ in $(seq 300); do [ "$(steps)" -lt 5 ] || break; sleep 0.1; done
before=$(workers)
echo 'ffff:03:00.0 79' >>"$NVML_STAND_IN"
for _ in $(seq 300); do ! grep -q '^recovered in' "$dir/log" || break; sleep 0.1; done
after=$(workers)
wait $pid || fail "Xid 79: exit code $?"
grep -q 'Xid 79 of device 3 (ffff:03:00.0): the GPU has fallen off the bus' "$dir/log" || fail "Xid 79 was not named"
[ "$(wc -w <<<"$before")" -eq 4 ] || fail "workers: $before"
[ "$(comm -12 <(echo "$before") <(echo "$after") | wc -l)" -eq 3 ] || fail "of $before are left: $after"

echo "kills at 3 points, gpu_error, gpu_hang, Xid 79: recovered, the same bits, the same processes"
