#!/usr/bin/env bash
# parity.sh WORK [ROUNDS [MIB [PERCENT]]] - what parity costs, and what it takes to repair by it: ROUNDS
# (5) pairs of first backups of a disk of MIB (1024) MiB of random bytes, into new repositories with and
# without PERCENT (5) of parity, in turn. Then a burst is damaged in the middle of every pack, and all are
# repaired at once. Prints wall and CPU seconds, KiB of memory, and medians of the pairs' ratios.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=$1 ROUNDS=${2:-5} MIB=${3:-1024} PERCENT=${4:-5}
mkdir -p "$WORK"
WORK=$(realpath "$WORK")
CAIRN=${CAIRN:-$PWD/target/release/cairn}
[ -x "$CAIRN" ] || { echo "build it first: cargo build --release -p cairn" >&2; exit 2; }
export CAIRN_REPOSITORY=$WORK/repository XDG_CACHE_HOME=$WORK/cache
DISK=$WORK/disk.raw
head -c "${MIB}M" /dev/urandom >"$DISK"

size() { find "$CAIRN_REPOSITORY/$1" -type f -printf '%s\n' | awk '{ s += $1 } END { print s + 0 }'; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
measured() { # command...
    /usr/bin/time -o "$WORK/t" -f '%e %U %S %M' "$@" >"$WORK/log"
    awk '{ print $1, $2 + $3, $4 }' "$WORK/t"
}
backup() { # options of init...
    rm -rf "$CAIRN_REPOSITORY"
    "$CAIRN" init -q "$@" >/dev/null
    sync
    measured "$CAIRN" -q backup vm --disk "vda=$DISK"
}

rm -f "$WORK/pairs"
for round in $(seq "$ROUNDS"); do
    # Who comes first changes from round to round.
    if ((round % 2)); then
        without=$(backup) with=$(backup --parity "$PERCENT")
    else
        with=$(backup --parity "$PERCENT") without=$(backup)
    fi
    echo "$without $with" >>"$WORK/pairs"
    echo "round $round: without $without, with $with"
done
echo "median of the ratios: wall $(awk '{ print $4 / $1 }' "$WORK/pairs" | median)," \
    "CPU $(awk '{ print $5 / $2 }' "$WORK/pairs" | median)"

backup --parity "$PERCENT" >/dev/null
packs=$(size packs) parity=$(size parity)
echo "parity: $parity bytes for packs of $packs, $(awk "BEGIN { print 100 * $parity / $packs }") %"
echo "repair, nothing damaged: $(measured "$CAIRN" -q repair)"
count=0
while read -r pack; do
    blocks=$(($(stat -c %s "$pack") / 4096))
    dd if=/dev/urandom of="$pack" bs=4096 seek=$((blocks / 2)) \
        count=$((blocks * PERCENT / 125)) conv=notrunc status=none
    count=$((count + 1))
done < <(find "$CAIRN_REPOSITORY/packs" -type f -size +1M)
echo "repair, $count packs each with a burst of 0.8 of what heals: $(measured "$CAIRN" -q repair)"
"$CAIRN" -q verify >/dev/null
rm -rf "$CAIRN_REPOSITORY" "$DISK" "$WORK/cache"
