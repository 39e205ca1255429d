# The same recipes for people and for CI. `just` is optional: each recipe is one command.

# What gates a merge
ci:
    .ci/run

# Formatting, lints, the repository's own lint
check:
    .ci/run format lint
    cargo test -p corelane-system --test tidy

# All tests
test:
    cargo test --workspace

# Rewrite golden files, inline expectations and format hashes; read the diff as carefully as code
bless:
    UPDATE_EXPECT=1 UPDATE_GOLDENFILES=1 BLESS=1 cargo test --workspace

# One seed of the simulator
sim SEED:
    cargo run --profile sim -p corelane-system --bin sim -- --seed {{SEED}}

# Fresh seeds until the minutes are over
sim-swarm MINUTES:
    cargo run --profile swarm -p corelane-system --bin sim -- --seeds $(date +%s)..4000000000 --minutes {{MINUTES}}

# Fresh seeds of clusters until the minutes are over
sim-cluster MINUTES:
    cargo run --profile swarm -p corelane-system --bin sim -- --cluster --seeds $(date +%s)..4000000000 --minutes {{MINUTES}}

# Kills, pauses and cuts on a cluster of real processes, one a round; the histories of its clients are checked. Clocks that jump need
# libfaketime: --faults kill,pause,cut,clock,clock-beyond
fault-rounds ROUNDS SEED="1":
    cargo build -p corelane-cli -p corelane-process
    target/debug/fault-rounds --rounds {{ROUNDS}} --seed {{SEED}}

# A fuzz target, on stable, without a sanitizer (cargo install cargo-fuzz)
fuzz TARGET:
    cd fuzz && cargo fuzz run -s none {{TARGET}}

# The concurrency models of the rings
loom:
    .ci/run loom

# What holds unsafe code, under Miri (nightly)
miri:
    cargo +nightly miri test -p corelane-storage

# A load against a running node, for example: just bench put
bench NAME:
    cargo run --release -p corelane-cli -- bench {{NAME}}

# The documentation, as the compiler sees it
doc:
    .ci/run docs

# Licences, advisories and duplicates (cargo install cargo-deny)
deny:
    cargo deny check
