#!/usr/bin/env bash
# Runs the tests that must find a bug planted in storage. Fails when they do not. The other planted bugs of storage are in tests/system/planted_bugs.sh. Minutes.
#
#   engine/storage/tests/planted_bugs.sh              all bugs
#   engine/storage/tests/planted_bugs.sh NAME…        only these
set -euo pipefail
cd "$(dirname "$0")/../../.."

# Name and the test file that must find it.
bugs=(
  "storage-snapshot-without-last-file snapshot"
)

source tests/system/plant.sh
failed=0
printf '%-38s  %s\n' "planted bug" "what was seen"
for line in "${bugs[@]}"; do
  read -r bug test <<<"$line"
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx -- "$bug"; then continue; fi
  plant "$bug"
  out="$target/$bug.txt"
  cargo test --quiet -p corelane-storage --test "$test" --no-run
  if RUST_BACKTRACE=0 cargo test --quiet -p corelane-storage --test "$test" >"$out" 2>&1; then
    printf '%-38s  %s\n' "$bug" "NOT FOUND"
    failed=1
  else
    seen=$(grep -A1 'panicked at' "$out" | sed -n 2p | cut -c1-80 || true)
    printf '%-38s  %s\n' "$bug" "$seen"
  fi
done
exit "$failed"
