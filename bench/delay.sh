#!/usr/bin/env bash
# Schedules cost what theory says: four stages of delay layers (F 10 ms, B 20 ms), 8 micro-batches.
#
#   bench/delay.sh [TRIALS [RESULT.json]]
#
# Prints measured step over the closed form (m + p - 1)(F + B) = 33 units, the simulator's prediction from the
# run's own op times over the measured step, and the stash peaks counted while running.
source "$(dirname "$0")/lib.sh"
trials=${1:-3}
result=${2:-/dev/null}
rows=''
for schedule in gpipe gpipe_reverse 1f1b sequential; do
  measured='' predicted=''
  for _ in $(seq "$trials"); do
    run "$root/examples/pipe4-delay.yaml" parallelism.schedule="$schedule"
    measured="$measured $(field step_time_median_s)"
    predicted="$predicted $(field predicted_step_time_s)"
  done
  m=$(tr ' ' '\n' <<<"$measured" | sed '/^$/d' | median)
  p=$(tr ' ' '\n' <<<"$predicted" | sed '/^$/d' | median)
  stash=$(awk '/predicted +measured/ {f = 1; next} f && $1 ~ /^[0-9]+$/ {printf "%s%s", s, $8; s = ","}' "$out/log")
  [ "$schedule" = sequential ] && units=96 || units=33
  printf '%-14s step %.1f ms = %.2f units (theory %d, ratio %.3f)  predicted/measured %.3f  stash peaks %s\n' \
    "$schedule" "$(awk "BEGIN {print $m * 1000}")" "$(awk "BEGIN {print $m * 100}")" "$units" \
    "$(awk "BEGIN {print $m * 100 / $units}")" "$(awk "BEGIN {print $p / $m}")" "$stash"
  rows="$rows${rows:+,}
  {\"schedule\":\"$schedule\",\"step_time_median_s\":$m,\"theory_units\":$units,\"unit_s\":0.01,\"predicted_step_time_s\":$p,\"stash_peaks\":[$stash]}"
done
printf '{"environment":%s,\n "trials":%d,"runs":[%s\n]}\n' "$(environment "bench/delay.sh $trials")" "$trials" "$rows" >"$result"
