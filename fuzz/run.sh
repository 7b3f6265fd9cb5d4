#!/bin/sh
# Builds every fuzz target and runs each for some seconds: `fuzz/run.sh [SECONDS [TARGET…]]`.
#
# Works with the stable toolchain and without cargo-fuzz: libFuzzer needs coverage counters, which
# rustc's own LLVM inserts. What a run learns is kept in fuzz/corpus, crashes in fuzz/artifacts;
# neither is committed. A crash becomes a seed in fuzz/seeds and a test beside the code;
# `fuzz/keep.sh` makes seeds of what was learned. The golden vectors in tests/vectors are seeds too.
#
# Nightly: `fuzz/run.sh 1800`, which takes 9 hours on one core. fuzz/README.md says more.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
targets=${*:-$(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' fuzz/Cargo.toml)}

# The engine links RocksDB, which takes longer to compile than everything else together. The one
# that was compiled for the product serves here: no target looks into it for coverage.
release=${CARGO_TARGET_DIR:-target}/release
find_rocksdb() { find "$release/build" -path '*/librocksdb-sys-*/out/librocksdb.a' -print -quit 2>/dev/null; }
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
    [ -n "$(find_rocksdb)" ] || cargo build --release --locked --package cairn-engine
    ROCKSDB_LIB_DIR=$(realpath "$(dirname "$(find_rocksdb)")")
fi
ROCKSDB_STATIC=1
export ROCKSDB_LIB_DIR ROCKSDB_STATIC

RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
export RUSTFLAGS
# Naming the target keeps the flags away from build scripts and macros.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host" \
    --target-dir fuzz/target

# Turns a folder of vectors into seeds, each after a prefix that the target wants:
# `vectors FOLDER TARGET [PREFIX]`.
vectors() {
    mkdir -p "fuzz/corpus/$2"
    for vector in tests/vectors/"$1"/*.hex; do
        # The bytes stand after the first empty line, in hexadecimal digits.
        perl -e 'local $/; my (undef, $hex) = split /\n\n/, <STDIN>, 2; $hex //= ""; $hex =~ s/\s//g;
            print $ARGV[0], pack("H*", $hex)' "${3:-}" \
            <"$vector" >"fuzz/corpus/$2/vector_$1_$(basename "$vector" .hex)"
    done
}
vectors config config
vectors recipe recipe_node
vectors pack pack
vectors parity parity
vectors manifest document m
vectors keys document k
vectors sealed sealed "00"

for target in $targets; do
    [ "$target" != cairn-fuzz ] || continue
    echo "== fuzzing $target for $seconds s"
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target" "fuzz/seeds/$target"
    "fuzz/target/$host/release/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/"
done
