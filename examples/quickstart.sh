#!/usr/bin/env bash
# Builds corelane, starts a node, imports something real, asks questions, pulls the plug, looks again, cleans up.
#
#   examples/quickstart.sh              imports a list of the files of the Rust toolchain and your crates: path, size, time
#   examples/quickstart.sh FILE.tsv     imports your own file: the first column is the key
#
# Needs a Rust toolchain and a C compiler, and no network once the dependencies are there. Leaves nothing behind but target/.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }
show() { printf '$ corelane %s\n' "$*"; "$corelane" "$@"; }

if [ -z "${CORELANE:-}" ]; then
  say "Building (the first time takes a few minutes) …"
  cargo build --release --locked -p corelane-cli
  CORELANE="${CARGO_TARGET_DIR:-target}/release/corelane"
fi
corelane=$CORELANE

work=$(mktemp -d)
node=
cleanup() { [ -z "$node" ] || kill -9 "$node" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT

# Starts a node and waits for its ready line.
start() {
  : >"$work/ready"
  "$corelane" start --data "$work/data" --listen "${CORELANE_CONNECT:-127.0.0.1:0}" --json >"$work/ready" 2>>"$work/log" &
  node=$!
  until [ -s "$work/ready" ]; do
    kill -0 "$node" 2>/dev/null || { node=; cat "$work/log" >&2; exit 1; }
    sleep 0.05
  done
  CORELANE_CONNECT=$(sed -n 's/.*"address":"\([^"]*\)".*/\1/p' "$work/ready")
  export CORELANE_CONNECT
}

say "Starting a node"
start
echo "it listens at $CORELANE_CONNECT"

data=${1:-}
if [ -z "$data" ]; then
  say "Listing the files of the Rust toolchain and of your crates"
  data=$work/files.tsv
  find "$(rustc --print sysroot)" "${CARGO_HOME:-$HOME/.cargo}/registry" -type f -printf '%p\t%s\t%TY-%Tm-%Td\n' 2>/dev/null |
    grep -v "$(printf '\t.*\t.*\t')" >"$data" || true
fi

say "Importing it"
show import "$data" --checkpoint "$work/checkpoint"
show scan --count

say "Asking"
key=$(sed -n '1000{s/\t.*//p;q}' "$data")
show get "${key:-$(head -n 1 "$data" | cut -f 1)}"
show scan --limit 5
show range ls | cut -c 1-100

say "Pulling the plug (kill -9), starting again"
kill -9 "$node"
wait "$node" 2>/dev/null || true
start
show scan --count

say "Exporting, and comparing with what was imported"
show export "$work/out.tsv"
if cmp <(LC_ALL=C sort "$data") <(LC_ALL=C sort "$work/out.tsv"); then
  echo "the same, byte for byte"
else
  # A file may repeat a key; then the last line won, which is no difference between equal lines.
  [ "$(cut -f 1 "$data" | LC_ALL=C sort -u | wc -l)" = "$(wc -l <"$work/out.tsv")" ] || exit 1
  echo "the same keys; keys that stood on several lines have the last one's value"
fi

say "Status"
show status | head -n 12
kill "$node"
wait "$node" 2>/dev/null || true
node=
say "Done."
