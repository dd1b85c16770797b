#!/usr/bin/env bash
# Builds the programs COVER..., runs them, and prints for each file of kernels/cuda and comm/nccl the share of
# its lines that were executed; fails when that of all together is below LEAST percent.
#   coverage.sh CMAKE SOURCE_DIR BUILD_DIR LEAST COVER...
set -euo pipefail
cmake=$1 source=$2 build=$3 least=$4
shift 4
"$cmake" --build "$build" --target "$@" >"$build/coverage.log" 2>&1 || { tail -40 "$build/coverage.log"; exit 1; }
objects=$build/tests/kernels/cuda
find "$objects" -name '*.gcda' -delete
for program in "$@"; do
  arguments=()
  [ "$program" = cover_sweep ] && arguments=(fail 2) # its whole is a campaign of its own
  "$build/tests/emulated/$program" "${arguments[@]}" >"$build/$program.log" 2>&1 ||
    { tail -30 "$build/$program.log"; echo "$program failed"; exit 1; }
done
DML_CUDA_NORM=library "$build/tests/emulated/cover_emulated" forward 8 1 batch_norm >/dev/null
"$build/tests/emulated/cover_sweep" hang 5 >/dev/null 2>&1

# Of every line, whichever instantiation of a template it was: the largest count.
cd "$build"
find "$objects/CMakeFiles/cuda_host_coverage.dir" "$objects/CMakeFiles/cuda_kernels_coverage.dir" -name '*.gcda' |
  xargs gcov -t 2>/dev/null |
  awk -F: -v root="$source/" -v least="$least" '
    { gsub(/[ *]/, "", $1) }
    $2 + 0 == 0 && $3 == "Source" { file = $4; sub(root, "", file); sub(/^(\.\.\/)+/, "", file) }
    $1 != "-" && $2 + 0 > 0       { line[file, $2 + 0] += ($1 != "#####" && $1 != "=====") }
    END {
      for (key in line) {
        split(key, at, SUBSEP)
        all[at[1]]++
        hit[at[1]] += line[key] > 0
      }
      for (f in all)
        if (f ~ /^(kernels\/cuda|comm\/nccl)\/[^\/]*\.(c|cu)$/) {
          printf "%6.1f %% of %4d  %s\n", 100 * hit[f] / all[f], all[f], f | "sort -n"
          hits += hit[f]
          lines += all[f]
        }
      close("sort -n")
      if (lines == 0) { print "nothing was counted"; exit 1 }
      printf "%6.1f %% of %4d  together; at least %s are wanted\n", 100 * hits / lines, lines, least
      exit 100 * hits / lines < least
    }'
