#!/usr/bin/env bash
# Says what found each bug planted in transactions. Fails when nothing did. Some minutes.
#
#   engine/txn/tests/planted_bugs.sh              all bugs
#   engine/txn/tests/planted_bugs.sh NAME…        only these
set -euo pipefail
cd "$(dirname "$0")/../../.."

mapfile -t bugs < <(grep -rhoE 'planted_bug!\("txn-[a-z-]+"\)' engine/txn/src | sed 's/.*"\(.*\)".*/\1/' | sort -u)

source tests/system/plant.sh
cargo test --quiet --locked --offline -p corelane-txn --no-run
failed=0
printf '%-36s %s\n' "planted bug" "found by"
for bug in "${bugs[@]}"; do
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx -- "$bug"; then continue; fi
  plant "$bug"
  out="$target/$bug.txt"
  export RUST_BACKTRACE=0
  found=''
  for suite in exhaustive scripts schedules locks; do
    if ! timeout 300 cargo test --quiet --locked --offline -p corelane-txn --test "$suite" >"$out" 2>&1; then
      case $suite in
        exhaustive) what=$(sed -n 's/^\(.*\), after$/\1/p' "$out" | head -1) ;;
        scripts) what="$(sed -n 's/^    scripts::\([a-z0-9_:]*\)$/\1/p' "$out" | sort -u | head -2 | tr '\n' ' ')" ;;
        locks) what="$(sed -n 's/^    \([a-z_]*\)$/\1/p' "$out" | sort -u | head -1)" ;;
        schedules) what=$(sed -n 's/^replay with SEEDS=\([0-9]*\)\.\..*/seed \1/p' "$out" | head -1) ;;
      esac
      found="$found$suite (${what% }), "
    fi
  done
  printf '%-36s %s\n' "$bug" "${found:-NOTHING}"
  [ -n "$found" ] || failed=1
done
exit "$failed"
