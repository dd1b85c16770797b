#!/usr/bin/env bash
# A long run with a fault every ten seconds on average, each followed by a return: goodput, memory, descriptors.
#
#   bench/soak.sh [MINUTES [SEED [RESULT.json]]]       (30, 1)
#
# Two stages of two replicas of `delay` layers, steps of 0.18 s, snapshots after each.  Faults strike at random instants: half of them
# kills, the others hangs, exits, devices that fail and transports that break.  Every five seconds descriptors and resident
# memory of each process of the run are noted.  What is asked for is in bench/soak.py; the exit code is 1 where it does not hold.
source "$(dirname "$0")/lib.sh"
. "$root/tests/support/children.sh"
minutes=${1:-30}
seed=${2:-1}
result=${3:-/dev/null}
steps=$(awk "BEGIN {printf \"%d\", $minutes * 60 / 0.21}")
options=(parallelism.pp=2 parallelism.dp=2 parallelism.split=auto training.global_batch_size=16 training.numerics=exact
  training.max_steps="$steps" failures.respawn=on failures.snapshot_interval=1 failures.heartbeat_timeout=350ms
  "failures.random={mtbf: 10s, seed: $seed, types: [kill, kill, kill, kill, hang, exit, gpu_error, comm_abort]}")

"$train" "$root/examples/pipe4-delay.yaml" "${options[@]}" run.output_dir="$out/run" logging.console=line logging.interval=1000 >"$out/log" 2>&1 &
run=$!
set +e # processes go while they are looked at
while kill -0 $run 2>/dev/null; do
  sleep 5
  for role in supervisor agent worker; do
    [ $role = supervisor ] && pids=$run || children $role
    for pid in $pids; do
      fds=$(ls "/proc/$pid/fd" 2>/dev/null | wc -l)
      kib=$(awk '$1 == "VmRSS:" {print $2}' "/proc/$pid/status" 2>/dev/null)
      [ -z "$kib" ] || echo "$role $pid $fds $kib"
    done
  done >>"$out/samples"
done
wait $run || { tail -20 "$out/log" >&2; echo 'the run did not come to its end' >&2; exit 1; }
python3 "$root/bench/soak.py" "$out/run/metrics.jsonl" "$out/samples" "$(environment "bench/soak.sh $minutes $seed")" "$result"
