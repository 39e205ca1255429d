#!/bin/sh
# Instructions per entry of both cores, by valgrind: the difference of a long and a short run, so that the start cancels.
set -eu
cd "$(dirname "$0")"
cargo build --release --quiet
bin="${CARGO_TARGET_DIR:-target}/release/throughput"
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bin" "$@" 2>&1 | sed -n 's/.*Collected : //p'
}
echo "| window | core | instructions/entry |"
echo "|---|---|---|"
for window in 1 64 4096; do
    for core in ours theirs; do
        short=$(count "$core" "$window" 100000)
        long=$(count "$core" "$window" 300000)
        echo "| $window | $core | $(((long - short) / 200000)) |"
    done
done
