#!/usr/bin/env bash
# dml-bench: each sub-command runs at tiny sizes, node's report says what it should, and failures are failures.
#   bench.sh BUILD_FOLDER
set -uo pipefail
bench=$1/dml-bench
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

expect() { # exit code, text of its output, then arguments
  local want=$1 text=$2 code=0
  shift 2
  "$bench" "$@" >"$work/log" 2>&1 </dev/null || code=$?
  [ $code -eq "$want" ] && grep -q -- "$text" "$work/log" ||
    { failed=$((failed + 1)); echo "FAIL ($code, not $want, or no '$text'): dml-bench $*"; tail -20 "$work/log"; }
}

expect 0 'node ' --help
expect 2 "no command 'nodes'" nodes
expect 0 '"commit":' environment
expect 0 'cpu, 1 threads, deterministic: 1 kernels, 1 problems each' conform -b cpu -n 1 -k relu_fwd
expect 2 "no backend is called 'none'" conform -b none
expect 0 'relu_bwd .*BF16 .* %' ceilings -b cpu -m 1 -g 64 -n 1 -k relu -J "$work/ceilings.json"
grep -q '"kernel": "relu_bwd"' "$work/ceilings.json" || { failed=$((failed + 1)); echo "FAIL: no relu_bwd in the JSON"; }
expect 0 '# all_reduce' comm -r 2 -e 4K -n 2 -o all_reduce
expect 0 ' -1 .* 0   beside [0-9.]* GFLOP/s' comm -r 2 -b 4K -e 4K -n 2 -o sendrecv_busy
expect 0 ' none *-1 .* N/A$' comm -r 2 -b 4K -e 4K -n 2 -c 0 -o sendrecv
expect 0 'linear_bwd_weight *2 x 4 x 4 *1 *fp32 *1' gemm "$(dirname "$0")/tiny.yaml" -n 1 -g 8
expect 0 'linear_fwd *8 x 4 x 2 *0 *bf16 *2' gemm -x 8,4,2 -p fp32,bf16 -t 1,2 -n 1 -g 8 -J "$work/gemm.json"
[ "$(grep -c '"kernel": "linear_fwd"' "$work/gemm.json")" = 8 ] ||
  { failed=$((failed + 1)); echo "FAIL: not a peak and a shape, in two types, on one thread and two"; }
expect 0 'conv2d_bwd_input *2 x 8x8 4 -> 4, 3x3 /2' conv -x 2,8,8,4,4,3,2 -n 1 -g 8
expect 2 "'2,8,8,4' is no shape" conv -x 2,8,8,4
expect 2 'of fp32,tf32,bf16,fp16' gemm -x 8,4,2 -p fp64
expect 2 'has no conv2d layer' conv "$(dirname "$0")/tiny.yaml"
expect 2 'SPEC or --shape is missing' gemm
expect 0 'relu_fwd' kernels -n 1 -k relu_fwd

spec=$(dirname "$0")/tiny.yaml
few=(-r 2 -n 4 --warmup 3 --loss-step 3)
expect 0 '^2x1 .*1f1b .*strong' train "$spec" --layouts 1x1,2x1,1x2:gpipe "${few[@]}" --json "$work/train.json"
[ "$(grep -c '"loss_agrees": true' "$work/train.json")" = 3 ] ||
  { failed=$((failed + 1)); echo "FAIL: not three rows of one loss"; }
expect 0 'least ratio to the baseline of 3 rows' train "$spec" --layouts 1x1,2x1,1x2:gpipe "${few[@]}" \
  --baseline "$work/train.json" --floor 0.01
expect 7 'is below the floor, 100' train "$spec" --layouts 1x1,2x1 "${few[@]}" --floor 100
expect 7 'there is no efficiency to judge' train "$spec" --layouts 2x1 "${few[@]}" --floor 0.1
expect 4 'another spec' train "$spec" run.seed=2 --layouts 1x1 "${few[@]}" --baseline "$work/train.json"
expect 0 '^1x3 .*1f1b' train "$spec" --layouts all --devices 3 "${few[@]}" --weak # a pipeline of 3 it cannot be
expect 7 'exit code 2' train "$spec" --layouts 8x1 "${few[@]}"
expect 2 'unknown key' train "$spec" nonsense=1
expect 2 'add --devices' train "$spec" --layouts all

expect 0 '^passed in' node -b cpu -q -J "$work/node.json"
for want in '"passed": true' '"same": true' '"weights_hash"' '"busbw_gb_s"' '"samples_per_second"'; do
  grep -q "$want" "$work/node.json" || { failed=$((failed + 1)); echo "FAIL: no $want in node's report"; }
done
[ "$(grep -o '"weights_hash": "[^"]*"' "$work/node.json" | head -n 4 | sort -u | wc -l)" = 1 ] ||
  { failed=$((failed + 1)); echo "FAIL: the four layouts of exact mode have several hashes"; }
[ "$(grep -c '"pipeline": ' "$work/node.json")" = 8 ] || { failed=$((failed + 1)); echo "FAIL: not 4 layouts, twice"; }
expect 7 'no time left' node -b cpu -q -t 0.0001 -J "$work/late.json"
grep -q '"passed": false' "$work/late.json" || { failed=$((failed + 1)); echo "FAIL: a late report passes"; }
bash "$(dirname "$0")/liar.sh" "$work/liar" "$1"
bench=$work/liar/dml-bench
expect 7 'at 2 x 2: other weights than at 1 x 1' node -b cpu -q -J "$work/lie.json"
grep -q '"same": false' "$work/lie.json" || { failed=$((failed + 1)); echo "FAIL: other weights are the same"; }
[ $failed -eq 0 ] && echo "all of dml-bench's commands answer"
