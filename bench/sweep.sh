#!/bin/sh
# Every candidate of plan: auto, run for real on delay models: is the predicted best the measured best?
#
#   usage: sweep.sh BUILD SPEC WORLD [STEPS]      prints a JSON object: a row for each candidate, and the verdict
#
# Emulated: delay layers sleep, links are waited for.  Rows of layout, schedule and recomputation none, as the ranking of
# `dml-plan --all` lists them.
set -eu
build=$1 spec=$2 world=$3 steps=${4:-4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$build/dml-plan" "$spec" plan=auto "parallelism.world_size=$world" --all > "$work/ranking"
awk '$2 ~ /^[0-9]+x[0-9]+$/ && $1 ~ /^[0-9]+$/ {
    v = 1; k = 3
    if ($3 ~ /^v[0-9]+$/) { v = substr($3, 2); k = 4 }
    if ($(k + 1) != "none") next
    split($2, n, "x")
    print n[1], n[2], v, $k, $(k + 2), $(k + 3)
}' "$work/ranking" > "$work/rows"
rank() { # pp dp v schedule micro
    rm -rf "$work/run"
    "$build/dml-train" "$spec" parallelism.stages=[] plan=none parallelism.split=auto \
        "parallelism.pp=$1" "parallelism.dp=$2" "parallelism.virtual_pipeline_stages=$3" \
        "parallelism.schedule=$4" "training.micro_batch_size=$5" "training.max_steps=$steps" \
        logging.console=line "run.output_dir=$work/run" 2>&1 |
        sed -n 's/.*step time  *median \([0-9.]*\) ms.*/\1/p'
}
echo "{\"label\": \"emulated\", \"spec\": \"$spec\", \"world_size\": $world, \"steps\": $steps, \"rows\": ["
comma=
while read -r pp dp v schedule micro predicted; do
    measured=$(rank "$pp" "$dp" "$v" "$schedule" "$micro" < /dev/null)
    [ -n "$measured" ] || continue
    printf '%s  {"pp": %s, "dp": %s, "virtual": %s, "schedule": "%s", "micro": %s, "predicted_ms": %s, "measured_ms": %s}' \
        "$comma" "$pp" "$dp" "$v" "$schedule" "$micro" "$predicted" "$measured"
    comma=',
'
    echo "$predicted $measured" >> "$work/pairs"
done < "$work/rows"
awk 'NR == 1 { chosen = $2 } NR == 1 || $2 < best { best = $2 }
    END { printf "\n],\n\"chosen_measured_ms\": %s, \"best_measured_ms\": %s, \"chosen_over_best\": %.4f}\n", chosen, best, chosen / best }' \
    "$work/pairs"
