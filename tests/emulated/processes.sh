#!/usr/bin/env bash
# dml-train with its workers as processes on emulated GPUs: labelled as such, the CPU's losses, one hash over
# layouts; a call that fails, or never ends, ends the run.
#   processes.sh DML_TRAIN MODULE SPEC
set -euo pipefail
train=$1 spec=$3
export DML_CUDA_MODULE=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "$*"; exit 1; }

# run NAME OVERRIDE...: prints to $dir/NAME.txt, writes $dir/NAME/
run() {
  local name=$1
  shift
  "$train" "$spec" failures.policy=abort run.output_dir="$dir/$name" logging.console=line logging.jsonl=true \
    "$@" >"$dir/$name.txt" 2>&1
}
losses() { grep -o '"loss": *[0-9.e+-]*' "$(find "$dir/$1" -name '*.jsonl' | head -1)" | grep -o '[0-9.e+-]*$'; }
weights() { sed -n 's/^ *weights *//p' "$dir/$1.txt"; }

run cuda training.max_steps=10 || { cat "$dir/cuda.txt"; fail "the run failed"; }
run cpu training.max_steps=10 parallelism.backend=cpu || fail "the run on the CPU failed"
grep -q 'backend emulated-cuda' "$dir/cuda.txt" || fail "the header does not say emulated-cuda"
grep -rq emulated-cuda "$dir/cuda" || fail "the metrics do not say emulated-cuda"
paste <(losses cuda) <(losses cpu) | awk '
  { d = ($1 - $2) / $2; if (d < 0) d = -d; if (d > 1e-4) bad = 1; n++ }
  END { print n " losses compared"; exit bad || n < 10 }' || fail "losses differ from the CPU's"

for layout in '1 1' '2 1' '2 2'; do
  set -- $layout
  run exact$1$2 training.numerics=exact parallelism.pipeline_parallel_size=$1 \
    parallelism.data_parallel_size=$2 || fail "exact $1 x $2 failed"
done
[ "$(weights exact11)" = "$(weights exact21)" ] && [ "$(weights exact11)" = "$(weights exact22)" ] ||
  fail "exact mode: $(weights exact11) $(weights exact21) $(weights exact22)"

# A failing call on one device: the text names both, and nobody stays.
for site in 10 25 40; do
  if DML_EMULATED_FAIL=1:$site run broken; then fail "place $site: the run succeeded"; fi
  grep -q 'on purpose' "$dir/broken.txt" || fail "place $site: nothing was made to fail"
  grep -q 'device 1' "$dir/broken.txt" || { cat "$dir/broken.txt"; fail "place $site: no device named"; }
  rm -rf "$dir/broken"
done
if DML_EMULATED_FAIL=1:8:hang run hung parallelism.timeout=1s; then fail "a run that hangs succeeded"; fi

echo "as on the CPU, one hash over layouts, failures named"
