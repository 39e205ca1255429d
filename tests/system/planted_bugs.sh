#!/usr/bin/env bash
# Counts the seeds until each planted bug is found. Fails when one is not found within its number of seeds, of one node or of a
# cluster. What whole nodes do not reach is left to a test of its crate: PACKAGE:TEST instead of a number. One build has all bugs.
#
#   tests/system/planted_bugs.sh              all bugs
#   tests/system/planted_bugs.sh NAME…        only these
set -euo pipefail
cd "$(dirname "$0")/../.."

# Name and seeds within which it must be found (with a c: of clusters, with an m: of clusters whose ranges merge), or the test that must find it.
bugs=(
  "node-ack-before-durable 200"
  "node-clock-bound-ignored 500"
  "node-scan-ignores-ts 50"
  "node-read-not-safe 200"
  "node-reservation-ignored 1000"
  "node-move-ignores-clock 1000"
  "replica-condition-ignores-in-flight 50"
  "replica-forgets-sessions 100"
  "replica-modification-ignores-in-flight 300"
  "replica-split-loses-sessions 2000"
  "log-ack-before-durable 200"
  "log-reads-overtaken-entries corelane-log:entries_model"
  "log-recycle-uncovered 200"
  "storage-flush-skips-sync 500"
  "storage-merge-drops-newest 50"
  "storage-range-tombstone-ignored 50"
  "storage-row-of-another-version 500"
  "node-read-without-lease c300"
  "node-leader-starts-below-lease c300"
  "node-scan-asks-own-node-only c300"
  "node-closed-ignores-in-flight c300"
  "node-follower-serves-unapplied c300"
  "node-closed-survives-leader c300"
  "raft-ack-before-durable c300"
  "node-reserve-ignored c300"
  "node-follower-skips-a-mutation c300"
  "node-learner-votes-at-once c300"
  "node-lives-come-back c300"
  "node-removed-without-grave c300"
  "node-damaged-replica-votes c300"
  "node-lost-log-forgotten c300"
  "node-active-version-not-kept c300"
  "node-goes-on-as-greeted c300"
  "node-speaks-before-active c300"
  "node-version-asks-who-answers c300"
  "node-ack-before-durable c300"
  "log-ack-before-durable c300"
  "replica-forgets-sessions c300"
  "storage-snapshot-without-last-file c300"
  "raft-conflict-kept c300"
  "raft-learner-counts c300"
  "raft-support-promises-nothing c300"
  "raft-vote-twice c300"
  "node-takes-state-before-split c300"
  "node-moved-replica-votes-at-once c300"
  "replica-condition-ignores-in-flight c300"
  "replica-modification-ignores-in-flight c300"
  "storage-range-tombstone-ignored c300"
  "txn-ack-before-all-writes c300"
  "txn-acks-above-staged c300"
  "txn-condition-ignores-timestamp c300"
  "txn-first-committer-unchecked c300"
  "txn-heartbeat-resurrects c300"
  "txn-read-not-noted c300"
  "storage-spilled-intents-go-early corelane-storage:model"
  "node-spilled-intent-loses-its-value c300"
  "replica-spilled-intent-not-met corelane-process:large_transactions"
  "node-merge-thaws-unasked m300"
  "node-merge-waits-for-a-quorum m300"
  "replica-merge-loses-sessions m300"
)

source tests/system/plant.sh
failed=0
printf '%-38s %8s  %s\n' "planted bug" "seeds" "what was seen"
for line in "${bugs[@]}"; do
  read -r bug limit <<<"$line"
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx -- "$bug"; then continue; fi
  plant "$bug"
  out="$target/$bug.txt"
  if [[ $limit == *:* ]]; then
    cargo test --quiet -p "${limit%:*}" --test "${limit#*:}" --no-run
    if RUST_BACKTRACE=0 cargo test --quiet -p "${limit%:*}" --test "${limit#*:}" >"$out" 2>&1; then
      printf '%-38s %8s  %s\n' "$bug" "-" "NOT FOUND by ${limit#*:}"
      failed=1
    else
      seen=$(grep -A1 'panicked at' "$out" | sed -n 2p | cut -c1-120 || true)
      printf '%-38s %8s  %s\n' "$bug" "-" "${limit#*:}: $seen"
    fi
    continue
  fi
  cargo build --quiet --profile sim -p corelane-system --bin sim
  kind=()
  if [[ $limit == c* ]]; then
    kind=(--cluster)
    limit=${limit#c}
  elif [[ $limit == m* ]]; then
    kind=(--cluster --merges)
    limit=${limit#m}
  fi
  if RUST_BACKTRACE=0 "$target/sim/sim" "${kind[@]}" --seeds "1..$((limit + 1))" --failures 1 >"$out" 2>/dev/null; then
    printf '%-38s %8s  %s\n' "$bug" "> $limit" "NOT FOUND"
    failed=1
  else
    seeds=$(sed -n 's/^\([0-9]*\) runs,.*/\1/p' "$out")
    seen=$(sed -n '/^FAILED:/{n;s/^ *//;p;}' "$out" | head -1 | cut -c1-120)
    printf '%-38s %8s  %s\n' "$bug" "$seeds" "$seen"
  fi
done
exit "$failed"
