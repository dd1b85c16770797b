# bench/gpu_phases.sh - the phases of bench/gpu.sh, a function each.  Sourced.

# ---- build

# Debian packages of the folder, unpacked beside the build; their absolute links point inside.
unpack() {
  local prefix=$build/prefix p link target
  rm -rf "$prefix"
  mkdir -p "$prefix"
  for p in "$deps"/*.deb; do dpkg-deb -x "$p" "$prefix"; done
  [ ! -d "$prefix/lib" ] || { mkdir -p "$prefix/usr/lib" && cp -a "$prefix/lib/." "$prefix/usr/lib/"; }
  find "$prefix" -type l | while read -r link; do
    target=$(readlink "$link")
    [ "${target#/}" = "$target" ] || [ ! -e "$prefix$target" ] || ln -sfr "$prefix$target" "$link"
  done
  libraries=$(dirname "$(find "$prefix/usr/lib" -name 'libdnnl.so*' | head -n 1)")
  flags+=(-DCMAKE_PREFIX_PATH="$prefix/usr" -DCMAKE_LIBRARY_PATH="$libraries"
    -DCMAKE_INCLUDE_PATH="$prefix/usr/include" -DCMAKE_BUILD_RPATH="$libraries"
    -DCMAKE_C_FLAGS="-isystem $prefix/usr/include/$(basename "$libraries")" # hwloc's configuration is there
    -DCMAKE_EXE_LINKER_FLAGS="-Wl,--disable-new-dtags,-rpath-link,$libraries")
}

# Folder of a wheel nvidia.NAME, or nothing.
wheel() { "$python" -c "import nvidia.$1 as m; print(list(m.__path__)[0])" 2>/dev/null || true; }

phase_build() {
  local flags=() part folder libraries=''
  [ -z "$emulated" ] || { fact note '"the stand-in is part of every build"'; return; }
  if compgen -G "$deps/*.deb" >/dev/null; then unpack; fi
  for part in nccl cudnn; do
    folder=$(wheel $part)
    [ -z "$folder" ] || flags+=("-D${part^^}_ROOT=$folder")
  done
  limit 60 cmake -S "$root" -B "$build" -G Ninja -DDML_CUDA=ON ${flags[@]+"${flags[@]}"} >"$out/log" 2>&1 ||
    { tail -30 "$out/log"; problem 'cmake failed'; return; }
  limit 420 cmake --build "$build" --target gpu_programs >"$out/log" 2>&1 || { tail -40 "$out/log"; problem 'the build failed'; return; }
  fact unpacked "$(quoted "$libraries")"
}

# ---- right results

phase_conform() {
  local rounds code=0
  rounds=$(size 20 1)
  limit 190 "$build/dml-bench" conform -b $backend -n "$rounds" >"$out/log" 2>&1 || code=$?
  tail -n "$(if [ $code -eq 0 ]; then echo 2; else echo 40; fi)" "$out/log"
  case $code in
    0) ;;
    7) problem 'kernels differ from the reference' ;;
    124) problem 'the kernels took longer than 190 s: fewer at once with dml-bench conform -k NAME' ;;
    *) problem "the kernels did not run: exit code $code" ;;
  esac
  # Each test has 180 s of its own: one may hang and the others still run.
  [ -n "$emulated" ] || limit 280 ctest --test-dir "$build" -R '^gpu\.|_gpu$' --output-on-failure --no-tests=error >"$out/contracts" ||
    { tail -40 "$out/contracts"; problem 'a library differs from its stand-in'; }
  fact rounds "$rounds"
  fact summary "$(quoted "$(tail -n 2 "$out/log")")"
}

# One line a model: name, spec, overrides.  SGD with a small step: what is compared is arithmetic, not chaos.
models() {
  local small='optimizer.name=sgd optimizer.lr=0.002 training.eval_interval=0'
  if [ -n "$emulated" ]; then
    small="$small training.global_batch_size=4 training.micro_batch_size=1"
    echo "mlp examples/mlp-fashion-mnist.yaml $(images 1 4) model.hidden=[16,16] $small"
    return
  fi
  small="$small training.global_batch_size=64 training.micro_batch_size=8"
  echo "mlp examples/mlp-fashion-mnist.yaml $(images 1 28) $small"
  echo "vgg8 examples/vgg8-fashion-mnist.yaml $(images 3 32) $small"
  echo "resnet20 examples/resnet20-fashion-mnist.yaml $(images 3 32) data.pad=0 $small"
}

phase_losses() {
  local name spec overrides steps rows='' error
  steps=$(size 50 3)
  while read -r name spec overrides; do
    # shellcheck disable=SC2086
    cpu "$root/$spec" $overrides training.max_steps="$steps" || continue
    losses >"$out/cpu"
    # shellcheck disable=SC2086
    gpu "$root/$spec" $overrides training.max_steps="$steps" || continue
    losses >"$out/gpu"
    error=$(apart "$out/gpu" "$out/cpu")
    echo "  $name: $steps losses, largest relative difference $error"
    within "$error" 1e-4 || problem "$name: losses differ by $error, more than 1e-4"
    rows="$rows${rows:+,}{\"model\":\"$name\",\"steps\":$steps,\"largest_difference\":$(quoted "$error")}"
  done < <(models)
  fact models "[$rows]"
}

layout() { # pp dp schedule: overrides; all workers share the one GPU
  echo "parallelism.pipeline_parallel_size=$1 parallelism.data_parallel_size=$2 parallelism.schedule=$3 parallelism.workers_per_device=$(($1 * $2))"
}

# Layouts of a model, one a line: the small one in all, the others in those that differ most, or 21 runs would be
# near the phase's end.
layouts() {
  if [ -n "$emulated" ]; then printf '%s\n' '1 1 1f1b' '2 2 1f1b'; return; fi
  printf '%s\n' '1 1 1f1b' '4 1 1f1b' '1 4 1f1b' '2 2 gpipe'
  [ "$1" != mlp ] || printf '%s\n' '2 1 1f1b' '1 2 1f1b' '2 2 1f1b'
}

phase_exact() {
  local name spec overrides steps rows='' first hash pp dp schedule run_s=60
  steps=$(size 40 2)
  while read -r name spec overrides; do
    first=''
    while read -r pp dp schedule; do
      # shellcheck disable=SC2046,SC2086
      gpu "$root/$spec" $overrides training.max_steps="$steps" training.numerics=exact $(layout "$pp" "$dp" "$schedule") ||
        continue
      hash=$(field weights_hash)
      first=${first:-$hash}
      [ "$hash" = "$first" ] || problem "$name at $pp x $dp $schedule: weights $hash, not $first"
      printf '  %-10s %s x %s %-6s %s\n' "$name" "$pp" "$dp" "$schedule" "$hash"
      rows="$rows${rows:+,}
  {\"model\":\"$name\",\"pp\":$pp,\"dp\":$dp,\"schedule\":\"$schedule\",\"weights_hash\":\"$hash\"}"
    done < <(layouts "$name")
  done < <(models)
  fact runs "[$rows]"
}

phase_ranks() {
  local name spec overrides steps rows='' pp dp error
  steps=$(size 200 3)
  read -r name spec overrides < <(models)
  # shellcheck disable=SC2086
  gpu "$root/$spec" $overrides training.max_steps="$steps" || return 0
  losses >"$out/one"
  while read -r pp dp; do
    # shellcheck disable=SC2046,SC2086
    gpu "$root/$spec" $overrides training.max_steps="$steps" $(layout "$pp" "$dp" 1f1b) || continue
    losses >"$out/many"
    error=$(apart "$out/many" "$out/one")
    echo "  $pp x $dp: $steps losses, largest relative difference $error"
    within "$error" 1e-4 || problem "$pp x $dp: losses differ by $error, more than 1e-4"
    rows="$rows${rows:+,}{\"pp\":$pp,\"dp\":$dp,\"steps\":$steps,\"largest_difference\":$(quoted "$error")}"
  done < <(if [ -n "$emulated" ]; then echo '2 1'; else printf '%s\n' '2 1' '1 2' '2 2' '4 1' '1 4'; fi)
  fact runs "[$rows]"
}

# Mangled names of our kernels, all global functions, as one pattern: "^_ZL?(3map|10sum_chunks|...)".
own_kernels() {
  sed -n 's/.*__global__ void \([a-z0-9_]*\)(.*/\1/p' "$root"/kernels/cuda/*.cu | sort -u |
    awk '{all = all sep length($1) $1; sep = "|"} END {print "^_ZL?(" all ")"}'
}

