#!/usr/bin/env bash
# Installs what is missing, builds, and trains a small CNN on Fashion-MNIST in four worker processes,
# two pipeline stages of two replicas each.  Arguments go to dml-train: key.path=value, --max-steps N ...
set -euo pipefail
cd "$(dirname "$0")/.."
bash .ci/install
cmake --preset release -Wno-dev >build.log 2>&1 || { cat build.log >&2; exit 1; }
cmake --build --preset release --target programs >>build.log 2>&1 || { tail -40 build.log >&2; exit 1; }
exec build/dml-train examples/quickstart.yaml "$@"
