#!/usr/bin/env bash
# What balance: dynamic gains where workers differ, on delay layers: the same run twice, without and with it.
#
#   bench/balance.sh [TRIALS [RESULT.json]]
#
# dp3: one of three replicas at half speed, 15 micro-batches (examples/dp3-delay.yaml); even shares take 10 times a
# micro-batch, measured ones 6.  dp3_slows: the same from step 20 on.  pipe2: a pipeline of two of which one falls to half its
# speed at step 20 (examples/pipe2-slows.yaml): 9 layers cut 5 + 4, then 6 + 3; theory is that of the slower stage.  Step times are medians over the last 25 steps;
# `adapts` is how many steps after the slow-down the plan changes.
source "$(dirname "$0")/lib.sh"
trials=${1:-1}
result=${2:-/dev/null}
rows=''

last_steps() { # median of the last 25 steps
  grep -F '"type":"step"' "$out/run/metrics.jsonl" | tail -n 25 | grep -oE '"step_time_s":[^,}]*' | cut -d: -f2 | median
}
record() { # FIELD of the newest `balance` record that changed the plan
  grep -F '"type":"balance"' "$out/run/metrics.jsonl" | grep -F '"changed":1' | tail -n 1 |
    grep -oE "\"$1\":(\"[^\"]*\"|[^,}]*)" | cut -d: -f2- | tr -d '"'
}

row() { # name, theory of static / dynamic, step of the slow-down, spec, overrides...
  local name=$1 theory=$2 slows=$3 spec=$4 even='' dynamic='' hash e d
  shift 4
  for _ in $(seq "$trials"); do
    run "$root/examples/$spec.yaml" parallelism.balance=static "$@"
    even="$even $(last_steps)" hash=$(field weights_hash)
    run "$root/examples/$spec.yaml" "$@"
    dynamic="$dynamic $(last_steps)"
    [ "$(field weights_hash)" = "$hash" ] || { echo "$name: other weights" >&2; exit 1; }
  done
  e=$(tr ' ' '\n' <<<"$even" | sed '/^$/d' | median)
  d=$(tr ' ' '\n' <<<"$dynamic" | sed '/^$/d' | median)
  local adapts=$(($(record step) - slows)) before after
  before=$(record entropy) after=$(record planned_entropy)
  printf '%-10s static %.1f ms, dynamic %.1f ms: %.2fx (theory %s); entropy %.3f -> %.3f, after %d steps; shares %s, split %s; weights %s both\n' \
    "$name" "$(awk "BEGIN {print $e * 1000}")" "$(awk "BEGIN {print $d * 1000}")" "$(awk "BEGIN {print $e / $d}")" \
    "$theory" "$before" "$after" "$adapts" "$(record planned_shares)" "$(record planned_split)" "$hash"
  rows="$rows${rows:+,}
  {\"run\":\"$name\",\"static_step_s\":$e,\"dynamic_step_s\":$d,\"speedup\":$(awk "BEGIN {print $e / $d}"),\"theory\":$theory,\"entropy\":$before,\"planned_entropy\":$after,\"adapts_after_steps\":$adapts,\"shares\":\"$(record planned_shares)\",\"split\":\"$(record planned_split)\",\"weights_hash\":\"$hash\"}"
}

row dp3 1.667 0 dp3-delay
row dp3_slows 1.667 20 dp3-delay 'cluster.slow=[{worker: 2, speed: 0.5, step: 20}]'
row pipe2 1.333 20 pipe2-slows
printf '{"environment":%s,\n "emulated":"delay layers","trials":%d,"runs":[%s\n]}\n' "$(environment "bench/balance.sh $trials")" "$trials" "$rows" >"$result"
