# tests/support/children.sh - to be sourced: who runs under the supervisor $run.

# children ROLE: of the supervisor, by the name they were started under, into pids; nothing is forked: it has to be quick
children() {
  local p name all=()
  pids=''
  { read -r -a all <"/proc/$run/task/$run/children"; } 2>/dev/null
  for p in "${all[@]}"; do
    name=''
    { IFS= read -r -d '' name <"/proc/$p/cmdline"; } 2>/dev/null
    [ "$name" = "dml-$1" ] && pids+=" $p"
  done
}
