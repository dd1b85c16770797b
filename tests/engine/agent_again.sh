#!/usr/bin/env bash
# Kills the agent of real runs with SIGKILL at random instants, some while a worker is being recovered from.
#
#   agent_again.sh DML_TRAIN SPEC TRIALS SEED
#
# Each trial kills the agent one to three times; every second one kills a worker at a random instant before, the others
# save checkpoints and snapshots, and a run that goes on from one of them loses its agent, too.  Each run ends with 0; metrics.jsonl has every step once and in order, one start and one end; the weights are those of the
# undisturbed run (exact numerics); no process stays.  Says how long the longest gap was between a kill and the
# next agent's first line.
set -uo pipefail
train=$1 spec=$2 trials=$3 RANDOM=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
options=(parallelism.pp=2 parallelism.dp=2 parallelism.split=auto training.numerics=exact failures.policy=replan
  failures.respawn=on logging.console=line logging.interval=1 --max-steps 12)
longest=0 killed=0 lost=0

fail() { echo "trial $trial: $*"; sed 's/^/    /' "$work/log" | tail -30; exit 1; }
hash_of() { grep -o '"weights_hash": *"[0-9a-f]*"' "$1/metrics.jsonl" | tail -1; }

. "$(dirname "$0")/../support/children.sh"

kill_one() { # a random one of the role
  children "$1"
  # shellcheck disable=SC2086
  set -- $pids
  [ $# -gt 0 ] || return 1
  shift $((RANDOM % $#))
  kill -9 "$1" 2>/dev/null
}

again() { grep -c 'the agent was started again' "$work/log"; }
nap() { sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"; }

# The steps of a run that begins after $1, each once and in order; one start, one end; the weights of the undisturbed run.
look_at() {
  local steps
  steps=$(grep -o '"type": *"step"[^}]*' "$work/out/metrics.jsonl" | grep -o '"step": *[0-9]*' | grep -o '[0-9]*$' | tr '\n' ' ')
  [ "$steps" = "$(seq -s ' ' $(($1 + 1)) 12) " ] || fail "steps in metrics.jsonl: $steps"
  for type in run_start run_end; do
    [ "$(grep -c "\"type\": *\"$type\"" "$work/out/metrics.jsonl")" -eq 1 ] || fail "$type is not there once"
  done
  [ "$(hash_of "$work/out")" = "$want" ] || fail "weights $(hash_of "$work/out"), not $want"
  pgrep -s $run >/dev/null && { sleep 1; pgrep -s $run >/dev/null && fail "processes stay: $(pgrep -as $run)"; }
}

begin() { # options
  rm -rf "$work/out"
  : >"$work/log" # whoever waits for a line of it is not to find the run before
  setsid "$train" "$spec" "${options[@]}" run.output_dir="$work/out" "$@" >"$work/log" 2>&1 &
  run=$!
  until grep -q '^step ' "$work/log" || ! kill -0 $run 2>/dev/null; do sleep 0.01; done
}

end() {
  for _ in $(seq 600); do kill -0 $run 2>/dev/null || break; sleep 0.05; done
  kill -0 $run 2>/dev/null && { kill -9 $run; fail "still running after 30 s"; }
  wait $run
  code=$?
  [ $code -eq 0 ] || fail "exit code $code"
}

trial=0
"$train" "$spec" "${options[@]}" run.output_dir="$work/whole" >"$work/log" 2>&1 || fail "the undisturbed run"
want=$(hash_of "$work/whole")
[ -n "$want" ] || fail "no weights hash"

for trial in $(seq "$trials"); do
  saving=()
  [ $((trial % 2)) -eq 1 ] && saving=(checkpoint.interval=5 failures.snapshot_interval=2)
  begin "${saving[@]}"
  nap $((RANDOM % 700))
  if [ $((trial % 2)) -eq 0 ]; then
    kill_one worker && lost=$((lost + 1))
    nap $((RANDOM % 300))
  fi
  for _ in $(seq $((1 + RANDOM % 3))); do
    before=$(again) begin=$(date +%s%N)
    kill_one agent || break
    killed=$((killed + 1))
    until [ "$(again)" -gt "$before" ] || ! kill -0 $run 2>/dev/null; do sleep 0.002; done
    ms=$((($(date +%s%N) - begin) / 1000000))
    [ $ms -gt $longest ] && longest=$ms
    nap $((RANDOM % 400))
  done
  end
  look_at 0
  [ ${#saving[@]} -gt 0 ] || continue
  rm -rf "$work/saved"
  mv "$work/out/checkpoints" "$work/saved" || fail "nothing was saved"
  oldest=$(ls "$work/saved" | grep '^step-' | head -1)
  begin --resume="$work/saved/$oldest"
  kill_one agent && killed=$((killed + 1))
  end
  look_at $((10#${oldest#step-}))
done
echo "$trials runs, $killed kills of the agent, $lost of a worker: no step lost or twice, the same bits;" \
  "at most $longest ms until the next agent followed"
