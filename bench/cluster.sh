#!/usr/bin/env bash
# Unequal clusters, emulated: what the planner makes of speeds and levels of links against what a run takes.
#
#   bench/cluster.sh [TRIALS [RESULT.json]]
#
# pair     two stages, one worker four times slower: the equal cut against the one planned from the speeds
# levels   layouts over two levels of links: the planned step over the measured one
# exposed  exposed communication against alpha-beta: a pipeline of two, and replicas that reduce after their backward
source "$(dirname "$0")/lib.sh"
trials=${1:-3}
result=${2:-/dev/null}
rows='' figure=''

# measure FIELD SPEC OVERRIDE...: its median over the trials
measure() {
  local name=$1 all=''
  shift
  for _ in $(seq "$trials"); do
    run "$@" training.eval_interval=0
    all="$all $(field "$name")"
  done
  figure=$(tr ' ' '\n' <<<"$all" | sed '/^$/d' | median)
}

row() { # NAME MEASURED EXPECTED RATIO
  printf '%-34s measured %9.3f ms  expected %9.3f ms  ratio %.3f\n' "$1" \
    "$(awk "BEGIN {print $2 * 1000}")" "$(awk "BEGIN {print $3 * 1000}")" "$4"
  rows="$rows${rows:+,}
  {\"run\":\"$1\",\"measured_s\":$2,\"expected_s\":$3,\"ratio\":$4}"
}

over() { awk "BEGIN {printf \"%.4f\", $1 / $2}"; }

spec=$root/examples/pipe4-delay.yaml
layer='{delay: {forward: 4ms, input: 4ms, weight: 4ms}}'
ten="model.layers=[$layer, $layer, $layer, $layer, $layer, $layer, $layer, $layer, $layer, $layer, {linear: 10}]"
planned() { grep -m 1 -o '"planned_step_time_s":[^,]*' "$out/run/metrics.jsonl" | tail -n 1 | cut -d: -f2; }

pair=(parallelism.pipeline_parallel_size=2 training.max_steps=5 'cluster.speed=[1, 0.25]' "$ten")
measure step_time_median_s "$spec" "${pair[@]}" 'parallelism.split=[5, 6]'
equal=$figure
row 'pair, equal cut' "$equal" "$(planned)" "$(over "$(planned)" "$equal")"
measure step_time_median_s "$spec" "${pair[@]}" parallelism.split=auto
cut=$figure
row 'pair, planned cut' "$cut" "$(planned)" "$(over "$(planned)" "$cut")"
printf '4:1 pair: the planned cut is %s times as fast as the equal one\n' "$(over "$equal" "$cut")"

levels='cluster.links=[{workers: 2, latency: 1ms, bandwidth: 10MB/s}, {latency: 8ms, bandwidth: 1MB/s}]'
four=(training.max_steps=8 "$levels" 'cluster.speed=[1, 1, 0.5, 0.5]')
for layout in '4 1 1f1b [1, 1, 1, 2]' '2 2 1f1b [2, 3]' '1 4 gpipe [5]' '4 1 zb_h1 [1, 1, 1, 2]'; do
  read -r pp dp schedule split <<<"$layout"
  measure step_time_median_s "$spec" "${four[@]}" parallelism.pipeline_parallel_size="$pp" \
    parallelism.data_parallel_size="$dp" parallelism.schedule="$schedule" "parallelism.split=$split"
  row "levels, $pp x $dp $schedule" "$figure" "$(planned)" "$(over "$(planned)" "$figure")"
done

# Two stages, gpipe, 8 micro-batches, F = 20 ms: a transfer of t is exposed once each way; above F each further forward
# waits t - F, above B each further gradient t - B.  The mean of both workers.
two=(parallelism.pipeline_parallel_size=2 parallelism.schedule=gpipe 'parallelism.split=[2, 3]' training.max_steps=6)
for t in 5 15 30; do
  measure exposed_comm_s "$spec" "${two[@]}" parallelism.link.latency="${t}ms"
  expected=$(awk "BEGIN {m = $t > 20 ? 7 * ($t - 20) : 0; print ($t + m + $t) / 2000}")
  row "exposed, 2 x 1, link ${t} ms" "$figure" "$expected" "$(over "$figure" "$expected")"
done

# 500 x 500 floats and a bias reduced after the last backward by two calls (sums of the loss, gradients), and the 10
# outputs: bytes = 4 (500 500 + 500 + 500 10 + 10).
wide='model.layers=[{delay: {forward: 10ms, input: 10ms, weight: 10ms}}, {linear: 500}, {linear: 10}]'
for n in 2 4; do
  measure exposed_comm_s "$spec" "$wide" 'model.input=[500]' parallelism.split=auto \
    parallelism.pipeline_parallel_size=1 parallelism.data_parallel_size="$n" parallelism.schedule=gpipe \
    comm.overlap=false parallelism.link.latency=1ms parallelism.link.bandwidth=20MB/s training.max_steps=6
  expected=$(awk "BEGIN {print 2 * ($n - 1) * (4 * 255510 / $n / 20e6 + 2 * 0.001)}")
  row "exposed, 1 x $n, ring" "$figure" "$expected" "$(over "$figure" "$expected")"
done

printf '{"environment":%s,\n "trials":%d,"pair_speedup":%s,"runs":[%s\n]}\n' \
  "$(environment "bench/cluster.sh $trials")" "$trials" "$(over "$equal" "$cut")" "$rows" >"$result"
