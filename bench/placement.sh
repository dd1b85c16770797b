#!/usr/bin/env bash
# A placement with unequal stages against the layouts that it should beat: examples/vgg-like-slow-link.yaml on four workers.
#
#   bench/placement.sh [TRIALS [RESULT.json]]
#
# Rows: the placed stages, data parallelism, straight pipelines of 4 and 3 stages, two by two; all under `auto`, the order
# with the shortest simulated step, the pipelines under 1f1b, too.  Prints the measured step (median over runs of the
# median over steps), what was predicted, and how many times as long as the placed one it is.
source "$(dirname "$0")/lib.sh"
trials=${1:-3}
result=${2:-/dev/null}
rows='' placed=''

row() { # name, overrides...
  local name=$1 measured='' p=''
  shift
  for _ in $(seq "$trials"); do
    run "$root/examples/vgg-like-slow-link.yaml" training.max_steps=6 "$@"
    measured="$measured $(field step_time_median_s)"
    p=$(sed -nE 's/.*"planned_step_time_s":([0-9.e-]+).*/\1/p' "$out/run/metrics.jsonl" | tail -n 1)
    [ -n "$p" ] || p=$(field predicted_step_time_s)
  done
  m=$(tr ' ' '\n' <<<"$measured" | sed '/^$/d' | median)
  placed=${placed:-$m}
  printf '%-24s step %7.1f ms  predicted %7.1f ms (ratio %.3f)  %.2f x the placed one\n' "$name" \
    "$(awk "BEGIN {print $m * 1000}")" "$(awk "BEGIN {print $p * 1000}")" \
    "$(awk "BEGIN {print $p / $m}")" "$(awk "BEGIN {print $m / $placed}")"
  rows="$rows${rows:+,}
  {\"run\":\"$name\",\"step_time_median_s\":$m,\"predicted_step_time_s\":$p,\"over_placed\":$(awk "BEGIN {printf \"%.3f\", $m / $placed}")}"
}

equal=('parallelism.stages=[]' parallelism.split=auto)
row 'placed, 3 + 1'
row 'data parallel, 4' "${equal[@]}" parallelism.pp=1 parallelism.dp=4
row 'pipeline, 4' "${equal[@]}" parallelism.pp=4
row 'pipeline, 4, 1f1b' "${equal[@]}" parallelism.pp=4 parallelism.schedule=1f1b
row 'pipeline, 3' "${equal[@]}" parallelism.pp=3
row 'two by two' "${equal[@]}" parallelism.pp=2 parallelism.dp=2
printf '{"environment":%s,\n "trials":%d,"runs":[%s\n]}\n' "$(environment "bench/placement.sh $trials")" "$trials" "$rows" >"$result"