phase_sanitizer() {
  local tool rows='' verdict overrides spec name own over most about command options
  own=$(own_kernels)
  fact own_kernels "$(quoted "$own")"
  read -r name spec overrides < <(models)
  [ "$own" != '^_ZL?()' ] || problem "no kernel in $root/kernels/cuda"
  if [ -n "$emulated" ]; then fact note '"the stand-in has sanitizers of its own: ctest -R cuda"'; return; fi
  command -v compute-sanitizer >/dev/null || { problem 'no compute-sanitizer in PATH'; return; }
  for tool in memcheck racecheck synccheck; do
    # memcheck looks at all kernels, since the libraries' get our pointers; an API call that fails is no finding of
    # its: libraries try what a driver may lack.  The other two look into a kernel: at ours.
    options=(--kernel-name "regex=$own")
    [ $tool != memcheck ] || options=(--report-api-errors no)
    for over in kernels training; do
      most=$([ $over = kernels ] && echo 95 || echo 60)
      command=("$build/dml-bench" conform -b $backend -n 1)
      # shellcheck disable=SC2206
      [ $over = kernels ] || command=("$train" "$root/$spec" $overrides training.max_steps=2 parallelism.backend=$backend
        parallelism.timeout=50s run.output_dir="$out/run" logging.console=line)
      rm -rf "$out/run"
      verdict=clean
      limit "$most" compute-sanitizer --tool $tool "${options[@]}" --target-processes all --error-exitcode 99 \
        "${command[@]}" >"$out/$tool.log" 2>&1 || verdict="failed: exit code $?"
      # a worker's exit code does not come through to the first process, its summary does
      about=$(grep -E 'SUMMARY: [1-9]' "$out/$tool.log" | head -n 1) || true
      [ -z "$about" ] || verdict="failed: ${about#========= }"
      grep -q 'SUMMARY' "$out/$tool.log" || verdict="$verdict, and it says nothing"
      [ "$verdict" = clean ] || { tail -30 "$out/$tool.log"; problem "$tool, $over: $verdict"; }
      echo "  $tool, $over: $verdict"
      rows="$rows${rows:+,}{\"tool\":\"$tool\",\"over\":\"$over\",\"verdict\":$(quoted "$verdict")}"
    done
  done
  fact runs "[$rows]"
}

