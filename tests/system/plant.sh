# How to build with a planted bug; for `source`, from the root of the repository. Sets `target`, where such builds go.

target=${CARGO_TARGET_DIR:-target}/bugs
mkdir -p "$target"
target=$(cd "$target" && pwd)

# plant NAME: builds from now on have the bug. By a wrapper for the workspace's crates only; its name is part of what cargo
# remembers, so each bug is built anew.
plant() {
  local wrapper="$target/rustc-$1"
  printf '#!/bin/sh\nrustc=$1; shift\nexec "$rustc" "$@" --cfg '"'bug=\"%s\"'"'\n' "$1" >"$wrapper"
  chmod +x "$wrapper"
  export RUSTC_WORKSPACE_WRAPPER="$wrapper" CARGO_TARGET_DIR="$target" CARGO_PROFILE_DEV_OPT_LEVEL=1
}
