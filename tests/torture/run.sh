#!/usr/bin/env bash
# run.sh [SECONDS] - torture of real processes on a real folder: four machines are backed up, one
# process collects in a loop, one forgets, one restores and compares, one verifies; any of them is
# killed (SIGKILL) at any moment. At the end every snapshot that was told to be there must give back
# its disk, and verify must be clean. SECONDS (60) may be an hour: `tests/torture/run.sh 3600`.
set -euo pipefail
cd "$(dirname "$0")/../.."
SECONDS_TO_RUN=${1:-60}
CAIRN=$PWD/target/release/cairn
[ -x "$CAIRN" ] || cargo build --release --locked -p cairn
WORK=$(mktemp -d "${TMPDIR:-/tmp}/cairn-torture.XXXXXX")
trap 'touch "$WORK/stop"; wait; [ -e "$WORK/failed" ] || rm -rf "$WORK"' EXIT
export CAIRN_REPOSITORY=$WORK/repository XDG_CACHE_HOME=$WORK/cache
mkdir -p "$WORK"/{disks,known}
"$CAIRN" init --parity 5% >/dev/null
END=$((SECONDS + SECONDS_TO_RUN))

running() { [ $SECONDS -lt $END ] && [ ! -e "$WORK/stop" ]; }
fail() { echo "FAILED: $*" | tee -a "$WORK/failed" >&2; touch "$WORK/stop"; }

# Runs a command, and kills it at a random moment in one of three cases. 137 tells that it was killed.
maybe_killed() {
    if [ $((RANDOM % 3)) = 0 ]; then
        timeout -s KILL "0.$((RANDOM % 90 + 10))" "$@"
    else
        "$@"
    fi
}

# A machine whose disk changes, and comes back to what it was.
machine() {
    local disk=$WORK/disks/$1.raw id code
    head -c 24M /dev/urandom >"$disk"
    cp "$disk" "$disk.old"
    while running; do
        case $((RANDOM % 4)) in
            0) cp "$disk.old" "$disk" ;;
            1) cp "$disk" "$disk.old" ;;
        esac
        dd if=/dev/urandom of="$disk" bs=64K count=$((RANDOM % 24 + 1)) seek=$((RANDOM % 350)) \
            conv=notrunc status=none
        code=0
        maybe_killed "$CAIRN" backup "vm$1" --disk "vda=$disk" --json >"$WORK/out.$1" 2>"$WORK/err.$1" || code=$?
        case $code in
            0)
                id=$(grep -o '"snapshot": *"[0-9a-f]*"' "$WORK/out.$1" | sed -n 1p | grep -o '[0-9a-f]\{64\}')
                sha256sum <"$disk" >"$WORK/known/.$id"
                mv "$WORK/known/.$id" "$WORK/known/$id"
                ;;
            137) ;;
            *) fail "backup of vm$1: exit $code: $(cat "$WORK/err.$1")" ;;
        esac
    done
}

# One that was just killed may still hold its lock: exit 11.
collector() {
    while running; do
        local code=0
        maybe_killed "$CAIRN" gc --grace 0 --max-unused $((RANDOM % 2 * 10)) --wait $((RANDOM % 2))s \
            >"$WORK/out.gc" 2>"$WORK/err.gc" || code=$?
        case $code in 0 | 3 | 11 | 137) ;; *) fail "gc: exit $code: $(cat "$WORK/err.gc")" ;; esac
    done
}

forgetter() {
    while running; do
        local id
        id=$(find "$WORK/known" -type f -not -name '.*' -printf '%f\n' | shuf -n 1)
        if [ "$(find "$WORK/known" -type f | wc -l)" -gt 12 ]; then
            # From here on nobody expects it.
            rm -f "$WORK/known/$id"
            maybe_killed "$CAIRN" forget "$id" >"$WORK/out.forget" 2>&1 || true
        fi
        sleep 0.2
    done
}

# Restores one snapshot that must be there.
restored() { # id file
    local sum
    sum=$(cat "$WORK/known/$1" 2>/dev/null) || return 0
    if ! "$CAIRN" restore "$1" --to "$2" --force >"$WORK/out.restore" 2>&1; then
        # Forgotten meanwhile?
        [ ! -e "$WORK/known/$1" ] || fail "restore of $1: $(cat "$WORK/out.restore")"
        return 0
    fi
    [ "$(sha256sum <"$2")" = "$sum" ] || fail "$1 has other bytes"
}

restorer() {
    while running; do
        local id
        id=$(find "$WORK/known" -type f -not -name '.*' -printf '%f\n' | shuf -n 1)
        [ -z "$id" ] || restored "$id" "$WORK/back.raw"
        sleep 0.1
    done
}

verifier() {
    while running; do
        local code=0
        maybe_killed "$CAIRN" verify >"$WORK/out.verify" 2>&1 || code=$?
        case $code in 0 | 137) ;; *) fail "verify: exit $code: $(cat "$WORK/out.verify")" ;; esac
        sleep 1
    done
}

for number in 1 2 3 4; do machine "$number" & done
collector &
forgetter &
restorer &
verifier &
wait
[ ! -e "$WORK/failed" ] || exit 1
"$CAIRN" gc --grace 0 --max-unused 0
"$CAIRN" verify
count=0
for path in "$WORK"/known/*; do
    restored "$(basename "$path")" "$WORK/back.raw"
    count=$((count + 1))
done
[ ! -e "$WORK/failed" ] || exit 1
echo "$count snapshots are whole; $(find "$CAIRN_REPOSITORY/packs" -type f | wc -l) packs"
