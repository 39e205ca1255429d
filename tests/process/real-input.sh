#!/usr/bin/env bash
# Real records in and out: import, export, compare byte for byte; then again, with `kill -9` five times during the import.
#
#   tests/process/real-input.sh FILE.tsv
#
# FILE.tsv has a key, a tab and the rest on each line; its keys are distinct. A table that you have will do, for example a
# list of packages, `find / -printf '%p\t%s\n'`, or a word list with line numbers. CORELANE names the binary (by default
# target/release/corelane), PORT the port (by default 7701), KILLS how often to kill (by default 5).
set -euo pipefail

[ $# -eq 1 ] && [ -f "$1" ] || { echo "usage: $0 FILE.tsv" >&2; exit 64; }
file=$(realpath "$1")
corelane=${CORELANE:-$(dirname "$0")/../../target/release/corelane}
port=${PORT:-7701}
kills=${KILLS:-5}
export CORELANE_CONNECT=127.0.0.1:$port LC_ALL=C

work=$(mktemp -d)
node=
cleanup() {
  [ -z "$node" ] || kill -9 "$node" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

# start DIR: a node on DIR, ready for clients.
start() {
  mkfifo "$work/ready"
  "$corelane" start --data "$1" --listen "$CORELANE_CONNECT" >"$work/ready" 2>>"$work/node.log" &
  node=$!
  read -r line <"$work/ready" || { cat "$work/node.log" >&2; exit 1; }
  rm "$work/ready"
  case $line in "corelane ready"*) ;; *) echo "unexpected: $line" >&2; exit 1 ;; esac
}

stop() {
  kill -TERM "$node"
  wait "$node"
  node=
}

# compare NAME: what the node holds is what the file says.
compare() {
  local began=$SECONDS
  "$corelane" export >"$work/out.tsv" 2>"$work/export.log"
  sort "$work/out.tsv" >"$work/out.sorted"
  cmp "$work/in.sorted" "$work/out.sorted"
  echo "$1: $(wc -l <"$work/out.tsv") records, $(stat -c %s "$work/out.tsv") bytes, identical after sorting (export $((SECONDS - began)) s)"
  rm "$work/out.tsv" "$work/out.sorted"
}

sort "$file" >"$work/in.sorted"
[ "$(cut -f1 "$work/in.sorted" | uniq -d | wc -l)" -eq 0 ] || { echo "the keys of $file are not distinct" >&2; exit 65; }

start "$work/plain"
began=$SECONDS
"$corelane" import "$file" --restart --checkpoint "$work/plain.checkpoint" >"$work/import.log" 2>&1 || { cat "$work/import.log" >&2; exit 1; }
whole=$((SECONDS - began))
echo "import: $(tail -n 1 "$work/import.log")"
compare "plain"
stop
"$corelane" check "$work/plain" >/dev/null

# The same again. The node is killed while the import runs, and the importer itself at every second time.
start "$work/killed"
import() {
  # `exec`, so that the number is the importer's own.
  (exec "$corelane" import "$file" --checkpoint "$work/killed.checkpoint" >>"$work/import.log" 2>&1) &
  importer=$!
}
import
pause=$(awk "BEGIN { print (($whole < 4 ? 4 : $whole) / ($kills + 2)) }")
for kill in $(seq "$kills"); do
  sleep "$pause"
  kill -0 "$importer" 2>/dev/null || { echo "the import ended before kill $kill: the file is too small" >&2; exit 1; }
  kill -9 "$node"
  wait "$node" 2>/dev/null || true
  if [ $((kill % 2)) -eq 0 ]; then
    kill -9 "$importer"
    wait "$importer" 2>/dev/null || true
    start "$work/killed"
    import
  else
    start "$work/killed"
  fi
done
wait "$importer"
compare "killed $kills times"
stop
"$corelane" check "$work/killed" >/dev/null
echo "check: both data directories are intact"
