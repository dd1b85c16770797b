#!/usr/bin/env bash
# The price of exact mode: VGG-8 at 2 stages x 2 replicas, fast and exact in turn, median of their ratios.
#
#   bench/exact_cost.sh [PAIRS [RESULT.json]]
source "$(dirname "$0")/lib.sh"
pairs=${1:-7}
result=${2:-/dev/null}
ratios='' fasts='' exacts=''
for i in $(seq "$pairs"); do
  # the one that goes first changes each time
  [ $((i % 2)) -eq 1 ] && order='fast exact' || order='exact fast'
  for numerics in $order; do
    run "$root/examples/vgg8-fashion-mnist.yaml" training.numerics="$numerics" training.max_steps=20 \
      training.eval_interval=0 parallelism.pipeline_parallel_size=2 parallelism.data_parallel_size=2 \
      parallelism.threads_per_worker=1
    printf -v "$numerics" %s "$(field step_time_median_s)"
  done
  # shellcheck disable=SC2154
  ratio=$(awk "BEGIN {print $exact / $fast}")
  printf 'pair %d: fast %.1f ms, exact %.1f ms, ratio %.3f\n' "$i" "$(awk "BEGIN {print $fast * 1000}")" \
    "$(awk "BEGIN {print $exact * 1000}")" "$ratio"
  ratios="$ratios $ratio" fasts="$fasts $fast" exacts="$exacts $exact"
done
list() { tr ' ' '\n' <<<"$1" | sed '/^$/d'; }
printf 'median ratio %s of %d pairs\n' "$(list "$ratios" | median)" "$pairs"
printf '{"environment":%s,\n "pairs":%d,"ratio_median":%s,"ratios":[%s],"fast_step_s":[%s],"exact_step_s":[%s]}\n' \
  "$(environment "bench/exact_cost.sh $pairs")" "$pairs" "$(list "$ratios" | median)" \
  "$(list "$ratios" | paste -sd,)" "$(list "$fasts" | paste -sd,)" "$(list "$exacts" | paste -sd,)" >"$result"
