#!/bin/sh
# Installs what is missing and runs every test. A test whose tool is missing fails.
# Arguments go to cargo test: `tests/run.sh --test cli`.
set -eu
cd "$(dirname "$0")/.."
. tests/packages.sh

install_packages
cargo test --release --workspace --locked "$@"
