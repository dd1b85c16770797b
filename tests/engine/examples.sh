#!/usr/bin/env bash
# Every spec in examples/ runs for a few steps, in real processes, with the layout it states; those made for a GPU
# (a processor takes minutes for a step) are planned, and run with small images or few features.
#   examples.sh BUILD_FOLDER SOURCE_FOLDER
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
small() { # overrides that make a GPU's example small
  case $1 in
    */resnet50-imagenet-synthetic.yaml) echo 'model.input=[3,32,32] data.pool=8 data.test_samples=4' ;;
    */mlp-wide.yaml | */mlp24-wide.yaml) echo 'model.input=[16] model.hidden=[64,64] model.classes=16 data.pool=8 data.test_samples=4' ;;
    */dp3-delay.yaml | */slipstream-delay.yaml) echo 'training.global_batch_size=36' ;;
  esac
}
for spec in "$2"/examples/*.yaml; do
  less=$(small "$spec")
  if [ -n "$less" ] && ! "$1/dml-plan" "$spec" >"$work/log" 2>&1; then
    failed=$((failed + 1)); echo "FAIL: dml-plan $spec"; tail -15 "$work/log"
    continue
  fi
  # shellcheck disable=SC2086
  if "$1/dml-train" "$spec" --max-steps 3 training.eval_interval=0 training.global_batch_size=32 \
    training.micro_batch_size=4 $less run.output_dir="$work/run" logging.console=line logging.interval=1 \
    >"$work/log" 2>&1 </dev/null && grep -q 'step 3/3 | loss ' "$work/log"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1)); echo "FAIL: $spec"; tail -15 "$work/log"
  fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
