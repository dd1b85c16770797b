#!/usr/bin/env bash
# Real processes under balance: dynamic: the plan changes while workers slow down and recover, and no bit does.
#   balance.sh BUILD_FOLDER SOURCE_FOLDER
set -uo pipefail
train=$1/dml-train spec=$2/tests/specs/changes.yaml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAIL: $*"; tail -25 "$work/log" | sed 's/^/    /'; exit 1; }
figure() { sed -n "s/^  $1 *//p" "$work/log"; }

run() { # overrides...
  "$train" "$spec" run.output_dir="$work/out" training.max_steps=42 "$@" >"$work/log" 2>&1 || fail "exit $? of $*"
  hash=$(figure weights) loss=$(figure 'last loss') test=$(figure test)
  changes=$(grep -c '^balance' "$work/log")
}

same() { # least number of changes, overrides...
  local least=$1
  shift
  rm -rf "$work/out"
  run "$@"
  [ "$hash $loss $test" = "$want" ] || fail "$hash $loss $test, undisturbed $want, under $*"
  [ "$changes" -ge "$least" ] || fail "$changes changes of plan, at least $least expected"
  echo "$changes changes of plan, weights $hash: $*"
}

run parallelism.balance=static
want="$hash $loss $test"
[ "$changes" -eq 0 ] || fail "a plan changed under balance: static"
same 3 parallelism.balance_interval=2
grep -q 'shares 4:4:4 -> 5:5:2' "$work/log" || fail "shares do not follow a worker at half speed"
grep -q '"type":"balance"' "$work/out/metrics.jsonl" || fail "no record of the balance"
plans=$(grep -c '"type":"plan"' "$work/out/metrics.jsonl")
[ "$plans" -ge 4 ] || fail "$plans records of plans"
same 1 parallelism.pp=2 parallelism.dp=2 parallelism.balance_interval=3
