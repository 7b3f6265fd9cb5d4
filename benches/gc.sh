#!/usr/bin/env bash
# gc.sh WORK [ROUNDS [MIB]] - what collecting costs, beside restic's prune and borg's compact on equal
# data: ROUNDS (20) snapshots of a disk of MIB (512) MiB that changes by a twentieth each time, half
# of them forgotten. All repositories plain (restic knows no plain ones), nothing dead may stay.
# Needs restic and borg. Prints wall and CPU seconds and the repositories' sizes.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=$1 ROUNDS=${2:-20} MIB=${3:-512}
mkdir -p "$WORK"
WORK=$(realpath "$WORK")
CAIRN=$PWD/target/release/cairn
[ -x "$CAIRN" ] || { echo "build it first: cargo build --release -p cairn" >&2; exit 2; }
export CAIRN_REPOSITORY=$WORK/cairn XDG_CACHE_HOME=$WORK/cache
export RESTIC_REPOSITORY=$WORK/restic RESTIC_PASSWORD=x BORG_REPO=$WORK/borg
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_BASE_DIR=$WORK/borg-base
rm -rf "$WORK"/{cairn,cache,restic,borg,borg-base,disk.raw,log}
DISK=$WORK/disk.raw

# Half of it random, half of it text: as compressible as disks are.
data() { # mib seed
    python3 - "$1" "$2" <<'PY'
import random, sys
mib, seed = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
words = [bytes(rng.choices(b"abcdefghijklmnop", k=rng.randint(2, 12))) for _ in range(4096)]
for _ in range(mib):
    if rng.random() < 0.5:
        out = rng.randbytes(1 << 20)
    else:
        out = b" ".join(rng.choices(words, k=200_000))[: 1 << 20]
    sys.stdout.buffer.write(out)
PY
}
size() { du -sb --exclude=index "$1" | cut -f1; }
timed() { # label command...
    local label=$1; shift
    /usr/bin/time -o "$WORK/t" -f '%e s wall  %U s user  %S s system  %M KiB' "$@" >>"$WORK/log" 2>&1
    printf '%-16s %s\n' "$label" "$(cat "$WORK/t")"
}

data "$MIB" 1 >"$DISK"
"$CAIRN" init >/dev/null
restic init >/dev/null
borg init -e none
for round in $(seq "$ROUNDS"); do
    for part in $(seq $((MIB / 20))); do
        data 1 $((round * 1000 + part)) |
            dd of="$DISK" bs=1M seek=$(((round * 7919 + part * 104729) % MIB)) conv=notrunc status=none
    done
    "$CAIRN" backup vm --disk "vda=$DISK" >/dev/null
    restic backup -q "$DISK"
    borg create -C zstd,1 "::$round" "$DISK"
done
echo "before: cairn $(size "$WORK/cairn")  restic $(size "$WORK/restic")  borg $(size "$WORK/borg")"

# Every second one goes.
"$CAIRN" snapshots --json | python3 -c '
import json, sys
for snapshot in json.load(sys.stdin)[::2]: print(snapshot["id"])' | xargs "$CAIRN" forget >/dev/null
restic snapshots --json | python3 -c '
import json, sys
for snapshot in json.load(sys.stdin)[::2]: print(snapshot["id"])' | xargs restic forget -q
timed "cairn gc" "$CAIRN" gc --grace 0 --max-unused 0
timed "restic prune" restic prune --max-unused 0
timed "borg delete" borg delete ::1 $(seq 3 2 "$ROUNDS")
timed "borg compact" borg compact --threshold 0
echo "after: cairn $(size "$WORK/cairn")  restic $(size "$WORK/restic")  borg $(size "$WORK/borg")"
"$CAIRN" verify
"$CAIRN" gc --grace 0 --max-unused 0 --dry-run
