#!/bin/sh
# Keeps in fuzz/seeds what runs have learned: `fuzz/keep.sh [TARGET…]`, after `fuzz/run.sh`.
#
# Of fuzz/corpus the fewest inputs that reach what all of it reaches are taken; of these, those that
# add most, FILES and BYTES at most for a target, those by hand included. Seeds with names of their own were written by hand and stay;
# those that are named by their hash are made anew.
set -eu
cd "$(dirname "$0")/.."
FILES=150
BYTES=102400
host=$(rustc -vV | sed -n 's/^host: //p')
targets=${*:-$(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' fuzz/Cargo.toml)}

merged=$(mktemp -d)
trap 'rm -rf "$merged"' EXIT
for target in $targets; do
    [ "$target" != cairn-fuzz ] || continue
    mkdir -p "fuzz/seeds/$target" "$merged/$target"
    find "fuzz/seeds/$target" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    by_hand=$(cd "fuzz/seeds/$target" && sha1sum -- * 2>/dev/null | cut -d ' ' -f 1)
    # By set cover: the input that adds most is written first.
    "fuzz/target/$host/release/$target" -set_cover_merge=1 -max_len=65536 -timeout=10 \
        -rss_limit_mb=1024 -verbosity=0 "$merged/$target" "fuzz/seeds/$target" "fuzz/corpus/$target" \
        2>"$merged/log" || { cat "$merged/log"; exit 1; }
    files=$(find "fuzz/seeds/$target" -type f | wc -l)
    bytes=$(cat "fuzz/seeds/$target"/* 2>/dev/null | wc -c)
    for name in $(cd "$merged/$target" && find . -type f -printf '%T@ %f\n' | sort -n | cut -d ' ' -f 2); do
        case $by_hand in *"$name"*) continue ;; esac
        more=$(wc -c <"$merged/$target/$name")
        [ "$files" -lt "$FILES" ] && [ $((bytes + more)) -le "$BYTES" ] || continue
        files=$((files + 1))
        bytes=$((bytes + more))
        cp "$merged/$target/$name" "fuzz/seeds/$target/$name"
    done
    echo "$target: $(find "fuzz/seeds/$target" -type f | wc -l) seeds," \
        "$(cat "fuzz/seeds/$target"/* | wc -c) bytes"
done
