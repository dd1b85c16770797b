#!/usr/bin/env bash
# Exact mode: one weights hash and one test accuracy over layouts, schedules and thread counts, on real data.
#
#   bench/same_bits.sh [STEPS [RESULT.json]]      default 50 steps
#
# VGG-8 (with dropout) and ResNet-20 on Fashion-MNIST; 60,000 samples do not divide by the batch of 72, and the
# last block of runs crosses the end of an epoch.  Exits 1 when any two of a block differ.
source "$(dirname "$0")/lib.sh"
steps=${1:-50}
result=${2:-/dev/null}
rows=''
bad=0

block() { # name, spec, common overrides...
  local name=$1 spec=$2 first='' first_accuracy='' layout
  shift 2
  # pp dp schedule threads
  for layout in "${layouts[@]}"; do
    read -r pp dp schedule threads <<<"$layout"
    run "$root/examples/$spec.yaml" training.numerics=exact parallelism.pipeline_parallel_size="$pp" \
      parallelism.data_parallel_size="$dp" parallelism.schedule="$schedule" \
      parallelism.threads_per_worker="$threads" "$@"
    local hash accuracy verdict=same
    hash=$(field weights_hash) accuracy=$(field test_accuracy_ratio)
    [ -n "$first" ] || { first=$hash first_accuracy=$accuracy; }
    [ "$hash" = "$first" ] && [ "$accuracy" = "$first_accuracy" ] || { verdict=DIFFERENT bad=1; }
    printf '%-22s pp %s dp %s %-13s threads %s  %s  accuracy %s  %s\n' "$name" "$pp" "$dp" "$schedule" \
      "$threads" "$hash" "$accuracy" "$verdict"
    rows="$rows${rows:+,}
  {\"model\":\"$name\",\"pp\":$pp,\"dp\":$dp,\"schedule\":\"$schedule\",\"threads\":$threads,\"steps\":$(field steps),\"weights_hash\":\"$hash\",\"test_accuracy_ratio\":$accuracy,\"verdict\":\"$verdict\"}"
  done
}

layouts=(
  '1 1 1f1b 1' '1 1 gpipe 2'
  '4 1 sequential 1' '4 1 gpipe 1' '4 1 gpipe_reverse 1' '4 1 1f1b 1' '4 1 1f1b 2'
  '2 2 sequential 1' '2 2 gpipe 1' '2 2 gpipe_reverse 2' '2 2 1f1b 1'
  '1 4 1f1b 1' '1 4 gpipe 2'
  '3 2 1f1b 1' '3 2 gpipe 2' '3 2 gpipe_reverse 1'
)
batch=(training.max_steps="$steps" training.global_batch_size=72 training.micro_batch_size=9)
block vgg8 vgg8-fashion-mnist "${batch[@]}"
block resnet20 resnet20-fashion-mnist "${batch[@]}"

# The batch of 7,208 ends the first epoch inside step 9.
layouts=('1 1 1f1b 2' '2 2 1f1b 1' '4 1 gpipe_reverse 1' '1 4 gpipe 1')
wrap=(training.max_steps=10 training.global_batch_size=7208 training.micro_batch_size=53)
block mlp-across-epochs mlp-fashion-mnist "${wrap[@]}"

printf '{"environment":%s,\n "runs":[%s\n]}\n' "$(environment "bench/same_bits.sh $steps")" "$rows" >"$result"
exit $bad
