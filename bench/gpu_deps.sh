#!/usr/bin/env bash
# Packs what a machine with a GPU but without a package registry lacks into an ignored folder that travels with
# the tree: Debian packages of our libraries, their run-time halves, and the commit.  bench/gpu.sh build unpacks it.
#
#   bench/gpu_deps.sh [FOLDER]      default .gpu-deps; at most 64 MiB
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/.gpu-deps}
most=$((64 << 20))

# Libraries of .ci/install, and what they load; compiler, CMake and ninja are there with the GPU's tools.
develop=(libdnnl-dev libfyaml-dev libjansson-dev librandom123-dev libxxhash-dev zlib1g-dev libhwloc-dev libcmocka-dev)
here='^(libc6|libgcc-s1|libgomp1|libstdc\+\+6|gcc-.*-base|libcrypt1)$' # what a compiler came with fits it better
for p in "${develop[@]}"; do
  grep -q "$p" "$root/.ci/install" || { echo "$p is not in .ci/install: one of the lists is old" >&2; exit 1; }
done

needs() { apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@"; }
mapfile -t loaded < <(needs "${develop[@]}" | sed -n 's/^ *Depends: \(lib.*[0-9]\|zlib1g\)$/\1/p' | sort -u)
[ ${#loaded[@]} -gt 0 ] || { echo 'no package lists: apt-get update first' >&2; exit 3; }
mapfile -t packages < <({ printf '%s\n' "${develop[@]}"; needs --recurse "${loaded[@]}" | grep '^[a-z]'; } |
  sort -u | grep -Ev "$here")

mkdir -p "$folder"
rm -f "$folder"/*.deb
(cd "$folder" && apt-get download -qq "${packages[@]}")
git -C "$root" describe --always --dirty --abbrev=12 >"$folder/commit"
bytes=$(du -sb "$folder" | cut -f 1)
printf '%d packages, %d bytes in %s\n' "$(find "$folder" -name '*.deb' | wc -l)" "$bytes" "$folder"
[ "$bytes" -le "$most" ] || { echo "more than $most bytes: they do not travel" >&2; exit 1; }
