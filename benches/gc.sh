#!/usr/bin/env bash
# gc.sh WORK [ROUNDS [MIB [DISKS]]] - what collecting costs, beside restic's prune and borg's compact on
# equal data: ROUNDS (20) snapshots of DISKS (1) disks of MIB (512) MiB each, which change by a twentieth
# each time, half of the snapshots forgotten. All repositories plain (restic knows no plain ones),
# nothing dead may stay. Needs restic and borg. Prints wall and CPU seconds and the repositories'
# sizes; then what backups cost that begin every second, alone and beside a collection; then how
# long it takes to delete a thousand packs.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=$1 ROUNDS=${2:-20} MIB=${3:-512} DISKS=${4:-1}
mkdir -p "$WORK"
WORK=$(realpath "$WORK")
CAIRN=$PWD/target/release/cairn
[ -x "$CAIRN" ] || { echo "build it first: cargo build --release -p cairn" >&2; exit 2; }
export CAIRN_REPOSITORY=$WORK/cairn XDG_CACHE_HOME=$WORK/cache
export RESTIC_REPOSITORY=$WORK/restic RESTIC_PASSWORD=x BORG_REPO=$WORK/borg
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_BASE_DIR=$WORK/borg-base
rm -rf "$WORK"/{cairn,cache,restic,borg,borg-base,disks,log,many}
mkdir "$WORK/disks"

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

sources=()
for disk in $(seq "$DISKS"); do
    data "$MIB" "$disk" >"$WORK/disks/$disk.raw"
    sources+=(--disk "vd$disk=$WORK/disks/$disk.raw")
done
"$CAIRN" init >/dev/null
restic init >/dev/null
borg init -e none
for round in $(seq "$ROUNDS"); do
    for disk in $(seq "$DISKS"); do
        for part in $(seq $(((MIB + 19) / 20))); do
            data 1 $((round * 100000 + disk * 1000 + part)) |
                dd of="$WORK/disks/$disk.raw" bs=1M conv=notrunc status=none \
                    seek=$(((round * 7919 + part * 104729 + disk * 31) % MIB))
        done
    done
    "$CAIRN" backup vm "${sources[@]}" >/dev/null
    restic backup -q "$WORK/disks"
    borg create -C zstd,1 "::$round" "$WORK/disks"
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

# Backups of a small disk, one a second; the second half of them beside a collection in a loop, which
# always has something to do.
seconds() { # file...
    sort -n "$@" | awk '{ all[NR] = $1 } END { printf "%d backups, median %.0f ms, longest %.0f ms\n",
        NR, all[int((NR + 1) / 2)] * 1000, all[NR] * 1000 }'
}
backups() { # file count
    for _ in $(seq "$2"); do
        data 4 "$RANDOM" >"$WORK/small.raw"
        /usr/bin/time -a -o "$1" -f %e "$CAIRN" backup small --disk "vda=$WORK/small.raw" >/dev/null
        sleep 1
    done
}
rm -f "$WORK"/{alone,beside,stop}
backups "$WORK/alone" 20
(
    count=0
    while [ ! -e "$WORK/stop" ]; do
        "$CAIRN" snapshots vm --json | python3 -c '
import json, sys
for snapshot in json.load(sys.stdin)[:1]: print(snapshot["id"])' | xargs -r "$CAIRN" forget >/dev/null
        "$CAIRN" gc --grace 0 --max-unused 0 >/dev/null
        count=$((count + 1))
    done
    echo "$count collections beside them"
) &
backups "$WORK/beside" 20
touch "$WORK/stop"
wait
echo "alone:  $(seconds "$WORK/alone")"
echo "beside: $(seconds "$WORK/beside")"

# A thousand packs of 1 MiB, all dead.
export CAIRN_REPOSITORY=$WORK/many
"$CAIRN" init --pack-size 1MiB >/dev/null
head -c 1010M /dev/urandom >"$WORK/small.raw"
"$CAIRN" backup vm --disk "vda=$WORK/small.raw" >/dev/null
"$CAIRN" forget vm >/dev/null
echo "$(find "$WORK/many/packs" -type f | wc -l) packs"
timed "all of them go" "$CAIRN" gc --grace 0
echo "$(find "$WORK/many/packs" -type f | wc -l) packs"
