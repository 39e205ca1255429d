# How to build with planted bugs; for `source`, from the root of the repository. Sets `target`, where such builds go.

target=${CARGO_TARGET_DIR:-target}/bugs
mkdir -p "$target"
target=$(cd "$target" && pwd)

# One build has all bugs; by a wrapper for the workspace's crates only, so that dependencies are built as ever.
printf '#!/bin/sh\nrustc=$1; shift\nexec "$rustc" "$@" --cfg planted_bugs\n' >"$target/rustc-planted"
chmod +x "$target/rustc-planted"
export RUSTC_WORKSPACE_WRAPPER="$target/rustc-planted" CARGO_TARGET_DIR="$target" CARGO_PROFILE_DEV_OPT_LEVEL=1

# plant NAME: what runs from now on has the bug.
plant() {
  export CORELANE_BUG="$1"
}
