#!/usr/bin/env bash
# Counts the random schedules until each bug planted in the detector is found; then the stories, which name theirs. Fails when one is not found. Minutes.
#
#   engine/liveness/tests/planted_bugs.sh              all bugs
#   engine/liveness/tests/planted_bugs.sh NAME…        only these
set -euo pipefail
cd "$(dirname "$0")/../../.."

limit=2000
chunk=200
mapfile -t bugs < <(grep -rhoE 'planted_bug!\("liveness-[a-z-]+"\)' engine/liveness/src | sed 's/.*"\(.*\)".*/\1/' | sort -u)

source tests/system/plant.sh
failed=0
printf '%-34s %9s  %s\n' "planted bug" "schedules" "what was seen"
for bug in "${bugs[@]}"; do
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx -- "$bug"; then continue; fi
  plant "$bug"
  out="$target/$bug.txt"
  export RUST_BACKTRACE=0
  cargo test --quiet -p corelane-liveness --tests --no-run
  found='-' seen=''
  for ((from = 0; from < limit; from += chunk)); do
    if ! SCHEDULES="$from..$((from + chunk))" timeout 60 \
      cargo test --quiet -p corelane-liveness --test schedules random >"$out" 2>&1; then
      found=$(sed -n 's/^replay with SCHEDULES=\([0-9]*\)\.\..*/\1/p' "$out" | head -1)
      found=$((${found:-$from} + 1))
      seen=$(grep -A1 'panicked at' "$out" | sed -n 2p | cut -c1-80 || true)
      break
    fi
  done
  stories=''
  if ! cargo test --quiet -p corelane-liveness --test scripts --test hostile --no-fail-fast >"$out" 2>&1; then
    stories=$(sed -n 's/^    \(scripts::\)\?\([a-z_]*\)$/\2/p' "$out" | grep -v '^$' | sort -u | head -3 | tr '\n' ' ' || true)
  fi
  if [ "$found" = '-' ] && [ -z "$stories" ]; then
    seen="NOT FOUND"
    failed=1
  fi
  printf '%-34s %9s  %s\n' "$bug" "$found" "${seen:-} [${stories% }]"
done
exit "$failed"
