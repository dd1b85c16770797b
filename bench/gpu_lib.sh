# bench/gpu_lib.sh - what the phases of bench/gpu.sh share.  Sourced after lib.sh, which has run, field, median.
emulated=''
backend=cuda
if [ "${DML_GPU_BACKEND:-cuda}" = emulated ]; then
  emulated=yes
  export DML_CUDA_MODULE=${DML_CUDA_MODULE:-$build/libdml_cuda_emulated.so}
  export DML_EMULATED_GPUS=1
fi
python=${DML_GPU_PYTHON:-python3}
deps=${DML_GPU_DEPS:-$root/.gpu-deps}
[ -f "$deps/commit" ] && [ -z "${DML_COMMIT:-}" ] && ! git -C "$root" rev-parse HEAD >/dev/null 2>&1 &&
  { DML_COMMIT=$(cat "$deps/commit"); export DML_COMMIT; }

problems=() # texts; the phase passed when there are none
facts=''    # members of the phase's JSON object, each after a comma

# size REAL TINY: the second one on the stand-in
size() { if [ -n "$emulated" ]; then echo "$2"; else echo "$1"; fi; }

problem() { problems+=("$*"); echo "  PROBLEM: $*" >&2; }

# fact NAME JSON
fact() { facts="$facts,
 \"$1\":$2"; }

# Text as a JSON string.
quoted() { printf '"%s"' "$(printf '%s' "$1" | tr '\n\t' '  ' | sed 's/[\\"]/\\&/g')"; }

phase_start() {
  started=$SECONDS
  echo "== $phase${emulated:+ (emulated: the figures mean nothing)}"
  [ "$phase" = build ] || [ -x "$build/dml-bench" ] ||
    { echo "no $build/dml-bench: run the phase 'build' first" >&2; exit 1; }
}

phase_end() {
  local texts='' p passed=true machine=null
  [ ${#problems[@]} -eq 0 ] || passed=false
  for p in ${problems[@]+"${problems[@]}"}; do texts="$texts${texts:+,}$(quoted "$p")"; done
  [ ! -x "$build/dml-bench" ] || machine=$("$build/dml-bench" environment)
  printf '{"phase":"%s","backend":"%s","passed":%s,"time_s":%d,"problems":[%s],\n "environment":%s,\n "versions":%s%s\n}\n' \
    "$phase" "$(size cuda emulated-cuda)" $passed $((SECONDS - started)) "$texts" "$machine" "$(versions)" "$facts" \
    >"$results/$phase.json"
  printf '%s in %d s: %s\n' "$(if [ $passed = true ]; then echo passed; else echo FAILED; fi)" \
    $((SECONDS - started)) "$results/$phase.json"
  [ $passed = true ]
}

# Versions of what is below us, as far as they can be asked.
versions() {
  local nvcc driver wheels=null
  nvcc=$({ nvcc --version || true; } 2>/dev/null | sed -n 's/^Cuda compilation tools, //p')
  driver=$(cat /proc/driver/nvidia/version 2>/dev/null | head -n 1) || true
  [ -n "$emulated" ] || wheels=$("$python" -c '
import json, torch
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
                  "nccl": ".".join(map(str, torch.cuda.nccl.version()))}))' 2>/dev/null) || wheels=null
  printf '{"nvcc":%s,"driver":%s,"python":%s}' "$(quoted "$nvcc")" "$(quoted "$driver")" "${wheels:-null}"
}

# limit SECONDS COMMAND...: what overruns, or would overrun the phase, is killed, and is a failure: 124
phase_s=470
limit() {
  local most=$1 left=$((started + phase_s - SECONDS))
  shift
  [ $left -gt 0 ] || { echo "no time left in the phase for: $*" >&2; return 124; }
  timeout --kill-after=5 $((most < left ? most : left)) "$@"
}

# run SPEC OVERRIDE...: as lib.sh's, but a wait among workers ends after 20 s and the run after run_s, which a phase
# sets: a hang costs seconds of the phase, not all that is left.
run_s=75
run() {
  rm -rf "$out/run"
  limit $run_s "$train" "$@" parallelism.timeout=20s run.output_dir="$out/run" logging.console=line >"$out/log" 2>&1 ||
    { echo "failed: $*" >&2; tail -20 "$out/log" >&2; return 1; }
}

# gpu SPEC OVERRIDE...: trains on the GPU (or on the stand-in); cpu ...: on the CPU backend.  1 after a failure,
# which is a problem of the phase.
gpu() { run "$@" parallelism.backend=$backend || { problem "a run failed: $*"; return 1; }; }
cpu() { run "$@" parallelism.backend=cpu || { problem "a run failed: $*"; return 1; }; }

# The last run's losses, one a line.
losses() { sed -n 's/.*"type":"step".*"loss":\([^,]*\),.*/\1/p' "$out/run/metrics.jsonl"; }

# apart A B: the largest |a - b| / |b| of two files of numbers; "lengths" when they do not pair
apart() {
  [ "$(wc -l <"$1")" = "$(wc -l <"$2")" ] && [ -s "$1" ] || { echo lengths; return; }
  paste "$1" "$2" | awk '{d = $1 - $2; d = d < 0 ? -d : d; b = $2 < 0 ? -$2 : $2; r = b > 0 ? d / b : d; if (r > m) m = r}
    END {printf "%.3g\n", m}'
}

# within VALUE MOST: numbers only
within() { awk -v v="$1" -v m="$2" 'BEGIN {exit !(v ~ /^[-+.0-9]/ && v + 0 <= m + 0)}'; }
at_least() { awk -v v="$1" -v m="$2" 'BEGIN {exit !(v ~ /^[-+.0-9]/ && v + 0 >= m + 0)}'; }

# A small data set in one word: overrides for a model that reads images of C x S x S.
images() { echo "model.input=[$1,$2,$2] data.format=synthetic data.samples=1024 data.test_samples=32 data.pool=128"; }

# numbers TEXT: one a line
numbers() { tr ' ' '\n' <<<"$1" | sed '/^$/d'; }

# spread TEXT: {"median":..,"low":..,"high":..,"n":..} of the numbers in it
spread() {
  numbers "$1" | sort -g | awk '{x[NR] = $1} END {
    m = NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2
    printf "{\"median\":%s,\"low\":%s,\"high\":%s,\"n\":%d}", m, x[1], x[NR], NR}'
}
