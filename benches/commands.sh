#!/usr/bin/env bash
# commands.sh CORPUS [PART]... - measure whole commands on the disks that corpus.sh made.
#
# Every comparison is taken in one run, A B A B, so that a machine that others use spoils both
# sides alike; what counts are the ratios of the medians, not the seconds. Prints Markdown.
# Parts: first days incremental ten small frames (default: all, in this order).
#
# CAIRN: the binary (default target/release/cairn). RUNS: repetitions (3). TMPDIR: where
# repositories and copies go; needs 25 GB free. CORPUS is only read.
# Debian packages: time zstd qemu-utils python3.
set -euo pipefail
export LC_ALL=C

CORPUS=$(realpath "${1:?usage: commands.sh CORPUS [PART]...}"); shift
PARTS=("$@"); [ $# -gt 0 ] || PARTS=(first days incremental ten small frames)
CAIRN=$(realpath "${CAIRN:-$(dirname "$0")/../target/release/cairn}")
RUNS=${RUNS:-3}
for t in /usr/bin/time zstd qemu-img python3 "$CAIRN"; do
    command -v "$t" >/dev/null || { echo "commands.sh: $t is missing" >&2; exit 1; }
done
W=$(mktemp -d "${TMPDIR:-/tmp}/cairn-commands.XXXXXX")
trap 'rm -rf "$W"' EXIT
mkdir "$W/times" "$W/json"
RAW=$CORPUS/raw
DAY0=$RAW/vm-a-day0.raw

# ---------------------------------------------------------------- measuring
say() { printf '[%(%H:%M:%S)T] %s\n' -1 "$*" >&2; }

# Runs a command; keeps its seconds, CPU seconds and peak memory under NAME, its output in json/.
measure() { # NAME COMMAND...
    local name=$1; shift
    sync -f "$W"            # what the run before left dirty is not this one's to write
    /usr/bin/time -a -o "$W/times/$name" -f '%e %U %S %M' "$@" >"$W/json/$name"
}
median() { # NAME wall|cpu|mib
    awk -v what="$2" '{ print what == "wall" ? $1 : what == "cpu" ? $2 + $3 : $4 / 1024 }' \
        "$W/times/$1" | sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'
}
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b; else printf "-" }'; }
field() { # NAME FIELD: a number or text of the last document, of its first disk if that has it
    python3 - "$W/json/$1" "$2" <<'PY'
import json, sys
d = json.load(open(sys.argv[1]))
print({**d, **(d.get("disks") or [{}])[0]}[sys.argv[2]])
PY
}
head_row() { printf '\n### %s\n\n| what | wall s | CPU s | MiB | against | wall | CPU |\n|---|---|---|---|---|---|---|\n' "$1"; }
row() { # LABEL NAME [BASE...]: a line for each base
    local label=$1 name=$2 base; shift 2
    [ $# -gt 0 ] || set -- ""
    for base in "$@"; do
        printf '| %s | %.2f | %.2f | %.0f | ' "$label" "$(median "$name" wall)" \
            "$(median "$name" cpu)" "$(median "$name" mib)"
        if [ -n "$base" ]; then
            printf '%s | %s | %s |\n' "$base" "$(ratio "$(median "$name" wall)" "$(median "$base" wall)")" \
                "$(ratio "$(median "$name" cpu)" "$(median "$base" cpu)")"
        else
            printf '| | |\n'
        fi
    done
}
times_of() { rm -f "${@/#/$W/times/}"; }

# ---------------------------------------------------------------- repositories
unset CAIRN_PASSWORD
init() { # REPOSITORY [OPTION]...
    local repo=$1; shift
    rm -rf "$repo"; "$CAIRN" -q -r "$repo" init "$@" >/dev/null
}
backup() { # NAME REPOSITORY VM SOURCE [OPTION]...
    local name=$1 repo=$2 vm=$3 source=$4; shift 4
    measure "$name" "$CAIRN" -q --json -r "$repo" backup "$vm" --disk "vda=$source" "$@"
}
# Packs never change, so a copy can share them; all else is copied.
fork() { # FROM TO
    rm -rf "$2"; mkdir "$2"
    cp -al "$1/packs" "$2/"
    find "$1" -mindepth 1 -maxdepth 1 ! -name packs -exec cp -a {} "$2/" \;
}
bytes_of() { du -sB1 --exclude=index "$1" | cut -f1; } # allocated, without the cache

# ---------------------------------------------------------------- first backup, restore, verify
part_first() {
    local i z=$W/z
    for ((i = 0; i < RUNS; i++)); do
        say "first $i"
        init "$W/r"; backup backup-raw "$W/r" vm-a "$DAY0,format=raw"
        measure zstd-1 zstd -1 -q -f "$DAY0" -o "$z"
        init "$W/rq"; backup backup-qcow2 "$W/rq" vm-a "$CORPUS/vm-a-day0.qcow2"; rm -rf "$W/rq"
        measure zstd-1-T2 zstd -1 -T2 -q -f "$DAY0" -o "$z"
        CAIRN_PASSWORD=x init "$W/re" --encrypt
        CAIRN_PASSWORD=x backup backup-encrypted "$W/re" vm-a "$DAY0,format=raw"
        measure zstd-1-qcow2 zstd -1 -q -f "$CORPUS/vm-a-day0.qcow2" -o "$W/zq"; rm -f "$W/zq"

        measure restore "$CAIRN" -q --json -r "$W/r" restore vm-a --to "$W/out.raw"
        [ "$i" -gt 0 ] || cmp "$W/out.raw" "$DAY0"
        rm -f "$W/out.raw"
        measure zstd-d zstd -d -q -f "$z" -o "$W/out.raw"; rm -f "$W/out.raw"
        measure zstd-d-sync sh -c 'zstd -d -q -f "$0" -o "$1" && sync "$1"' "$z" "$W/out.raw"; rm -f "$W/out.raw"
        CAIRN_PASSWORD=x measure restore-encrypted "$CAIRN" -q --json -r "$W/re" restore vm-a --to "$W/out.raw"
        rm -f "$W/out.raw"
        measure restore-qcow2 "$CAIRN" -q --json -r "$W/r" restore vm-a --to "$W/out.qcow2"; rm -f "$W/out.qcow2"
        measure verify "$CAIRN" -q --json -r "$W/r" verify
        measure zstd-d-nowhere zstd -d -q -f "$z" -o /dev/null
        CAIRN_PASSWORD=x measure verify-encrypted "$CAIRN" -q --json -r "$W/re" verify
        backup again "$W/r" vm-a "$DAY0,format=raw"
        rm -rf "$W/re"
    done
    head_row "First backup of day 0 ($(field backup-raw read_bytes) bytes of data)"
    row 'backup, raw' backup-raw zstd-1 zstd-1-qcow2 zstd-1-T2
    row 'backup, qcow2' backup-qcow2 zstd-1 zstd-1-qcow2 zstd-1-T2
    row 'backup, raw, encrypted' backup-encrypted backup-raw
    row 'zstd -1, raw' zstd-1; row 'zstd -1, qcow2' zstd-1-qcow2; row 'zstd -1 -T2, raw' zstd-1-T2
    row 'backup again, nothing changed' again backup-raw
    printf '\nBackup again: %s new chunks, %s new bytes. ' "$(field again new_chunks)" "$(field again new_bytes)"
    printf 'Stored: cairn %s bytes, zstd -1 %s.\n' "$(bytes_of "$W/r")" "$(stat -c %s "$z")"
    head_row 'Restore and verify of day 0'
    row 'restore, raw' restore zstd-d zstd-d-sync
    row 'restore, raw, encrypted' restore-encrypted zstd-d
    row 'restore, qcow2' restore-qcow2 zstd-d
    row 'zstd -d -o FILE' zstd-d; row 'zstd -d -o FILE; sync' zstd-d-sync
    row 'verify' verify zstd-d-nowhere
    row 'verify, encrypted' verify-encrypted zstd-d-nowhere
    row 'zstd -d to nowhere' zstd-d-nowhere
    rm -rf "$W/r" "$z"
}

# ---------------------------------------------------------------- seven disks, one repository
part_days() {
    local n sum=0 stored
    init "$W/r"
    printf '\n### Seven disks into one repository, each read whole\n\n'
    printf '| disk | wall s | CPU s | MiB | read | new bytes | repository |\n|---|---|---|---|---|---|---|\n'
    for n in vm-a-day0 vm-a-day1 vm-a-day2 vm-a-day3 vm-a-day4 vm-b vm-c; do
        say "$n"
        times_of day; backup day "$W/r" "${n%-day?}" "$RAW/$n.raw,format=raw"
        printf '| %s | %.2f | %.2f | %.0f | %s | %s | %s |\n' "$n" "$(median day wall)" "$(median day cpu)" \
            "$(median day mib)" "$(field day read_bytes)" "$(field day new_bytes)" "$(bytes_of "$W/r")"
    done
    measure stats "$CAIRN" -q --json -r "$W/r" stats
    stored=$(field stats stored_bytes)
    printf '\n`stats` says %s stored bytes, `du` %s: ratio %s. ' "$stored" "$(bytes_of "$W/r")" \
        "$(awk -v a="$stored" -v b="$(bytes_of "$W/r")" 'BEGIN { printf "%.4f", a / b }')"
    printf 'Index: %s bytes. Dedup %.2f, compression %.2f.\n' "$(du -sB1 "$W/r/index" | cut -f1)" \
        "$(field stats dedup_ratio)" "$(field stats compression_ratio)"
    rm -rf "$W/r"
}

# ---------------------------------------------------------------- day N over day N-1
# A qcow2 delta that holds just the clusters that differ from the day before.
make_delta() { # N FILE
    qemu-img create -q -f qcow2 -F raw -b "$RAW/vm-a-day$1.raw" "$2"
    qemu-img rebase -f qcow2 -F raw -b "$RAW/vm-a-day$(($1 - 1)).raw" "$2"
}
# The day before as a qcow2 with a bitmap, into which the delta is then committed.
make_bitmap_image() { # N DELTA FILE
    cp --sparse=always "$CORPUS/vm-a-day$(($1 - 1)).qcow2" "$3"
    qemu-img bitmap --add "$3" b0
    cp --sparse=always "$2" "$2.commit"
    qemu-img rebase -u -f qcow2 -F qcow2 -b "$3" "$2.commit"
    qemu-img commit -q -f qcow2 "$2.commit" >/dev/null
    rm -f "$2.commit"
}
part_incremental() {
    local n i how table=$W/incremental.md
    # The first table to be printed; the others wait.
    printf '\n### Day N over day N-1\n\n'
    printf '| day | how | dirty bytes | processed | per dirty byte | wall s | CPU s | MiB | wall: scan | CPU: scan | wall: first | CPU: first | recipe |\n'
    printf '|---|---|---|---|---|---|---|---|---|---|---|---|---|\n'
    init "$W/known"; backup day0 "$W/known" vm-a "$DAY0,format=raw"
    for n in 1 2 3 4; do
        say "day $n: images"
        make_delta "$n" "$W/delta.qcow2"
        make_bitmap_image "$n" "$W/delta.qcow2" "$W/bitmap.qcow2"
        times_of full scan delta bitmap
        for ((i = 0; i < RUNS; i++)); do
            say "day $n: run $i"
            for how in full scan delta bitmap; do
                if [ "$how" = full ]; then init "$W/r"; else fork "$W/known" "$W/r"; fi
                case $how in
                    full | scan) backup "$how" "$W/r" vm-a "$RAW/vm-a-day$n.raw,format=raw" ;;
                    delta) backup delta "$W/r" vm-a "$W/delta.qcow2,delta" --parent vm-a@latest ;;
                    bitmap) backup bitmap "$W/r" vm-a "$W/bitmap.qcow2,bitmap=b0" --parent vm-a@latest ;;
                esac
                [ "$how" != delta ] || { rm -rf "$W/next"; mv "$W/r" "$W/next"; }
            done
        done
        for how in full scan delta bitmap; do incremental_row "$n" "$how"; done
        rm -rf "$W/known" "$W/delta.qcow2" "$W/bitmap.qcow2"; mv "$W/next" "$W/known"
    done
    rm -rf "$W/known" "$W/r"
}
incremental_row() { # N HOW
    local dirty read name=$2
    dirty=$(python3 -c 'import json, sys; print(sum(r["length"] for r in json.load(open(sys.argv[1]))))' \
        "$CORPUS/vm-a-day$1.dirty.json")
    read=$(field "$name" read_bytes)
    printf '| %s | %s | %s | %s | %s | %.2f | %.2f | %.0f | %s | %s | %s | %s | %s |\n' "$1" "$name" "$dirty" "$read" \
        "$(ratio "$read" "$dirty")" "$(median "$name" wall)" "$(median "$name" cpu)" "$(median "$name" mib)" \
        "$(ratio "$(median "$name" wall)" "$(median scan wall)")" "$(ratio "$(median "$name" cpu)" "$(median scan cpu)")" \
        "$(ratio "$(median "$name" wall)" "$(median full wall)")" "$(ratio "$(median "$name" cpu)" "$(median full cpu)")" \
        "$([ "$(field "$name" recipe)" = "$(field full recipe)" ] && echo equal || echo DIFFERENT)"
}

