#!/usr/bin/env bash
# Gradients reduced bucket by bucket under the last backward, on emulated links between two workers.
#
#   bench/overlap.sh [TRIALS [RESULT.json]]
#
#   overlap   100 ms of backward (20 layers, each a delay of 5 ms and a matrix), 100 MB of gradients at 1 GB/s:
#             comm.overlap on against off
#   buckets   1,000 matrices of 0.1 MB at 1 GB/s and 100 us: buckets of 1 and 25 MiB against a call for each
#
# "tenth" is the same with a tenth of the bytes at a tenth of the bandwidth, buckets too: the same times on the
# emulated links, without the memory traffic of 100 MB of gradients on the cores that both workers share.
# Prints medians of runs in turn, what the simulator says of the plan (nothing but delays and links) and of the
# run's own op times.
source "$(dirname "$0")/lib.sh"
trials=${1:-5}
result=${2:-/dev/null}
plan=${DML_PLAN:-${train%dml-train}dml-plan}

# spec NAME WIDTH LAYERS DELAY BANDWIDTH LATENCY: a file of LAYERS square matrices, each above its delay
spec() {
  {
    printf 'version: 1\nrun: {name: %s, seed: 7}\n' "$1"
    printf 'model:\n  type: layers\n  input: [%d]\n  classes: %d\n  layers:\n' "$2" "$2"
    for _ in $(seq "$3"); do
      [ "$4" = 0ms ] || printf '    - delay: {input: %s, weight: %s}\n' "$4" "$4"
      printf '    - linear: {out: %d, bias: false}\n' "$2"
    done
    printf 'data: {format: synthetic, samples: 2000, test_samples: 2}\n'
    printf 'training: {max_steps: 8, global_batch_size: 2, micro_batch_size: 1}\n'
    printf 'optimizer: {name: sgd, lr: 0.0001, momentum: 0}\n'
    printf 'parallelism: {backend: cpu, schedule: 1f1b, data_parallel_size: 2, threads_per_worker: 1,\n'
    printf '              link: {bandwidth: %s, latency: %s}}\n' "$5" "$6"
  } >"$out/$1.yaml"
}

predict() { "$plan" "$@" | sed -n 's/^step: \([0-9.]*\) ms.*/\1/p'; }

# one NAME OVERRIDE...: a run; appends its step time to $out/NAME.s, the simulator's of it to $out/NAME.p
one() {
  local name=$1
  shift
  run "$@"
  field step_time_median_s >>"$out/$name.s"
  field predicted_step_time_s >>"$out/$name.p"
}

rows=''
# compare CASE SPEC "OVERRIDES" "OVERRIDES": the first against the second
compare() {
  local name=$1 file=$out/$2.yaml a b ms
  read -ra a <<<"$3"
  read -ra b <<<"$4"
  rm -f "$out"/{first,second}.{s,p}
  for _ in $(seq "$trials"); do
    one first "$file" "${a[@]}"
    one second "$file" "${b[@]}"
  done
  ms=("$(median <"$out/first.s")" "$(median <"$out/second.s")" "$(median <"$out/first.p")" "$(median <"$out/second.p")"
    "$(predict "$file" "${a[@]}")" "$(predict "$file" "${b[@]}")")
  local ratios
  ratios=$(paste "$out/first.s" "$out/second.s" | awk '{printf "%s%.3f", s, $2 / $1; s = ","}')
  awk -v n="$name" -v a="${ms[0]}" -v b="${ms[1]}" -v p="${ms[2]}" -v q="${ms[3]}" -v r="${ms[4]}" -v s="${ms[5]}" 'BEGIN {
    printf "%-15s %6.1f ms against %6.1f ms: %.2fx   simulated from its op times %.2fx, from the plan alone %.2fx (%.1f, %.1f ms)\n",
      n, a * 1e3, b * 1e3, b / a, q / p, s / r, r, s }'
  rows="$rows${rows:+,}
  {\"case\":\"$name\",\"step_s\":${ms[0]},\"against_s\":${ms[1]},\"speedup\":$(awk "BEGIN {printf \"%.3f\", ${ms[1]} / ${ms[0]}}"),\"speedups\":[$ratios],\"simulated_step_s\":${ms[2]},\"simulated_against_s\":${ms[3]},\"planned_step_ms\":${ms[4]},\"planned_against_ms\":${ms[5]}}"
}

full='comm.first_bucket_bytes=1MiB comm.bucket_bytes=25MiB'
tenth='comm.first_bucket_bytes=100KiB comm.bucket_bytes=2500KiB'
each='comm.first_bucket_bytes=1 comm.bucket_bytes=1'
spec overlap 1118 20 2.5ms 1GB/s 0s
spec overlap-tenth 354 20 2.5ms 100MB/s 0s
spec buckets 158 1000 0ms 1GB/s 100us
spec buckets-tenth 50 1000 0ms 100MB/s 100us
compare overlap overlap "$full" comm.overlap=false
compare overlap-tenth overlap-tenth "$tenth" comm.overlap=false
compare buckets buckets "$full" "$each"
compare buckets-tenth buckets-tenth "$tenth" "$each"
printf '{"environment":%s,\n "label":"emulated","trials":%d,"runs":[%s\n]}\n' \
  "$(environment "bench/overlap.sh $trials")" "$trials" "$rows" >"$result"
