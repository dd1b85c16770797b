#!/usr/bin/env bash
# bench/gpu.sh on the emulated GPU: every phase's script runs through and writes its JSON; what misses a bar fails.
#   gpu.sh BUILD_FOLDER SOURCE_FOLDER
set -uo pipefail
export DML_GPU_BACKEND=emulated DML_GPU_BUILD=$1
source=$2
gpu=$source/bench/gpu.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
fail() { failed=$((failed + 1)); echo "FAIL: $*"; tail -20 "$work/log"; }

bash "$gpu" list >"$work/log"
names=$(awk '{print $2}' "$work/log")
[ "$(wc -w <<<"$names")" -eq 11 ] || fail 'not 11 phases'
for name in $names; do
  bash "$gpu" "$name" "$work/out" >"$work/log" 2>&1 </dev/null || fail "phase $name"
  grep -q "\"phase\":\"$name\",\"backend\":\"emulated-cuda\",\"passed\":true" "$work/out/$name.json" ||
    fail "no result of phase $name"
done
grep -q '"own_kernels":"^_ZL?(.*|10sum_chunks|' "$work/out/sanitizer.json" || fail 'the sanitizer does not know our kernels'
grep -q '"micro_batch":1,"notes":".*PyTorch keeps one batch on the device"' "$work/out/images.json" ||
  fail 'it is not said where the samples are'

# expect CODE TEXT COMMAND...
expect() {
  local want=$1 text=$2 code=0
  shift 2
  "$@" >"$work/log" 2>&1 </dev/null || code=$?
  [ $code -eq "$want" ] && grep -q -- "$text" "$work/log" || fail "$code, not $want, or no '$text': $*"
}
# within SECONDS_OF_THE_PHASE COMMAND...: gpu_lib.sh's limit of a second, so late in the phase
within() {
  local late=$1
  shift
  bash -c 'build=$DML_GPU_BUILD; source "$1/bench/lib.sh"; source "$1/bench/gpu_lib.sh"; started=0; SECONDS=$2; limit 1 "${@:3}"' - "$source" "$late" "$@"
}
expect 0 ok within 0 echo ok
expect 124 begun within 0 bash -c 'echo begun; exec sleep 30'
expect 124 'no time left in the phase for: echo ok' within 470 echo ok
expect 2 "no phase 'speed'" bash "$gpu" speed "$work/out"
expect 1 'run the phase .build. first' env DML_GPU_BUILD="$work/none" bash "$gpu" 2 "$work/out"
expect 1 'the kernels did not run: exit code 3' env DML_CUDA_MODULE="$work/none.so" bash "$gpu" 2 "$work/out"
grep -q '"passed":false.*"problems":\["the kernels did not run' "$work/out/conform.json" || fail 'a failed phase passes'
expect 1 'a run failed' env DML_CUDA_MODULE="$work/none.so" bash "$gpu" losses "$work/out"
expect 1 'median ratio below 1.0' env DML_GPU_PYTHON="$2/tests/bench/rival.sh" bash "$gpu" images "$work/out"
expect 0 '^passed in' env DML_CUDA_MODULE="$1/libdml_cuda_emulated.so" DML_EMULATED_GPUS=2 \
  "$1/dml-bench" node -b cuda -q -J "$work/node.json"
grep -q '"backend": "emulated-cuda"' "$work/node.json" || fail 'a stand-in is not called one'

export DML_CUDA_MODULE=$1/libdml_cuda_emulated.so DML_GPU_BUILD=$work/liar
bash "$(dirname "$0")/liar.sh" "$work/liar" "$1"
expect 1 'mlp: losses differ by' bash "$gpu" losses "$work/out"
expect 1 'mlp at 2 x 2 1f1b: weights x' bash "$gpu" exact "$work/out"
[ $failed -eq 0 ] && echo "all phases of bench/gpu.sh run on the emulated GPU"
