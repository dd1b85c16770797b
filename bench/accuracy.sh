#!/usr/bin/env bash
# Test accuracy of whole runs on Fashion-MNIST, from the examples as they are.
#
#   bench/accuracy.sh [RESULT.json [EXAMPLE ...]]      default: mlp-fashion-mnist vgg8-fashion-mnist
source "$(dirname "$0")/lib.sh"
result=${1:-/dev/null}
shift || true
[ $# -gt 0 ] || set -- mlp-fashion-mnist vgg8-fashion-mnist
rows=''
for example in "$@"; do
  run "$root/examples/$example.yaml"
  seed=$(head -n 1 "$out/run/metrics.jsonl" | grep -oE '"seed":[0-9]+' | cut -d: -f2)
  printf '%-22s seed %s: test accuracy %s after %s steps, %s s of training\n' "$example" "$seed" \
    "$(field test_accuracy_ratio)" "$(field steps)" "$(field train_time_s)"
  rows="$rows${rows:+,}
  {\"example\":\"$example\",\"seed\":$seed,\"test_accuracy_ratio\":$(field test_accuracy_ratio),\"test_loss\":$(field test_loss),\"steps\":$(field steps),\"train_time_s\":$(field train_time_s),\"weights_hash\":\"$(field weights_hash)\"}"
done
printf '{"environment":%s,\n "runs":[%s\n]}\n' "$(environment "bench/accuracy.sh")" "$rows" >"$result"
