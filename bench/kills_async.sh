#!/usr/bin/env bash
# Real processes of VGG-8 are killed at random under the asynchronous schedules, replicas included: are updates others?
#
#   bench/kills_async.sh [TRIALS [SEED [RESULT.json]]]       runs for each row (25); 2 schedules x 2 layouts
#
# As bench/kills.sh.  The undisturbed run is that of the delayed recurrence with the same drains (tests/engine/test_async.c); a run
# that loses a worker returns to the version of the drain before, so it has to have the same losses and weights, bit for bit.
source "$(dirname "$0")/lib.sh"
bench=${DML_BENCH:-$root/build/dml-bench}
trials=${1:-25}
seed=${2:-1}
result=${3:-/dev/null}
rows=''
wrong=0

row() { # name, overrides...
  local name=$1 text line
  shift
  "$bench" recovery "$root/tests/specs/recovery-vgg8.yaml" -n "$trials" -s "$seed" -J "$out/row.json" training.numerics=exact_wide \
    training.max_steps=20 parallelism.drain_interval=6 "$@" >"$out/row.log" 2>&1 || { wrong=$((wrong + 1)); cat "$out/row.log" >&2; }
  text=$(sed -n 's/^kill: //p' "$out/row.log")
  line=$(awk '$1 == "all" {printf "fault to next step p50 %s, max %s ms", $2, $4}' "$out/row.log")
  printf '%-24s %s; %s\n' "$name" "$text" "$line"
  rows="$rows${rows:+,}
  {\"run\":\"$name\",\"model\":\"vgg8\",\"result\":$(cat "$out/row.json")}"
  seed=$((seed + 1))
}

layout() { echo "parallelism.pipeline_parallel_size=$1 parallelism.data_parallel_size=$2 parallelism.schedule=$3 training.global_batch_size=$4"; }

row 'pipedream 2x2' $(layout 2 2 pipedream 4)
row 'pipedream 2x3' $(layout 2 3 pipedream 6)
row '2bw 2x2' $(layout 2 2 pipedream_2bw 8)
row '2bw 2x3' $(layout 2 3 pipedream_2bw 12)
printf '{"environment":%s,\n "trials":%d,"rows":[%s\n]}\n' "$(environment "bench/kills_async.sh $trials")" "$trials" "$rows" >"$result"
[ "$wrong" -eq 0 ] || { echo "$wrong rows with other bits, or a run that did not go on" >&2; exit 1; }
