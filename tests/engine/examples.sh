#!/usr/bin/env bash
# Every spec in examples/ runs for a few steps, in real processes, with the layout it states.
#   examples.sh BUILD_FOLDER SOURCE_FOLDER
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
for spec in "$2"/examples/*.yaml; do
  if "$1/dml-train" "$spec" --max-steps 3 training.eval_interval=0 training.global_batch_size=32 \
    training.micro_batch_size=4 run.output_dir="$work/run" logging.console=line logging.interval=1 \
    >"$work/log" 2>&1 </dev/null && grep -q 'step 3/3 | loss ' "$work/log"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1)); echo "FAIL: $spec"; tail -15 "$work/log"
  fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
