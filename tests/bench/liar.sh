#!/usr/bin/env bash
# A dml-train whose results are wrong, beside a copy of dml-bench: for tests of what compares results.
#   liar.sh FOLDER BUILD_FOLDER
#
# With two replicas it gives other weights, on the GPU other losses.
set -euo pipefail
mkdir -p "$1"
cp "$2/dml-bench" "$1/dml-bench"
cat >"$1/dml-train" <<END
#!/usr/bin/env bash
"$2/dml-train" "\$@" || exit
for word; do case \$word in run.output_dir=*) metrics=\${word#*=}/metrics.jsonl ;; esac; done
case "\$*" in *data_parallel_size=2*) sed -i 's/"weights_hash":"./"weights_hash":"x/' "\$metrics" ;; esac
case "\$*" in *backend=cuda*) sed -i 's/"step":2,\(.*\)"loss":/"step":2,\1"loss":1/' "\$metrics" ;; esac
END
chmod +x "$1/dml-train"