# ---- speed

phase_ceilings() {
  local sizes=() slow
  [ -z "$emulated" ] || sizes=(-m 1 -g 64 -n 1 -k relu)
  limit 400 "$build/dml-bench" ceilings -b $backend ${sizes[@]+"${sizes[@]}"} -J "$out/ceilings.json" >"$out/ceilings.txt" ||
    { cat "$out/ceilings.txt"; problem 'dml-bench ceilings failed'; return; }
  cat "$out/ceilings.txt"
  fact ceilings "$(cat "$out/ceilings.json")"
  [ -z "$emulated" ] || sizes=(-m 1 -g 64 -n 1)
  if DML_CUDA_NORM=library limit 100 "$build/dml-bench" ceilings -b $backend ${sizes[@]+"${sizes[@]}"} -k norm \
    -J "$out/norm.json" >"$out/log" 2>&1; then
    grep norm "$out/log" | sed 's/^/  by cuDNN: /'
    fact batch_norm_by_cudnn "$(cat "$out/norm.json")"
  else
    tail -5 "$out/log"
    problem 'batch norm by cuDNN (DML_CUDA_NORM=library) failed'
  fi
  [ -z "$emulated" ] || return 0
  slow=$(awk '$5 == "GB/s" && $6 + 0 < 85 && NF > 6 {printf "%s %s %s %%, ", $1, $2, $6}' "$out/ceilings.txt")
  [ -z "$slow" ] || problem "below 85 % of the copy: ${slow%, }"
}

