#!/usr/bin/env bash
# Says what found each bug planted in placement. Fails when nothing did. Some minutes.
#
#   engine/placement/tests/planted_bugs.sh              all bugs
#   engine/placement/tests/planted_bugs.sh NAME…        only these
set -euo pipefail
cd "$(dirname "$0")/../../.."

mapfile -t bugs < <(grep -rhoE 'planted_bug!\("placement-[a-z-]+"\)' engine/placement/src | sed 's/.*"\(.*\)".*/\1/' | sort -u)

source tests/system/plant.sh
failed=0
printf '%-32s %s\n' "planted bug" "found by"
for bug in "${bugs[@]}"; do
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx -- "$bug"; then continue; fi
  plant "$bug"
  out="$target/$bug.txt"
  export RUST_BACKTRACE=0
  cargo test --quiet -p corelane-placement --no-run
  found=''
  for suite in scripts noise simulate; do
    if ! timeout 300 cargo test --quiet -p corelane-placement --test "$suite" >"$out" 2>&1; then
      case $suite in
        scripts) what="$(sed -n 's/^    scripts::\([a-z_:]*\)$/\1/p' "$out" | sort -u | head -2 | tr '\n' ' ')" ;;
        noise) what=$(sed -n 's/^\(seed [0-9]*\): .*/\1/p' "$out" | head -1) ;;
        simulate) what=$(sed -n 's/^replay with SEEDS=\([0-9]*\)\.\..*/seed \1/p' "$out" | head -1) ;;
      esac
      found="$found$suite (${what% }), "
    fi
  done
  printf '%-32s %s\n' "$bug" "${found:-NOTHING}"
  [ -n "$found" ] || failed=1
done
exit "$failed"
