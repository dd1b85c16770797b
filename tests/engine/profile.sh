#!/usr/bin/env bash
# A real profile of a small net: measured, read by dml-plan and dml-train, refused when it is not for them.
# usage: profile.sh BUILD SOURCE
set -u
build=$1
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here" || exit 1

fail()
{
  echo "FAILED: $*"
  exit 1
}

cat > net.yaml <<'END'
model: {type: mlp, input: [1, 8, 8], hidden: [64, 64], activation: relu, classes: 4}
data: {format: synthetic, samples: 256, test_samples: 8, pool: 64}
training: {max_steps: 6, global_batch_size: 64, micro_batch_size: 8, eval_interval: 0}
parallelism: {backend: cpu, threads_per_worker: 1, pipeline_parallel_size: 2, link: {latency: 2ms, bandwidth: 1MB/s}}
END

"$build/dml-plan" profile net.yaml --iterations 12 --rows 4,8 -o net.json > table.txt 2> log.txt ||
  fail "profile: $(cat log.txt)"
grep -q 'relu1 .* fc1' table.txt || fail "the fused activation does not name who carries it: $(cat table.txt)"
grep -q 'links: shm, emulated, 2000000 ns and 1000000 B/s' table.txt || fail "$(cat table.txt)"

# What is emulated is what was measured: 2 ms, and no faster than 1 MB/s, but for the noise of a line through a few.
jq=$(sed -n '/"link": {/,/}/p' net.json)
latency=$(echo "$jq" | sed -n 's/.*"latency_ns": \([0-9]*\).*/\1/p')
rate=$(echo "$jq" | sed -n 's/.*"bytes_per_s": \([0-9]*\).*/\1/p')
[ "$latency" -ge 1500000 ] || fail "latency $latency ns over a link of 2 ms"
[ "$rate" -le 1300000 ] && [ "$rate" -gt 0 ] || fail "$rate B/s over a link of 1 MB/s"

"$build/dml-plan" net.yaml profile=net.json > plan.txt || fail "plan"
grep -q '^step: .* by profile net.json of 20' plan.txt || fail "the plan does not say whose costs: $(cat plan.txt)"
"$build/dml-plan" net.yaml > plan.txt && grep -q 'assumed 50 GFLOP/s; not measured' plan.txt ||
  fail "without a profile"

"$build/dml-train" net.yaml profile=net.json run.output_dir=out > run.txt 2>&1 || fail "$(cat run.txt)"
grep -q 'planned .* ms a step, .*, by profile net.json of' run.txt || fail "header: $(cat run.txt)"
grep -q 'step time .* planned [0-9.]* ms, predicted' run.txt || fail "summary: $(cat run.txt)"
grep -q '"type":"run_end".*"planned_step_time_s":[0-9]' out/metrics.jsonl || fail "run_end"
grep -q '"type":"plan".*"costs":"profile net.json' out/metrics.jsonl || fail "plan record"

# Cores are shared among the workers that measure, not among those of the spec's layout.
n=$(nproc)
if [ "$n" -ge 2 ] && [ "$n" -le 16 ]; then
  "$build/dml-plan" profile net.yaml parallelism.pp=1 parallelism.threads_per_worker=0 --workers "$n" --iterations 4 \
    --rows 8 -o all.json > table.txt 2>&1 || fail "$(cat table.txt)"
  grep -q "$n workers at once, 1 thread each" table.txt || fail "$(head -1 table.txt)"
fi

# Estimated: of no machine, and it loads.
"$build/dml-plan" profile net.yaml --model -o model.json > table.txt 2>&1 || fail "--model: $(cat table.txt)"
"$build/dml-plan" net.yaml profile=model.json > plan.txt 2>&1 || fail "$(cat plan.txt)"
grep -q '^step: .* by profile model.json of .*roofline' plan.txt || fail "$(cat plan.txt)"

# Stale and foreign.
"$build/dml-train" net.yaml profile=net.json model.hidden=[64,32] run.output_dir=out2 > run.txt 2>&1 &&
  fail "a profile of another model was taken"
grep -q 'of another model' run.txt || fail "$(cat run.txt)"
sed 's/"cpu": ".*"/"cpu": "Z80"/' net.json > foreign.json
"$build/dml-plan" net.yaml profile=foreign.json > run.txt 2>&1 && fail "a foreign profile was taken"
grep -q 'made on the processor Z80.*profile_check: model\|made on the processor Z80' run.txt || fail "$(cat run.txt)"
"$build/dml-plan" net.yaml profile=foreign.json profile_check=model > run.txt 2>&1 || fail "$(cat run.txt)"

"$build/dml-plan" profile net.yaml --rows 8,4 > run.txt 2>&1 && fail "descending rows were taken"
"$build/dml-plan" profile net.yaml parallelism.backend=cuda > run.txt 2>&1
code=$?
[ $code -eq 0 ] || grep -qi 'gpu\|cuda' run.txt || fail "no word of the backend: $(cat run.txt)"
[ -z "$(pgrep -f "$here" || true)" ] || fail "a process was left"
echo ok
