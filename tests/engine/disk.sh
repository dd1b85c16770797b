#!/usr/bin/env bash
# A disk that fills up, and one that becomes read-only, under a run that saves: training goes on, each save that fails is told, what was
# saved before stays and loads, and saving goes on when there is room again.
#   disk.sh BUILD_FOLDER SOURCE_FOLDER
# Exit 77, "skipped", where no file system can be mounted.
set -uo pipefail
if [ -z "${DML_DISK_MOUNTED:-}" ]; then # in name spaces of its own: no other process sees the mount
  unshare -rm true 2>/dev/null || { echo 'skipped: no mount of our own here'; exit 77; }
  DML_DISK_MOUNTED=1 exec unshare -rm bash "$0" "$@"
fi
train=$1/dml-train net=$2/tests/specs/checkpoint-net.yaml
work=$(mktemp -d) disk=
trap 'kill "${run:-0}" 2>/dev/null; [ -z "$disk" ] || umount "$disk"; rm -rf "$work"' EXIT
mkdir "$work/disk"
mount -t tmpfs -o size=512k none "$work/disk" || { echo 'skipped: no mount of our own here'; exit 77; }
disk=$work/disk
# a learning rate that does not depend on how many steps there are to be
options=(lr_scheduler.name=constant training.eval_interval=0 logging.console=line logging.interval=1000)
saving=(checkpoint.folder="$disk/ckpt" checkpoint.interval=50 parallelism.pp=2 parallelism.dp=2)
failed=0 weights=()
fail() { failed=1; echo "FAIL: $1"; tail -15 "$work/log" | sed 's/^/    /'; }
lines() { grep -cE -- "$1" "$work/log"; }
until_more() { # text: one more line of it than now
  local had
  had=$(lines "$1")
  for ((i = 0; i < 3000; i++)); do
    [ "$(lines "$1")" -gt "$had" ] && return
    kill -0 "$run" 2>/dev/null || break
    sleep 0.02
  done
  fail "no line more of '$1'"
}
newest() { ls "$disk/ckpt" | grep '^step-' | tail -1; }

# SIGTERM ends it: it lasts as long as this script needs.
: >"$work/log"
"$train" "$net" "${options[@]}" "${saving[@]}" run.output_dir="$work/run" training.max_steps=1000000 >"$work/log" 2>&1 </dev/null &
run=$!
for trouble in full read-only; do
  until_more '^saved '
  case $trouble in
  full) cat /dev/zero >"$disk/fill" 2>/dev/null; told='No space left on device' ;;
  read-only)
    until mount -o remount,ro "$disk" 2>/dev/null; do sleep 0.01; done # not while a file is open for writing
    told='Read-only file system' ;;
  esac
  until_more "is not saved, training goes on: .*$told"
  kept=$(newest)
  [ -n "$kept" ] || fail "$trouble: no checkpoint is left"
  until_more "is not saved, training goes on: .*$told"
  [ "$(newest)" = "$kept" ] || fail "$trouble: $kept gave way to '$(newest)'"
  find "$disk/ckpt" -name '*.tmp' -not -newer "$disk/ckpt/$kept" | grep -q . && fail "$trouble: leftovers of a save"
  cp -r "$disk/ckpt" "$work/$trouble"
  case $trouble in
  full) rm "$disk/fill" ;;
  read-only) mount -o remount,rw "$disk" ;;
  esac
done
until_more '^saved '
kill -TERM "$run"; wait "$run"; got=$?
[ "$got" -eq 75 ] || fail "asked to stop it saves and exits with 75, not $got"
grep -q '"level":"error".*is not saved' "$work/run/metrics.jsonl" || fail 'the metrics do not tell of it'

# Saved in trouble, resumed by another layout, the weights are those of the run that never saved.
for trouble in full read-only; do
  step=$((10#$(ls "$work/$trouble" | grep -o '[0-9]*$' | tail -1)))
  for how in never "$work/$trouble"; do
    [ "$how" = never ] && from=(--resume=never) || from=(--resume=latest checkpoint.folder="$how")
    "$train" "$net" "${options[@]}" training.max_steps=$((step + 20)) run.output_dir="$work/again" "${from[@]}" >"$work/log" 2>&1 || fail "$trouble: a run to step $((step + 20)), resumed from $how"
    weights[${#weights[@]}]=$(sed -n 's/^  weights  *//p' "$work/log")
  done
  [ -n "${weights[-1]}" ] && [ "${weights[-1]}" = "${weights[-2]}" ] || fail "$trouble: resumed ${weights[-1]}, undisturbed ${weights[-2]}"
done
[ $failed -eq 0 ] && echo "checkpoints survive a full and a read-only disk; resumed: ${weights[*]}"
exit $failed
