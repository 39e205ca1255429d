#!/usr/bin/env bash
# Counts the random schedules until each bug planted in the core is found; what they do not find the other tests must, which name
# theirs. Fails when one is not found. For a scheduled job: an hour.
#
#   raft/tests/planted_bugs.sh              all bugs
#   raft/tests/planted_bugs.sh NAME…        only these
set -euo pipefail
cd "$(dirname "$0")/../.."

limit=20000
chunk=500
mapfile -t bugs < <(grep -rhoE 'planted_bug!\("raft-[a-z-]+"\)' raft/src | sed 's/.*"\(.*\)".*/\1/' | sort -u)

source tests/system/plant.sh
failed=0
printf '%-34s %9s  %s\n' "planted bug" "schedules" "what was seen"
for bug in "${bugs[@]}"; do
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx -- "$bug"; then continue; fi
  plant "$bug"
  out="$target/$bug.txt"
  export RUST_BACKTRACE=0
  cargo test --quiet -p corelane-raft --test schedules --no-run
  found='' seen=''
  for ((from = 0; from < limit; from += chunk)); do
    # A bug may also keep a group busy for ever; nothing else takes a minute.
    if ! SCHEDULES="$from..$((from + chunk))" timeout 60 \
      cargo test --quiet -p corelane-raft --test schedules >"$out" 2>&1; then
      found=$(sed -n 's/^replay with SCHEDULES=\([0-9]*\)\.\..*/\1/p' "$out" | head -1)
      found=${found:-$from}
      seen=$(grep -A1 'panicked at' "$out" | sed -n 2p | cut -c1-100 || true)
      break
    fi
  done
  if [ -z "$found" ]; then
    # What chance does not reach has a story of its own.
    if ! cargo test --quiet -p corelane-raft --lib --test scripts --test hostile --test etcd_cases --no-fail-fast >"$out" 2>&1; then
      printf '%-34s %9s  %s\n' "$bug" "-" "$(sed -n 's/^    \(scripts::[a-z_:]*\|[a-z_:]*\)$/\1/p' "$out" | grep -v '^$' | sort -u | head -3 | tr '\n' ' ')"
      continue
    fi
  fi
  if [ -n "$found" ]; then
    printf '%-34s %9s  %s\n' "$bug" "$((found + 1))" "${seen:-no end}"
  else
    printf '%-34s %9s  %s\n' "$bug" "> $limit" "NOT FOUND"
    failed=1
  fi
done
exit "$failed"
