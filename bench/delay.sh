#!/usr/bin/env bash
# Schedules cost what theory says: four workers, 8 micro-batches, delay layers of F = I = W = 10 ms, B = 20 ms.
#
#   bench/delay.sh [TRIALS [RESULT.json]]
#
# The rows after sequential recompute (F = R = 10 ms): as ops, which run before the gradient comes, against a backward
# that takes R's time itself.
#
# Prints the measured step over the closed form in units of 10 ms (`dml-plan --compare` prints the same), the
# simulator's prediction from the run's own op times over the measured step, and the stash peaks counted while
# running.  With two stages on each rank a stage's ops take a unit each, so a step has twice the work.  The rows
# `far` have 16 micro-batches and links of half a unit; `placed` is examples/placed-delay.yaml against its lower bound.
#
# Asynchronous schedules drain after K steps of M micro-batches, so a step takes 3 (K M + 3) / K units.  What is left when
# the drain's cost is taken out, from segments of two lengths, is the steady state: 3 units for each micro-batch, where
# 1F1B that is flushed after 8 takes 33 / 8.
source "$(dirname "$0")/lib.sh"
trials=${1:-3}
result=${2:-/dev/null}
rows=''

layer='{delay: {forward: 10ms, input: 10ms, weight: 10ms}}'
eight="[$layer, $layer, $layer, $layer, $layer, $layer, $layer, $layer, {linear: 10}]"
two=(parallelism.virtual_pipeline_stages=2 "model.layers=$eight" 'parallelism.split=[1, 1, 1, 1, 1, 1, 1, 2]')
far=(training.global_batch_size=64 parallelism.link.latency=5ms)

row() { # name, schedule, units, overrides...
  local name=$1 schedule=$2 units=$3 measured='' predicted='' m p stash
  shift 3
  for _ in $(seq "$trials"); do
    run "$root/examples/${spec:-pipe4-delay}.yaml" parallelism.schedule="$schedule" "$@"
    measured="$measured $(field step_time_median_s)"
    predicted="$predicted $(field predicted_step_time_s)"
  done
  m=$(tr ' ' '\n' <<<"$measured" | sed '/^$/d' | median)
  m_units=$(awk "BEGIN {print $m * 100}")
  p=$(tr ' ' '\n' <<<"$predicted" | sed '/^$/d' | median)
  stash=$(awk '/predicted +measured/ {f = 1; next} f && $1 ~ /^[0-9]+$/ {printf "%s%s", s, $10; s = ","}' "$out/log")
  printf '%-20s step %.1f ms = %.2f units (theory %s, ratio %.3f)  predicted/measured %.3f  stash peaks %s\n' \
    "$name" "$(awk "BEGIN {print $m * 1000}")" "$m_units" "$units" \
    "$(awk "BEGIN {print $m * 100 / $units}")" "$(awk "BEGIN {print $p / $m}")" "$stash"
  rows="$rows${rows:+,}
  {\"run\":\"$name\",\"schedule\":\"$schedule\",\"step_time_median_s\":$m,\"theory_units\":$units,\"unit_s\":0.01,\"predicted_step_time_s\":$p,\"stash_peaks\":[$stash]}"
}

row gpipe gpipe 33
row gpipe_reverse gpipe_reverse 33
row 1f1b 1f1b 33
flushed=$m_units
row eager_1f1b eager_1f1b 33
row zb_h1 zb_h1 27
row zb_h2 zb_h2 27
row chimera chimera 30
row chimera_doubling chimera_doubling 27
row '1f1b, 4' 1f1b 21 training.global_batch_size=16
row 'chimera, 4' chimera 16 training.global_batch_size=16
row 'interleaved_1f1b x2' interleaved_1f1b 57 "${two[@]}"
row 'looped_bfs x2' looped_bfs 57 "${two[@]}"
row 'interleaved_zb x2' interleaved_zb 51 "${two[@]}"
row sequential sequential 96
slow='{delay: {forward: 10ms, input: 20ms, weight: 10ms}}'
row '1f1b, R within B' 1f1b 44 "model.layers=[$slow, $slow, $slow, $slow, {linear: 10}]"
row '1f1b, full' 1f1b 41 parallelism.recompute=full
row '1f1b, except_last' 1f1b 40 parallelism.recompute=except_last
row 'gpipe, full' gpipe 41 parallelism.recompute=full
row '1f1b, far' 1f1b 71 "${far[@]}"
row 'eager_1f1b, far' eager_1f1b 60 "${far[@]}"
spec=placed-delay row placed auto 38.5
once=(training.global_batch_size=4 training.eval_interval=0)
row 'pipedream, 8' pipedream 4.125 "${once[@]}" parallelism.drain_interval=8 training.max_steps=40
short=$m_units
row 'pipedream, 128' pipedream 3.0703 "${once[@]}" parallelism.drain_interval=128 training.max_steps=256
long=$m_units
row 'pipedream_2bw, 16' pipedream_2bw 24.5625 parallelism.drain_interval=16 training.max_steps=48
awk "BEGIN {s = (128 * $long - 8 * $short) / 120
  printf \"pipedream in steady state: %.2f units a micro-batch (theory 3); flushed 1F1B at 8: %.3f of it (theory 1.375)\\n\", s, $flushed / 8 / s}"
printf '{"environment":%s,\n "trials":%d,"runs":[%s\n]}\n' "$(environment "bench/delay.sh $trials")" "$trials" "$rows" >"$result"
