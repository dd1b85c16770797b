#!/usr/bin/env bash
# Real processes of VGG-8 and ResNet-20 are killed at random, under every synchronous schedule: do bits change?
#
#   bench/kills.sh [TRIALS [SEED [RESULT.json]]]       runs for each row (10); 2 models x 16 rows
#
# Each row is one `dml-bench recovery`: an undisturbed run, then TRIALS runs in which workers kill themselves with SIGKILL at
# a step, a phase and a rank drawn from SEED.  `two`: two ranks in one run, of stages with three replicas; `back`: the lost
# one is started again and joins.  In exact mode losses of all steps, and weights, are those of the undisturbed run; a
# history of 0 lost and 0 repeated samples follows, for a loss is a sum over the step's samples.
source "$(dirname "$0")/lib.sh"
bench=${DML_BENCH:-$root/build/dml-bench}
trials=${1:-10}
seed=${2:-1}
result=${3:-/dev/null}
rows=''
wrong=0

row() { # name, dml-bench's options, overrides...
  local name=$1 options=$2 model text line
  shift 2
  for model in vgg8 resnet20; do
    "$bench" recovery "$root/tests/specs/recovery-$model.yaml" -n "$trials" -s "$seed" $options -J "$out/row.json" \
      training.max_steps=10 "$@" >"$out/row.log" 2>&1 || { wrong=$((wrong + 1)); cat "$out/row.log" >&2; }
    text=$(sed -n 's/^kill: //p' "$out/row.log")
    line=$(awk '$1 == "all" {printf "fault to next step p50 %s, max %s ms", $2, $4}' "$out/row.log")
    printf '%-24s %-9s %s; %s\n' "$name" "$model" "$text" "$line"
    rows="$rows${rows:+,}
  {\"run\":\"$name\",\"model\":\"$model\",\"result\":$(cat "$out/row.json")}"
    seed=$((seed + 1))
  done
}

layout() { echo "parallelism.pipeline_parallel_size=$1 parallelism.data_parallel_size=$2 parallelism.schedule=$3"; }

for schedule in gpipe gpipe_reverse 1f1b eager_1f1b zb_h1 zb_h2 auto; do
  row "$schedule 2x2" '' $(layout 2 2 "$schedule")
done
for schedule in interleaved_1f1b looped_bfs interleaved_zb; do
  row "$schedule 2x2, 2 each" '' $(layout 2 2 "$schedule") parallelism.virtual_pipeline_stages=2
done
for schedule in chimera chimera_doubling; do
  row "$schedule 2x1" '' $(layout 2 1 "$schedule")
done
row '1f1b 2x3, two' '-k 2' $(layout 2 3 1f1b)
row 'zb_h1 2x3, two' '-k 2' $(layout 2 3 zb_h1)
row '1f1b 2x2, back' '' $(layout 2 2 1f1b) failures.respawn=on failures.respawn_delay=0s
row '1f1b 2x3, two, back' '-k 2' $(layout 2 3 1f1b) failures.respawn=on failures.respawn_delay=0s
printf '{"environment":%s,\n "trials":%d,"rows":[%s\n]}\n' "$(environment "bench/kills.sh $trials")" "$trials" "$rows" >"$result"
[ "$wrong" -eq 0 ] || { echo "$wrong rows with other bits, or a run that did not go on" >&2; exit 1; }
