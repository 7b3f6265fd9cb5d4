#!/bin/sh
# Installs what is missing and runs every test. A test whose tool is missing fails, and one that fails
# keeps no other from running. Arguments go to cargo test: `tests/run.sh --test cli`.
set -eu
cd "$(dirname "$0")/.."
. tests/packages.sh

install_packages
# The product as it is released, but that whatever our own code asserts is checked.
CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS
cargo test --release --workspace --locked --no-fail-fast "$@"