# rival MODEL PRECISION BATCH SIDE STEPS [--compile]: PyTorch's line of JSON; nothing when there is no PyTorch
rival() {
  local model=$1 precision=$2 batch=$3 side=$4 steps=$5
  shift 5
  limit 150 "$python" "$root/bench/peers/torch_train.py" "$model" --precision "$precision" --batch "$batch" \
    --side "$side" --steps "$steps" "$@" 2>"$out/torch.log" | tail -n 1
}

# rate BATCH: samples a second of the last run, by its median step
rate() { awk "BEGIN {print $1 / $(field step_time_median_s)}"; }

rate_of() { sed -n 's/.*"samples_per_second": \([0-9.e+]*\).*/\1/p' <<<"$1"; }

# duel NAME PAIRS FLOOR SPEC MODEL PRECISION BATCH MICRO SIDE STEPS OVERRIDE...: ours and PyTorch's samples a second
# in turn, both in micro-batches of MICRO
duel() {
  local name=$1 pairs=$2 floor=$3 spec=$4 model=$5 precision=$6 batch=$7 micro=$8 side=$9 steps=${10}
  local i mine line other ratio ours='' theirs='' ratios='' gaps=''
  local notes='samples of dml are copied from the host in every step, the first micro-batch before any compute; PyTorch keeps one batch on the device'
  shift 10
  for i in $(seq "$pairs"); do
    gpu "$root/$spec" training.precision="$precision" training.max_steps="$steps" \
      training.global_batch_size="$batch" training.micro_batch_size="$micro" "$@" || return 0
    mine=$(rate "$batch")
    ours="$ours $mine" gaps="$gaps $(field bubble_ratio)"
    [ -z "$emulated" ] || [ -n "${DML_GPU_PYTHON:-}" ] || continue
    line=$(rival "$model" "$precision" "$batch" "$side" "$steps" --micro "$micro")
    other=$(rate_of "$line")
    [ -n "$other" ] || { tail -5 "$out/torch.log"; problem "$name: PyTorch did not run"; continue; }
    ratio=$(awk "BEGIN {print $mine / $other}")
    echo "  $name pair $i: dml $mine, PyTorch $other samples/s, ratio $ratio"
    theirs="$theirs $other" ratios="$ratios $ratio"
  done
  fact "$name" "{\"batch\":$batch,\"micro_batch\":$micro,\"notes\":\"$notes\",\"side\":$side,\"steps\":$steps,\"dml_samples_per_second\":$(spread "$ours"),
  \"idle_share_of_the_compute_lane\":$(spread "$gaps")${ratios:+,\"pytorch_samples_per_second\":$(spread "$theirs"),\"ratio\":$(spread "$ratios"),\"floor\":$floor}}"
  [ -z "$ratios" ] || at_least "$(numbers "$ratios" | median)" "$floor" || problem "$name: median ratio below $floor"
  [ -n "$emulated" ] || within "$(numbers "$gaps" | median)" 0.02 || problem "$name: the compute lane idles more than 2 %"
}

