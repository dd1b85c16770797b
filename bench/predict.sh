#!/usr/bin/env bash
# The plan's step, made before the run, against the measured one.
#
#   bench/predict.sh [TRIALS [RESULT.json]]
#
# real     MLP and VGG-8 on 1x1, 2x1 and 1x2 (stages x replicas), one thread a worker: a profile of as many workers at once as
#          the layout has (the default of dml-plan profile), then the layouts in turn, each trial anew.  Two virtual cores share a physical one now and then, which halves both:
#          a trial counts when two processes were as fast as one before it and after each of its runs, and is made again
#          when not, up to twice as often as there are trials.
# delay    layers that sleep, over emulated links: schedules, layouts, recomputation, latency, bandwidth; no profile.
#
# Accuracy is 1 - |planned - measured| / measured, of the medians of the trials.
source "$(dirname "$0")/lib.sh"
trials=${1:-5}
result=${2:-/dev/null}
plan=${DML_PLAN:-${train%dml-train}dml-plan}

spin() { awk 'BEGIN {for (i = 0; i < 2000000; i++) x += i}'; }
millis() { echo $(($(date +%s%N) / 1000000)); }
# two_cores: succeeds when two at once take at most 0.35 longer than one
two_cores() {
  local a b c
  a=$(millis); spin; b=$(millis)
  spin & spin; wait; c=$(millis)
  [ $((100 * (c - b))) -le $((135 * (b - a))) ]
}

# layouts NAME SPEC OVERRIDE...: one trial; appends to $out/NAME.LAYOUT.planned and .measured; fails when it does not count
layouts() {
  local name=$1 spec=$root/examples/$2 layout n
  shift 2
  set -- "$@" data.format=synthetic data.samples=4096 data.test_samples=64 data.pool=1024 training.eval_interval=0 \
    parallelism.backend=cpu parallelism.threads_per_worker=1 parallelism.dp=1 parallelism.pp=1
  two_cores || return 1
  for n in 1 2; do
    "$plan" profile "$spec" "$@" --workers $n --iterations 48 --rows "$rows" -o "$out/$name.$n.json" >"$out/log" 2>&1
  done
  two_cores || return 1
  for layout in 1x1 2x1 1x2; do
    n=$((${layout%x*} * ${layout#*x}))
    run "$spec" "$@" profile="$out/$name.$n.json" parallelism.pp="${layout%x*}" parallelism.dp="${layout#*x}"
    two_cores || return 1
    echo "$layout $(field planned_step_time_s) $(field step_time_median_s)"
  done >"$out/trial"
  while read -r layout p m; do
    echo "$p" >>"$out/$name.$layout.planned"
    echo "$m" >>"$out/$name.$layout.measured"
  done <"$out/trial"
}

json='' sum=0 count=0
# say KIND NAME PLANNED MEASURED TRIALS: one row
say() {
  local a
  a=$(awk -v p="$3" -v m="$4" 'BEGIN {d = p > m ? p - m : m - p; printf "%.4f", 1 - d / m}')
  printf '%-6s %-28s planned %9.3f ms  measured %9.3f ms  accuracy %s  (%s)\n' "$1" "$2" \
    "$(awk "BEGIN {print 1e3 * $3}")" "$(awk "BEGIN {print 1e3 * $4}")" "$a" "$5"
  json+="${json:+,}
  {\"kind\":\"$1\",\"layout\":\"$2\",\"planned_step_time_s\":$3,\"measured_step_time_s\":$4,\"accuracy\":$a,\"trials\":$5}"
  sum=$(awk "BEGIN {print $sum + $a}") count=$((count + 1))
}

real() {
  local name=$1 done=0 tries=0 layout
  while [ $done -lt "$trials" ] && [ $tries -lt $((3 * trials)) ]; do
    layouts "$@" && done=$((done + 1))
    tries=$((tries + 1))
  done
  for layout in 1x1 2x1 1x2; do
    [ -s "$out/$name.$layout.planned" ] || { echo "$name: no trial had two cores throughout" >&2; return; }
    say real "$name $layout" "$(median <"$out/$name.$layout.planned")" "$(median <"$out/$name.$layout.measured")" $done
  done
}

delay() { # NAME SPEC OVERRIDE...
  local name=$1 spec=$root/examples/$2.yaml
  shift 2
  run "$spec" training.max_steps=10 "$@"
  say delay "$name" "$(field planned_step_time_s)" "$(field step_time_median_s)" 1
}

rows=16,32 real mlp mlp-fashion-mnist.yaml training.global_batch_size=256 training.micro_batch_size=32 training.max_steps=60
rows=8,16 real vgg8 vgg8-fashion-mnist.yaml training.global_batch_size=64 training.micro_batch_size=16 training.max_steps=12

layer='{delay: {forward: 10ms, input: 10ms, weight: 10ms}}'
eight="[$layer, $layer, $layer, $layer, $layer, $layer, $layer, $layer, {linear: 10}]"
delay 'pp4 1f1b' pipe4-delay
delay 'pp4 gpipe' pipe4-delay parallelism.schedule=gpipe
delay 'pp4 zb_h1' pipe4-delay parallelism.schedule=zb_h1
delay 'pp4 1f1b, full' pipe4-delay parallelism.recompute=full
delay 'pp4 1f1b, 5 ms' pipe4-delay parallelism.link.latency=5ms
delay 'pp4 eager, 5 ms' pipe4-delay parallelism.schedule=eager_1f1b parallelism.link.latency=5ms
delay 'pp4 1f1b, 100 kB/s' pipe4-delay parallelism.link.bandwidth=100kB/s
delay 'pp4 interleaved x2' pipe4-delay parallelism.schedule=interleaved_1f1b parallelism.virtual_pipeline_stages=2 \
  "model.layers=$eight" 'parallelism.split=[1, 1, 1, 1, 1, 1, 1, 2]'
delay 'pp2 x dp2, 20 kB/s' pipe4-delay parallelism.pp=2 parallelism.dp=2 parallelism.split=auto parallelism.link.bandwidth=20kB/s
delay 'dp4' pipe4-delay parallelism.pp=1 parallelism.dp=4 parallelism.split=auto
delay 'dp4, 20 kB/s' pipe4-delay parallelism.pp=1 parallelism.dp=4 parallelism.split=auto parallelism.link.bandwidth=20kB/s
delay 'placed' placed-delay

printf 'mean accuracy of %d layouts: %s\n' $count "$(awk "BEGIN {print $sum / $count}")"
printf '{"program":"bench/predict.sh","environment":%s,"trials":%d,"mean_accuracy":%s,"results":[%s\n]}\n' \
  "$(environment "bench/predict.sh $trials")" "$trials" "$(awk "BEGIN {printf \"%.4f\", $sum / $count}")" "$json" >"$result"
