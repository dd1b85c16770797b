#!/usr/bin/env bash
# What staleness costs: test accuracy on Fashion-MNIST of asynchronous schedules beside a synchronous one, the same
# samples an update, the same learning rates, the same epochs, four stages.
#
#   bench/async_accuracy.sh [EPOCHS [RESULT.json [CURVES.svg]]]      default 8 epochs
#
# PipeDream's mini-batch is one micro-batch of 64; the others cut their 64 samples into four micro-batches.
source "$(dirname "$0")/lib.sh"
epochs=${1:-8}
result=${2:-/dev/null}
picture=${3:-}
steps=937 # an epoch: 60000 / 64, whole batches
rows=''
curves=()

mlp=("$root/examples/mlp-fashion-mnist.yaml" optimizer.lr=0.005 'model.hidden=[256, 256, 256]')
cnn=("$root/examples/quickstart.yaml" parallelism.dp=1 optimizer.lr=0.005)
one=(training.global_batch_size=64 training.micro_batch_size=64)
four=(training.global_batch_size=64 training.micro_batch_size=16)

row() { # model, label, overrides...
  local model=$1 label=$2
  local -n spec=$model
  shift 2
  run "${spec[@]}" parallelism.pp=4 training.max_steps=$((epochs * steps)) \
    training.eval_interval=$steps "$@"
  cp "$out/run/metrics.jsonl" "$out/$model-$label.jsonl"
  curves+=("$model=$label=$out/$model-$label.jsonl=$steps")
  printf '%-4s %-24s test accuracy %s after %s steps, %s s of training\n' "$model" "$label" \
    "$(field test_accuracy_ratio)" "$(field steps)" "$(field train_time_s)"
  rows="$rows${rows:+,}
  {\"model\":\"$model\",\"schedule\":\"$label\",\"test_accuracy_ratio\":$(field test_accuracy_ratio),\"test_loss\":$(field test_loss),\"steps\":$(field steps),\"epochs\":$epochs,\"train_time_s\":$(field train_time_s)}"
}

for model in mlp cnn; do
  row $model 1f1b "${four[@]}" parallelism.schedule=1f1b
  row $model pipedream_2bw "${four[@]}" parallelism.schedule=pipedream_2bw
  row $model pipedream "${one[@]}" parallelism.schedule=pipedream
  row $model vertical_sync "${one[@]}" parallelism.schedule=pipedream parallelism.vertical_sync=true
done
printf '{"environment":%s,\n "runs":[%s\n]}\n' "$(environment "bench/async_accuracy.sh $epochs")" "$rows" >"$result"
if [ -n "$picture" ]; then python3 "$root/bench/curves.py" "$picture" "${curves[@]}"; fi