# In micro-batches of 64, PyTorch too: what is copied before the first kernel of a step is then 39 MB, not 154 MB.
# PyTorch's rate with the batch whole stands beside it.
phase_images() {
  local spec=examples/resnet50-imagenet-synthetic.yaml batch micro side steps tiny='' pairs i fast exact ratios='' sizes run_s=120
  batch=$(size 256 1) micro=$(size 64 1) side=$(size 224 8) steps=$(size 40 3) pairs=$(size 3 1)
  [ -z "$emulated" ] || tiny='model.depth=8 model.stem=cifar data.pool=1 data.samples=4 data.test_samples=1 model.classes=4'
  # shellcheck disable=SC2086
  duel resnet50_bf16 "$pairs" 1.0 $spec resnet50 bf16 "$batch" "$micro" "$side" "$steps" model.input="[3,$side,$side]" $tiny
  [ -z "$emulated" ] || return 0
  duel resnet50_tf32 "$pairs" 1.0 $spec resnet50 tf32 "$batch" "$micro" "$side" "$steps"
  sizes=(training.global_batch_size="$batch" training.micro_batch_size="$micro")
  for i in $(seq "$pairs"); do
    gpu "$root/$spec" training.max_steps=25 "${sizes[@]}" || return 0
    fast=$(field step_time_median_s)
    gpu "$root/$spec" training.max_steps=25 "${sizes[@]}" training.numerics=exact || return 0
    exact=$(field step_time_median_s)
    ratios="$ratios $(awk "BEGIN {print $exact / $fast}")"
    echo "  pair $i: fast $fast s, exact $exact s"
  done
  fact exact_over_fast "$(spread "$ratios")"
  within "$(numbers "$ratios" | median)" 1.15 || problem 'exact mode takes more than 1.15 of fast'
  if DML_CUDA_NORM=library gpu "$root/$spec" training.max_steps="$steps" "${sizes[@]}"; then
    fact bf16_with_batch_norm_by_cudnn "$(rate "$batch")"
  fi
  fact pytorch_whole_batch "$(line=$(rival resnet50 bf16 "$batch" "$side" "$steps"); echo "${line:-null}")"
  fact pytorch_compiled "$(line=$(rival resnet50 bf16 "$batch" "$side" "$steps" --compile); echo "${line:-null}")"
}

