#!/usr/bin/env bash
# Every C and CUDA source is as .clang-format says.   format_check.sh CLANG_FORMAT SOURCE_FOLDER
set -euo pipefail
cd "$2"
find engine schedule kernels comm bench tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cc' |
  sort | xargs "$1" --dry-run -Werror
