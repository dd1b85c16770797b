#!/usr/bin/env bash
# The roofline of this host, calibrated on the spot (cluster.hardware: here), against measured steps of one worker.
#
#   bench/roofline.sh [TRIALS [RESULT.json]]
#
# Calibration and run in turn, since two virtual cores share a physical one now and then.  A step is planned from
# nothing but shapes and four measured rates.
source "$(dirname "$0")/lib.sh"
trials=${1:-5}
result=${2:-/dev/null}
plan=${DML_PLAN:-${train%dml-train}dml-plan}

# one NAME SPEC OVERRIDE...: appends to $out/NAME.planned and $out/NAME.measured, in ms
one() {
  local name=$1 spec=$root/examples/$2
  shift 2
  set -- parallelism.pp=1 parallelism.dp=1 parallelism.backend=cpu parallelism.threads_per_worker=1 \
    training.eval_interval=0 "$@"
  "$plan" "$spec" "$@" cluster.hardware=here | sed -n 's/^step: \([0-9.]*\) ms.*/\1/p' >>"$out/$name.planned"
  run "$spec" "$@"
  field step_time_median_s | awk '{print 1e3 * $1}' >>"$out/$name.measured"
}

rows=
for ((trial = 0; trial < trials; trial++)); do
  one mlp mlp-fashion-mnist.yaml training.micro_batch_size=128 training.global_batch_size=128 training.max_steps=60
  one mlp-small mlp-fashion-mnist.yaml training.micro_batch_size=8 training.global_batch_size=128 training.max_steps=30
  one vgg8 vgg8-fashion-mnist.yaml training.micro_batch_size=64 training.global_batch_size=64 training.max_steps=12
  one resnet20 resnet20-fashion-mnist.yaml training.micro_batch_size=64 training.global_batch_size=64 training.max_steps=12
done
printf '%-10s %12s %12s %10s\n' model 'planned ms' 'measured ms' 'error'
for name in mlp mlp-small vgg8 resnet20; do
  p=$(median <"$out/$name.planned") m=$(median <"$out/$name.measured")
  printf '%-10s %12.3f %12.3f %9.1f%%\n' "$name" "$p" "$m" "$(awk -v p="$p" -v m="$m" 'BEGIN {print 100 * (p / m - 1)}')"
  rows+=$(printf '%s{"model":"%s","planned_ms":%s,"measured_ms":%s}' "${rows:+,}" "$name" "$p" "$m")
done
printf '{"program":"bench/roofline.sh","environment":%s,"trials":%d,"results":[%s]}\n' \
  "$(environment "bench/roofline.sh $trials")" "$trials" "$rows" >"$result"
