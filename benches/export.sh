#!/usr/bin/env bash
# export.sh DISK [REPO] - compares `cairn export` of a disk with `qemu-nbd` of the same disk.
#
# DISK is a raw image. REPO is a repository whose newest snapshot is of that disk as `vda`; without
# it, one is made. Needs the Debian packages qemu-utils, libnbd-bin and python3; TMPDIR takes two
# qcow2 images of DISK, one of them compressed.
#
#   RUNS=5   pairs of runs; medians and the median of the pairs' ratios are printed
#   CAIRN=…  the program; the one built last by default
#
# Each pair runs in turn, so that what else the machine does touches both alike. Speeds are of wall
# time, of client and server together: that is what a client sees. A ratio above 1 means that Cairn
# is faster.
set -euo pipefail
export LC_ALL=C

DISK=$(realpath "${1:?usage: export.sh DISK [REPO]}")
REPO=${2:-}
RUNS=${RUNS:-5}
HERE=$(cd "$(dirname "$0")/.." && pwd)
CAIRN=$(realpath "${CAIRN:-$HERE/target/release/cairn}")
for tool in qemu-img qemu-nbd nbdcopy python3 "$CAIRN"; do
    command -v "$tool" >/dev/null || { echo "export.sh: $tool is missing" >&2; exit 1; }
done

W=$(mktemp -d)
SERVER=
stop() {
    [ -z "$SERVER" ] || { kill "$SERVER" 2>/dev/null && wait "$SERVER" 2>/dev/null; } || true
    SERVER=
}
trap 'stop; rm -rf "$W"' EXIT
say() { printf '[export %(%H:%M:%S)T] %s\n' -1 "$*" >&2; }

if [ -z "$REPO" ]; then
    say "backing up $DISK"
    REPO=$W/repository
    "$CAIRN" init -r "$REPO" >/dev/null
    "$CAIRN" -q backup -r "$REPO" bench --disk "vda=$DISK" >/dev/null
fi
SNAPSHOT=$("$CAIRN" --json snapshots -r "$REPO" |
    python3 -c 'import json,sys; d=json.load(sys.stdin); l=d if isinstance(d,list) else d["snapshots"]; print(max(l, key=lambda s: s["time"])["id"])')
say "making qcow2 images"
qemu-img convert -m 2 -W -c -O qcow2 -o compression_type=zstd "$DISK" "$W/zstd.qcow2"
qemu-img convert -O qcow2 "$DISK" "$W/plain.qcow2"

SOCKET=$W/socket
# serve cairn|zstd|plain: starts a server that has nothing cached of its own
serve() {
    stop
    rm -f "$SOCKET"
    case $1 in
        cairn) "$CAIRN" -q export -r "$REPO" "$SNAPSHOT" --socket "$SOCKET" >/dev/null & ;;
        *) qemu-nbd --read-only --persistent --shared=16 -k "$SOCKET" -f qcow2 "$W/$1.qcow2" & ;;
    esac
    SERVER=$!
    until [ -S "$SOCKET" ]; do sleep 0.01; done
}
URI="nbd+unix:///?socket=$SOCKET"
# seconds COMMAND…: how long it takes
seconds() {
    local TIMEFORMAT=%R
    { time "$@" >/dev/null 2>>"$W/errors"; } 2>&1
}
sequential() { seconds nbdcopy "$URI" null:; }
# One pass over the disk with a stride longer than a frame and a cluster: nothing is read twice.
cold() {
    seconds qemu-img bench -c 19000 -d 16 -s 4096 -S 225280 -f raw "$URI"
}
# A working set of 64 MiB, after one pass that brings it near.
WARM="driver=raw,offset=1073741824,size=67108864,file.driver=nbd,file.server.type=unix"
WARM+=",file.server.path=$SOCKET"
warm() {
    qemu-img bench -c 1100 -d 16 -s 65536 -t none --image-opts "$WARM" >/dev/null
    seconds qemu-img bench -c 200000 -d 16 -s 4096 -S 86016 --image-opts "$WARM"
}

# compare TITLE RIVAL STEP
compare() {
    local title=$1 rival=$2 step=$3 i ours theirs
    : >"$W/pairs"
    for ((i = 0; i < RUNS; i++)); do
        serve cairn; ours=$($step); cp "/proc/$SERVER/status" "$W/status"
        serve "$rival"; theirs=$($step)
        say "$title: $ours s, qemu-nbd $theirs s"
        echo "$ours $theirs" >>"$W/pairs"
    done
    stop
    python3 - "$title" "$W/pairs" "$W/status" <<'END'
import statistics, sys
title, pairs, status = sys.argv[1:]
pairs = [tuple(map(float, line.split())) for line in open(pairs)]
peak = next(int(line.split()[1]) for line in open(status) if line.startswith("VmHWM"))
ours, theirs = (statistics.median(times) for times in zip(*pairs))
ratio = statistics.median(theirs / ours for ours, theirs in pairs)
print(f"| {title} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} | {peak // 1024} |")
END
}

printf '| what | cairn export, s | qemu-nbd, s | speed against qemu-nbd | peak MiB |\n|---|---|---|---|---|\n'
compare "nbdcopy of the disk; zstd qcow2" zstd sequential
compare "4 KiB at random, depth 16, cold; zstd qcow2" zstd cold
compare "4 KiB at random, depth 16, 64 MiB cached; plain qcow2" plain warm
