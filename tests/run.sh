#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test that belongs in CI:
#   the fast ones and whole runs under ASan with UBSan and under TSan, then all but the long campaigns in the release build.
#   tests/run.sh unit      only the fast ones (under 20 s)
set -euo pipefail
cd "$(dirname "$0")/.."
bash .ci/install tests

build() { # preset
  echo "== build $1"
  cmake --preset "$1" -Wno-dev >"build-$1.log" 2>&1 || { cat "build-$1.log"; exit 1; }
  cmake --build --preset "$1" >>"build-$1.log" 2>&1 || { tail -60 "build-$1.log"; exit 1; }
}

build release
if [ "${1:-}" = unit ]; then
  exec ctest --test-dir build -L unit -LE long -j2 --output-on-failure
fi
echo "== sanitizers"
for preset in asan tsan; do
  build "$preset"
  ctest --test-dir "build-$preset" -L 'unit|runs' -LE long -j2 --output-on-failure --no-tests=error
done
echo "== all tests"
ctest --test-dir build -LE long --output-on-failure --no-tests=error
