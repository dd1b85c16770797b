#!/usr/bin/env bash
# Workers are killed in the middle of a run: the steps after it, measured against what the plan predicts, and the bound.
#
#   bench/lost.sh [TRIALS [RESULT.json]]
#
# examples/pipe4-delay.yaml, F = I = W = 10 ms, under failures.policy replan; each rank is killed in step 6.  Step times
# are medians of the steps under the first plan, but for the first, and under the last, but for its first.  The
# prediction is that of `dml-plan --lost`; `bound` is x M <= (D - x)(P - 1): whether the pipeline's idle time could take
# the lost work up at all (engine/replan.h).  The row `re-cut` loses a stage's only holder: the model is cut anew.
source "$(dirname "$0")/lib.sh"
plan=${DML_PLAN:-$root/build/dml-plan}
trials=${1:-1}
result=${2:-/dev/null}
spec=$root/examples/pipe4-delay.yaml
rows=''

steps_of() { # generation: its steps' times but for the first
  grep -F '"type":"step"' "$out/run/metrics.jsonl" | grep -F "\"generation\":$1," | tail -n +2 |
    grep -oE '"step_time_s":[^,}]*' | cut -d: -f2
}

row() { # name, ranks lost, overrides...
  local name=$1 lost=$2 text before after b='' a='' bound=true repair r kills=() last
  shift 2
  text=$("$plan" "$spec" "$@" --lost "$lost")
  read -r before after < <(awk '/^step ms/ {print $3, $4}' <<<"$text")
  repair=$(sed -n 's/^repair: //p' <<<"$text")
  ! grep -qE ' no$' <<<"$text" || bound=false
  for r in ${lost//,/ }; do kills+=(--inject "kill@step=6,rank=$r"); done
  for _ in $(seq "$trials"); do
    run "$spec" training.max_steps=14 failures.policy=replan "${kills[@]}" "$@"
    last=$(grep -F '"type":"step"' "$out/run/metrics.jsonl" | tail -n 1 | grep -oE '"generation":[0-9]*' | cut -d: -f2)
    b="$b $(steps_of 0)" a="$a $(steps_of "$last")"
  done
  b=$(tr ' ' '\n' <<<"$b" | sed '/^$/d' | median)
  a=$(tr ' ' '\n' <<<"$a" | sed '/^$/d' | median)
  awk -v name="$name" -v lost="$lost" -v b="$b" -v a="$a" -v pb="$before" -v pa="$after" -v bound=$bound 'BEGIN {
    printf "%-20s without %-8s step %.1f -> %.1f ms, predicted %.1f -> %.1f: measured/predicted %.3f, %.3f; throughput %.3f (predicted %.3f), bound %s\n",
      name, lost, b * 1e3, a * 1e3, pb, pa, b * 1e3 / pb, a * 1e3 / pa, b / a, pb / pa, bound == "true" ? "holds" : "does not hold"}'
  rows="$rows${rows:+,}
  {\"run\":\"$name\",\"lost\":[$lost],\"repair\":\"$repair\",\"before_s\":$b,\"after_s\":$a,\"predicted_before_s\":$(awk "BEGIN {print $before / 1000}"),\"predicted_after_s\":$(awk "BEGIN {print $after / 1000}"),\"measured_over_predicted\":$(awk "BEGIN {print $a * 1000 / $after}"),\"throughput_ratio\":$(awk "BEGIN {print $b / $a}"),\"predicted_ratio\":$(awk "BEGIN {print $before / $after}"),\"bound_holds\":$bound}"
}

layout() { echo "parallelism.data_parallel_size=$1 training.micro_batch_size=1 training.global_batch_size=$2 parallelism.schedule=$3"; }

row '1f1b 4x3, 6' 7 $(layout 3 18 1f1b)
row '1f1b 4x3, 6' 1,4 $(layout 3 18 1f1b)
row '1f1b 4x3, 6' 1,4,7,10 $(layout 3 18 1f1b)
row '1f1b 4x3, 6' 6,7 $(layout 3 18 1f1b)
row '1f1b 4x2, 8' 3 $(layout 2 16 1f1b)
row 'gpipe 4x2, 8' 3 $(layout 2 16 gpipe)
row 'eager_1f1b 4x2, 8' 4 $(layout 2 16 eager_1f1b)
row 'zb_h1 4x3, 6' 7 $(layout 3 18 zb_h1)
row 'zb_h1 4x2, 8' 0,3 $(layout 2 16 zb_h1)
row 'chimera 4x2, 8' 1 $(layout 2 16 chimera)
row 'chimera 4x1, 8' 2 $(layout 1 8 chimera)
row 'auto 4x2, 8' 5 $(layout 2 16 auto)
row '2bw 4x2, 8' 3 $(layout 2 16 pipedream_2bw) parallelism.drain_interval=4
row 're-cut 4x1, 8' 2 $(layout 1 8 1f1b) failures.snapshot_interval=1
printf '{"environment":%s,\n "emulated":"delay layers","trials":%d,"runs":[%s\n]}\n' "$(environment "bench/lost.sh $trials")" "$trials" "$rows" >"$result"
