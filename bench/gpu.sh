#!/usr/bin/env bash
# What a machine with a GPU has to show, in phases that can be run one by one: one JSON each under OUT.
#
#   bench/gpu.sh list                 the phases
#   bench/gpu.sh PHASE [OUT]          one of them, by name or number; OUT: bench/results/gpu
#   bench/gpu.sh all [OUT]            each in turn; one that fails does not stop the next
#
# A phase takes at most 8 minutes, all together some 20 on one H200.  It exits 0 and writes OUT/NAME.json with
# "passed": true, or says why not and exits 1; what it needs from an earlier phase is the build alone.
#
#   DML_GPU_BUILD      build folder (build-gpu: ignored by git)
#   DML_GPU_DEPS       folder of Debian packages to unpack and link with (.gpu-deps, made by bench/gpu_deps.sh)
#   DML_GPU_PYTHON     a python3 with PyTorch, whose wheels hold NCCL and cuDNN too (python3)
#   DML_GPU_CYCLES     losses and returns of each layout in `recovery`, if they take less than its time (100)
#   DML_GPU_BACKEND    cuda; `emulated`: the stand-in of kernels/cuda/emulation at tiny sizes, which shows that
#                      these scripts work and measures nothing
# shellcheck source=bench/lib.sh
build=${DML_GPU_BUILD:-$(cd "$(dirname "$0")/.." && pwd)/build-gpu}
export DML_TRAIN=$build/dml-train
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/gpu_lib.sh"
source "$(dirname "$0")/gpu_phases.sh"

phases=(
  'build       compiles everything with the CUDA module, unpacking libraries first where a folder holds them'
  'conform     each kernel of the GPU against the reference, fast and deterministic'
  'losses      50 fp32 steps of MLP, VGG-8, ResNet-20: every loss within 1e-4 of the CPU backend'
  'exact       exact mode: one weights hash over layouts, schedules and ranks that share the GPU'
  'ranks       2 and 4 NCCL ranks on one GPU: 200 losses within 1e-4 of one rank'
  'sanitizer   compute-sanitizer (memcheck, racecheck, synccheck) over the kernels and a short training'
  'ceilings    copy bandwidth, products in bf16 and TF32, the share that each kernel reaches'
  'images      ResNet-50 224 x 224 in bf16 and TF32 against PyTorch, in turn; gaps; the price of exact mode'
  'matrices    an MLP of 8 x 8192 in bf16 against the measured ceiling and against PyTorch'
  'faults      SIGKILL of a worker: when it is noticed, when the others have let go'
  'recovery    kill, gpu_error and gpu_hang on 2 and 4 ranks, each lost and back: the times, the processes, memory, the bits'
)

list() {
  local i
  for i in "${!phases[@]}"; do printf '%2d  %s\n' $((i + 1)) "${phases[$i]}"; done
}

name_of() { # a number or a name
  local i name
  for i in "${!phases[@]}"; do
    name=${phases[$i]%% *}
    if [ "$1" = "$name" ] || [ "$1" = $((i + 1)) ]; then echo "$name"; return; fi
  done
  echo "bench/gpu.sh: no phase '$1'; there are:" >&2
  list >&2
  return 2
}

[ $# -ge 1 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2; }
[ "$1" != list ] || { list; exit; }
results=${2:-$root/bench/results/gpu}
mkdir -p "$results"
if [ "$1" = all ]; then
  failed=''
  for phase in "${phases[@]}"; do
    bash "$0" "${phase%% *}" "$results" || failed="$failed ${phase%% *}"
  done
  [ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
  exit 0
fi
phase=$(name_of "$1") || exit 2
phase_start
"phase_$phase" || problem 'the phase stopped before its end' # and errors inside it end nothing else: the JSON is written
phase_end
