# bench/lib.sh - what the measuring scripts share.  Sourced, not run.
#
# A measurement is a real run of dml-train; its figures are read from the last record of its metrics.jsonl.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
train=${DML_TRAIN:-$root/build/dml-train}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# field NAME: its value in the last run's run_end record; strings without their quotes
field() { tail -n 1 "$out/run/metrics.jsonl" | grep -oE "\"$1\":(\"[^\"]*\"|[^,}]*)" | cut -d: -f2- | tr -d '"'; }

# run SPEC OVERRIDE...: trains; its log is shown when it fails
run() {
  rm -rf "$out/run"
  "$train" "$@" run.output_dir="$out/run" logging.console=line >"$out/log" 2>&1 ||
    { echo "failed: $*" >&2; tail -20 "$out/log" >&2; return 1; }
}

median() { sort -g | awk '{x[NR] = $1} END {print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2}'; }

# environment: one JSON object, for every result
environment() {
  printf '{"date":"%s","commit":"%s","cpu":"%s","cores":%d,"kernel":"%s","compiler":"%s","command":"%s"}' \
    "$(date -u +%F)" "$(git -C "$root" rev-parse --short HEAD)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$(uname -r)" \
    "$(cc --version | head -n 1)" "$1"
}
