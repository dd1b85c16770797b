#!/usr/bin/env bash
# What 8 H100 would take for two models in every layout, without one of them: the tables of docs/predictions.md.
#
#   bench/predictions.sh [BUILD]           prints the page as it would be now
#   bench/predictions.sh [BUILD] --write   and writes it
#   bench/predictions.sh [BUILD] --check   exits 1, with the difference, unless the page says the same
#
# The page's text stands in the page; between a line `<!-- command: ... -->` and the next `<!-- end -->` stands what the
# command prints.  Nothing is measured: the same sources give the same tables anywhere.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build
case ${1:-} in --* | '') ;; *) build=$(cd "$1" && pwd) && shift ;; esac
page=$root/docs/predictions.md

render() {
  local line inside=
  while IFS= read -r line; do
    case $line in
    '<!-- command: '*)
      printf '%s\n```text\n' "$line"
      line=${line#<!-- command: }
      # shellcheck disable=SC2086 # the command's words
      (cd "$root" && set -- ${line% -->} && shift && "$build/dml-plan" "$@")
      printf '```\n'
      inside=1
      ;;
    '<!-- end -->') inside= && printf '%s\n' "$line" ;;
    *) [ -n "$inside" ] || printf '%s\n' "$line" ;;
    esac
  done <"$page"
}

case ${1:-} in
'') render ;;
--write) now=$(render) && printf '%s\n' "$now" >"$page" ;;
--check)
  render | diff -u "$page" - ||
    { echo "docs/predictions.md says something else: bench/predictions.sh BUILD --write, and look at why" >&2; exit 1; }
  ;;
*) echo "usage: bench/predictions.sh [BUILD] [--write | --check]" >&2; exit 2 ;;
esac