phase_matrices() {
  local batch side steps pairs ceiling share tiny='' run_s=120
  batch=$(size 8192 4) side=$(size 8192 32) steps=$(size 30 3) pairs=$(size 3 1)
  [ -z "$emulated" ] || tiny='data.pool=4 data.samples=8 data.test_samples=4'
  # shellcheck disable=SC2086
  duel mlp_bf16 "$pairs" 1.0 examples/mlp-wide.yaml mlp bf16 "$batch" "$batch" "$side" "$steps" model.input="[$((side / 8))]" \
    model.hidden="[$side,$side,$side,$side,$side,$side,$side,$side]" model.classes=$((side / 8)) $tiny
  [ -z "$emulated" ] || return 0
  limit 100 "$build/dml-bench" ceilings -b $backend -k linear_fwd -J "$out/ceilings.json" >"$out/log" 2>&1 ||
    { problem 'dml-bench ceilings failed'; return; }
  ceiling=$("$python" -c 'import json, sys
print(next(r["rate"][1] for r in json.load(open(sys.argv[1]))["results"] if r["kernel"] == "linear_fwd" and r["type"] == "BF16"))' \
    "$out/ceilings.json")
  # 7 products of side x side and the last layer: forward, input and weight gradient; the first has no input gradient
  share=$(awk "BEGIN {s = $side; print $(rate "$batch") * 2 * (7 * 3 * s * s + (2 + 3) * s * s / 8) / ($ceiling * 1e12)}")
  echo "  ceiling $ceiling TFLOP/s, the training reaches $share of it"
  fact ceiling_tflops "$ceiling"
  fact share_of_ceiling "$share"
  at_least "$share" 0.85 || problem "the MLP reaches $share of the ceiling, less than 0.85"
}

# ---- faults

# Children of process $1 that were started under the name $2; nothing is forked: it has to be quick.
children() {
  local p name all=()
  pids=''
  { read -r -a all <"/proc/$1/task/$1/children"; } 2>/dev/null || true
  for p in ${all[@]+"${all[@]}"}; do
    name=''
    { IFS= read -r -d '' name <"/proc/$p/cmdline"; } 2>/dev/null || true
    [ "$name" != "$2" ] || pids="$pids $p"
  done
}

now() { date +%s.%N; }

phase_faults() {
  local name spec overrides trials rows='' i run_pid killed ended code noticed started_at
  trials=$(size 5 1)
  read -r name spec overrides < <(models)
  for i in $(seq "$trials"); do
    rm -rf "$out/run"
    # shellcheck disable=SC2046,SC2086
    setsid "$train" "$root/$spec" $overrides training.max_steps=1000000 parallelism.backend=$backend $(layout 2 1 1f1b) \
      run.output_dir="$out/run" logging.console=line logging.interval=1 >"$out/log" 2>&1 &
    run_pid=$!
    for _ in $(seq 600); do
      grep -qs '"type":"step"' "$out/run/metrics.jsonl" && break
      sleep 0.1
    done
    children $run_pid dml-worker
    # shellcheck disable=SC2086
    set -- $pids
    [ $# -gt 0 ] || { tail -20 "$out/log"; kill -9 $run_pid 2>/dev/null; problem "trial $i: no worker"; continue; }
    killed=$(now)
    kill -9 "$1"
    for _ in $(seq 3000); do kill -0 $run_pid 2>/dev/null || break; sleep 0.01; done
    if kill -0 $run_pid 2>/dev/null; then
      kill -9 $run_pid
      problem "trial $i: still running 30 s after the SIGKILL of a worker"
      continue
    fi
    ended=$(now) code=0
    wait $run_pid || code=$?
    [ $code = 6 ] || problem "trial $i: exit code $code, not 6"
    started_at=$(sed -n '1s/.*"time_unix_s":\([0-9.]*\),"wall_time_s":\([0-9.]*\),.*/\1 \2/p' "$out/run/metrics.jsonl" |
      awk '{printf "%.6f", $1 - $2}')
    noticed=$(sed -n 's/.*"type":"failure".*"t_detect_s":\([0-9.]*\),.*/\1/p' "$out/run/metrics.jsonl" | head -n 1)
    noticed=$(awk "BEGIN {printf \"%.4f\", ${started_at:-0} + ${noticed:-0} - $killed}")
    ended=$(awk "BEGIN {printf \"%.4f\", $ended - $killed}")
    echo "  trial $i: noticed after $noticed s, all gone after $ended s"
    rows="$rows${rows:+,}{\"noticed_s\":$noticed,\"all_gone_s\":$ended}"
  done
  fact kills "[$rows]"
}

# ---- recovery

recoveries() { grep -c '"type":"recovery"' "$out/run/metrics.jsonl" 2>/dev/null || true; }

# until_recoveries N: within 30 s, while the run lives
until_recoveries() {
  for _ in $(seq 600); do
    [ "$(recoveries)" -lt "$1" ] || return 0
    kill -0 $run_pid 2>/dev/null || return 1
    sleep 0.05
  done
  return 1
}

device_mib() { nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null | head -n 1; }

# cycles SECONDS MOST: faults one after the other into the run under way, each once the lost one of before is back; the types in `struck`
cycles() {
  local until=$((SECONDS + $1)) most=$2 i=0 types=(kill gpu_error gpu_hang) type before left
  struck='' mib=''
  while [ $i -lt "$most" ] && [ $SECONDS -lt $until ]; do
    type=${types[$((i % 3))]}
    children $run_pid dml-worker
    before=$pids
    "$build/dml-ctl" "$out/run" inject "$type" rank=$((i % ranks)) >"$out/answer" 2>&1 ||
      { problem "cycle $i: $type is refused: $(cat "$out/answer")"; return; }
    i=$((i + 1))
    until_recoveries $((2 * i)) || { tail -20 "$out/log"; problem "cycle $i: $type is not recovered from within 30 s"; return; }
    struck="$struck $type"
    children $run_pid dml-worker
    left=$(comm -12 <(numbers "$before" | sort) <(numbers "$pids" | sort) | wc -l)
    [ "$left" -eq $((ranks - 1)) ] || problem "cycle $i: of $ranks processes $left are left, not $((ranks - 1))"
    mib="$mib $(device_mib)"
  done
}

# "type detect_ms step_ms" of each loss: from the fault until it was noticed, from there until a step was committed
losses_of_workers() {
  paste -d ' ' <(numbers "$struck") <(grep '"type":"recovery"' "$out/run/metrics.jsonl" | grep '"reason":"loss"' |
    sed 's/.*"t_fault_s":\([^,]*\),"t_detect_s":\([^,]*\),.*"t_first_step_s":\([^,]*\),.*/\1 \2 \3/' |
    awk '{printf "%.1f %.1f\n", ($2 - $1) * 1e3, ($3 - $2) * 1e3}')
}

phase_recovery() {
  local name spec overrides rows='' pp dp ranks run_pid code steps hash type bar worst first last struck mib
  read -r name spec overrides < <(models)
  while read -r pp dp; do
    ranks=$((pp * dp))
    rm -rf "$out/run"
    # shellcheck disable=SC2046,SC2086
    setsid "$train" "$root/$spec" $overrides training.numerics=exact lr_scheduler.name=constant training.max_steps=10000000 \
      parallelism.backend=$backend parallelism.timeout=20s $(layout "$pp" "$dp" 1f1b) failures.policy=replan failures.respawn=on \
      failures.respawn_delay=0s failures.max_failures=1000 run.output_dir="$out/run" logging.console=line logging.interval=1000 >"$out/log" 2>&1 &
    run_pid=$!
    for _ in $(seq 600); do
      grep -qs '"type":"step"' "$out/run/metrics.jsonl" && break
      sleep 0.1
    done
    cycles "$(size 110 180)" "${DML_GPU_CYCLES:-$(size 100 3)}"
    "$build/dml-ctl" "$out/run" stop >/dev/null 2>&1 || true
    for _ in $(seq 200); do kill -0 $run_pid 2>/dev/null || break; sleep 0.05; done
    ! kill -0 $run_pid 2>/dev/null || { kill -9 $run_pid; problem "$pp x $dp: does not stop"; continue; }
    code=0
    wait $run_pid || code=$?
    [ $code = 143 ] || { tail -20 "$out/log"; problem "$pp x $dp: exit code $code, not that of a run told to stop"; continue; }
    losses_of_workers >"$out/times"
    steps=$(field steps) hash=$(field weights_hash)
    for type in $(numbers "$struck" | sort -u); do
      bar=50
      [ $type != gpu_hang ] || bar=5000
      worst=$(awk -v t=$type '$1 == t && $2 > m {m = $2} END {print m + 0}' "$out/times")
      [ -n "$emulated" ] || within "$worst" $bar || problem "$pp x $dp: $type noticed after $worst ms, more than $bar"
      rows="$rows${rows:+,}
  {\"pp\":$pp,\"dp\":$dp,\"type\":\"$type\",\"detect_ms\":$(spread "$(awk -v t=$type '$1 == t {print $2}' "$out/times" | paste -sd' ')"),\"next_step_ms\":$(spread "$(awk -v t=$type '$1 == t {print $3}' "$out/times" | paste -sd' ')")}"
    done
    worst=$(awk '$3 > m {m = $3} END {print m + 0}' "$out/times")
    [ -n "$emulated" ] || within "$worst" 3000 || problem "$pp x $dp: a step $worst ms after the loss was noticed, more than 3000"
    read -r first last < <(numbers "$mib" | sed -n '1p;$p' | paste -sd' ') || true
    [ -n "$emulated" ] || within "$((${last:-0} - ${first:-0}))" 1 || problem "$pp x $dp: device memory went from $first to $last MiB"
    echo "  $pp x $dp: $(wc -l <"$out/times") losses and returns in $steps steps, a step at most $worst ms after a loss was noticed"
    # shellcheck disable=SC2046,SC2086
    run_s=100 gpu "$root/$spec" $overrides training.numerics=exact lr_scheduler.name=constant training.max_steps="$steps" \
      $(layout "$pp" "$dp" 1f1b) logging.interval=1000 || continue
    [ "$(field weights_hash)" = "$hash" ] || problem "$pp x $dp: weights $hash after losses, $(field weights_hash) without"
  done < <(printf '%s\n' '1 2' '2 2')
  fact losses "[$rows]"
}
