#!/usr/bin/env bash
# Installs what is missing, builds, and trains a small CNN on Fashion-MNIST in four worker processes, two pipeline stages of
# two replicas each.  One of the four is killed on the way; then the same is trained undisturbed, and the weights of both are
# compared.  Arguments go to dml-train: key.path=value, --max-steps N ...
set -euo pipefail
cd "$(dirname "$0")/.."
bash .ci/install
cmake --preset release -Wno-dev >build.log 2>&1 || { cat build.log >&2; exit 1; }
cmake --build --preset release --target programs >>build.log 2>&1 || { tail -40 build.log >&2; exit 1; }

weights() { sed -n 's/.*"type":"run_end".*"weights_hash":"\([0-9a-f]*\)".*/\1/p' "$1/metrics.jsonl" | tail -n 1; }

build/dml-train examples/quickstart.yaml run.output_dir=runs/quickstart "$@"
echo "  now the same undisturbed ..." >&2
build/dml-train examples/quickstart.yaml run.output_dir=runs/undisturbed failures.inject=[] logging.console=quiet "$@"
if [ "$(weights runs/quickstart)" = "$(weights runs/undisturbed)" ]; then
  echo "  weights hash equals the undisturbed run: $(weights runs/undisturbed)" >&2
else
  echo "  weights $(weights runs/quickstart) are not the undisturbed run's, $(weights runs/undisturbed)" >&2
  exit 7
fi