# ---------------------------------------------------------------- ten times as large
# A disk of 40 GiB out of day 0's own data: ten times its clusters of 4 KiB, four at a time in ten
# different orders, so that nearly every chunk is new. A qcow2 that holds them once, and refers to
# each ten times.
make_ten() { # FILE
    python3 - "$DAY0" "$1" <<'PY'
import os, random, struct, sys
raw, out = sys.argv[1:]
CLUSTER, TIMES, GROUP = 4096, 10, 4
UNIT = CLUSTER * GROUP
size = os.path.getsize(raw); fd = os.open(raw, os.O_RDONLY); data, at = [], 0
while True:
    try:
        at = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        break
    end = os.lseek(fd, at, os.SEEK_HOLE)
    data += range(-(-at // UNIT), end // UNIT); at = end
l2n = CLUSTER // 8; clusters = size * TIMES // CLUSTER; l1n = -(-clusters // l2n)
l1_at = CLUSTER; l2_at = l1_at + -(-l1n * 8 // CLUSTER) * CLUSTER
refs_at = l2_at + l1n * CLUSTER; data_at = refs_at + CLUSTER
r = random.Random(1); entries = bytearray(l1n * CLUSTER)
for t in range(TIMES):
    order = list(range(len(data))); r.shuffle(order)
    for guest, host in zip(data, order):
        for k in range(GROUP):
            g = t * (size // CLUSTER) + guest * GROUP + k
            struct.pack_into(">Q", entries, g * 8, data_at + host * UNIT + k * CLUSTER)
header = struct.pack(">4sIQIIQIIQQIIQQQQIIQ", b"QFI\xfb", 3, 0, 0, 12, size * TIMES, 0, l1n, l1_at,
                     refs_at, 1, 0, 0, 0, 0, 0, 4, 104, 0)
with open(out, "wb") as f:
    f.write(header); f.seek(l1_at)
    f.write(b"".join(struct.pack(">Q", l2_at + i * CLUSTER) for i in range(l1n)))
    f.seek(l2_at); f.write(entries); f.seek(refs_at); f.write(b"\0" * CLUSTER)
    for unit in data:
        f.write(os.pread(fd, UNIT, unit * UNIT))
PY
}
part_ten() {
    say 'ten times as large'
    make_ten "$W/ten.qcow2"
    times_of one ten verify-one verify-ten
    init "$W/r"; backup one "$W/r" vm-a "$DAY0,format=raw"
    measure verify-one "$CAIRN" -q --json -r "$W/r" verify
    init "$W/r"; backup ten "$W/r" vm-ten "$W/ten.qcow2"
    measure verify-ten "$CAIRN" -q --json -r "$W/r" verify
    head_row "A disk ten times as large ($(field ten read_bytes) bytes, $(field ten new_chunks) new chunks)"
    row 'backup' one; row 'backup, ten times' ten one
    row 'verify' verify-one; row 'verify, ten times' verify-ten verify-one
    rm -rf "$W/r" "$W/ten.qcow2"
}

# ---------------------------------------------------------------- disks of one kind
part_small() {
    local n at
    say 'sparse, random, text, zeros'
    truncate -s 1T "$W/sparse.raw"
    for ((at = 0; at < 64; at++)); do # 16 MiB of data at every 16 GiB
        dd if="$DAY0" of="$W/sparse.raw" bs=16M count=1 skip=$((at * 2)) seek=$((at * 1024)) conv=notrunc status=none
    done
    times_of sparse random text zeros
    init "$W/r"; backup sparse "$W/r" sparse "$W/sparse.raw,format=raw"
    head_row 'Disks of one kind'
    row "1 TiB sparse, $(field sparse read_bytes) bytes of data" sparse
    for n in random text zeros; do
        init "$W/r"; backup "$n" "$W/r" "$n" "$CORPUS/$n.raw,format=raw"
        row "$n, $(stat -c %s "$CORPUS/$n.raw") bytes; repository $(bytes_of "$W/r")" "$n"
    done
    rm -rf "$W/r" "$W/sparse.raw"
}

# ---------------------------------------------------------------- frame sizes
part_frames() {
    local i size
    for size in 64 128 256; do times_of "frame-$size" "unframe-$size"; done
    for ((i = 0; i < RUNS; i++)); do
        for size in 64 128 256; do
            say "frames of $size KiB, $i"
            init "$W/r$size" --frame-size "${size}KiB"
            backup "frame-$size" "$W/r$size" vm-a "$DAY0,format=raw"
            measure "unframe-$size" "$CAIRN" -q --json -r "$W/r$size" verify
        done
    done
    printf '\n### Frame size, day 0\n\n| frame | repository | against 128 KiB | backup CPU s | against 128 KiB | verify CPU s | against 128 KiB |\n|---|---|---|---|---|---|---|\n'
    for size in 64 128 256; do
        printf '| %s KiB | %s | %.4f | %.2f | %s | %.2f | %s |\n' "$size" "$(bytes_of "$W/r$size")" \
            "$(awk -v a="$(bytes_of "$W/r$size")" -v b="$(bytes_of "$W/r128")" 'BEGIN { print a / b }')" \
            "$(median "frame-$size" cpu)" "$(ratio "$(median "frame-$size" cpu)" "$(median frame-128 cpu)")" \
            "$(median "unframe-$size" cpu)" "$(ratio "$(median "unframe-$size" cpu)" "$(median unframe-128 cpu)")"
    done
    rm -rf "$W"/r{64,128,256}
}

printf 'Machine: %s, %s processors, %s, Linux %s. ' \
    "$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)" "$(nproc)" \
    "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)" "$(uname -r)"
printf '%s; zstd %s; %s. Runs: %s. Load average at the start: %s\n' "$("$CAIRN" --version)" \
    "$(zstd -V | grep -o 'v[0-9.]*')" "$(qemu-img --version | sed -n 1p)" "$RUNS" "$(cat /proc/loadavg)"
cat "$RAW"/vm-a-day[0-4].raw "$CORPUS/vm-a-day0.qcow2" >/dev/null # warm, where there is memory
for part in "${PARTS[@]}"; do "part_$part"; done
printf '\nLoad average at the end: %s\n' "$(cat /proc/loadavg)"
