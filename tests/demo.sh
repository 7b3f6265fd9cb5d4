#!/bin/bash
# Shows Cairn at work on a real disk: full backup, change, incremental backup from a dirty bitmap,
# restore, comparison, verification. Needs Debian, root (to install what is missing) and cargo.
#
# Everything it makes lies in one temporary folder, which it removes; it can be run any number of
# times. `KEEP=1 tests/demo.sh` leaves the folder behind. `CAIRN_BINARY=FILE tests/demo.sh` shows a
# program that is built already. TMPDIR says where the folder lies (/tmp otherwise); it takes 2 GiB.
set -euo pipefail
trap 'echo "the demo failed: line $LINENO of $0: $BASH_COMMAND" >&2' ERR
set -o errtrace
cd "$(dirname "$0")/.."
. tests/packages.sh

# How much to put into the disk, in MiB, and what to leave free for the change.
fill_mib=256
spare_mib=128
# Partitions start at 1 MiB, as every current installer has it.
partition_offset=$((1024 * 1024))

step() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
# The demo works inside of its folder, by names without one.
show() {
    printf '   $ %s\n' "${*/#"$cairn"/cairn}"
    "$@" 2>&1 | while IFS= read -r line; do printf '     %s\n' "${line//"$work/"/}"; done
}
# Runs what has something to say only if it fails.
quietly() {
    "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; return 1; }
    rm "$work/said"
}
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1024 / 1024 }'; }
used_bytes() { du -s --block-size=1 "$1" | cut -f1; }
seconds() { awk -v from="$1" -v to="$(date +%s%N)" 'BEGIN { printf "%.1f s", (to - from) / 1e9 }'; }

collect_files() {
    # Whole folders until there is enough: programs, documents and data in the mix of a real system.
    mkdir files
    local taken=0 folder size
    for folder in /usr/share/* /usr/lib/* /usr/bin "${RUSTUP_HOME:-$HOME/.rustup}"/toolchains/*/lib; do
        [ -d "$folder" ] || continue
        # What not everybody may read is left out.
        size=$(du -sm "$folder" 2>/dev/null | cut -f1) || continue
        [ "$((taken + size))" -le "$fill_mib" ] || continue
        mkdir -p "files$(dirname "$folder")"
        cp -a "$folder" "files$folder"
        taken=$((taken + size))
    done
    say "$(find files -type f | wc -l) real files of this machine, $taken MiB"
    fs_mib=$((taken + taken / 4 + spare_mib))
}

make_disk() {
    quietly mke2fs -q -t ext4 -d files fs.img "${fs_mib}M"
    rm -r files
    truncate -s "$((partition_offset + (fs_mib + 1) * 1024 * 1024))" disk.raw
    echo 'start=2048, type=83' | sfdisk --quiet disk.raw
    dd if=fs.img of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
    rm fs.img
    qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
    say "disk.qcow2: a disk of $(mib "$(stat -c %s disk.raw)") with a partition table and an ext4;"
    say "the qcow2 takes $(mib "$(used_bytes disk.qcow2)")"
}

# Changes files in the guest's file system, and brings just the blocks that differ into the qcow2,
# through QEMU, which marks them in the bitmap: what a running guest does to its disk.
change_disk() {
    head -c 3000000 /dev/urandom >new-file
    seq 1 200000 >new-log
    printf '%s\n' 'write new-file photo.jpg' 'write new-log app.log' 'mkdir reports' 'cd reports' \
        'write new-log november.txt' >changes
    quietly debugfs -w -f changes "disk.raw?offset=$partition_offset"
    # The bitmap knows what QEMU wrote: an overlay of the differences, committed into the disk.
    qemu-img create -q -f qcow2 -b disk.raw -F raw changes.qcow2
    qemu-img rebase -f qcow2 -b disk.qcow2 -F qcow2 changes.qcow2
    qemu-img commit -q -f qcow2 changes.qcow2
    rm changes changes.qcow2 new-file new-log
    say "three files and a folder added; the bitmap marks $(mib "$(bitmap_bytes)") of the disk as changed"
}

# Asks QEMU itself, over a socket and read-only; the server ends with its one client.
bitmap_bytes() {
    # The path of a socket may hold 107 bytes, and QEMU wants it whole: this one is always short.
    local socket=/proc/self/cwd/nbd.socket name
    name=$(qemu-img info --output=json disk.qcow2 | sed -n 's/.*"name": "\(cairn-auto-[^"]*\)".*/\1/p')
    qemu-nbd -f qcow2 -r -B "$name" -k "$socket" --fork disk.qcow2
    # Through this window QEMU calls dirty blocks "no data".
    qemu-img map --output=json --image-opts \
        "driver=nbd,server.type=unix,server.path=$socket,x-dirty-bitmap=qemu:dirty-bitmap:$name" |
        tr '{' '\n' | sed -n '/"data": false/s/.*"length": \([0-9]*\).*/\1/p' |
        awk '{ sum += $1 } END { print sum + 0 }'
}

full_backup() {
    say "It adds a bitmap to the image first: from now on QEMU notes in it which blocks change, so the"
    say "next backup knows where to look."
    local from
    from=$(date +%s%N)
    show "$cairn" backup web1 --disk "vda=disk.qcow2,format=qcow2,bitmap=auto"
    say "took $(seconds "$from"); the repository now takes $(mib "$(used_bytes "$CAIRN_REPOSITORY")")"
}

incremental_backup() {
    local before from
    before=$(used_bytes "$CAIRN_REPOSITORY")
    from=$(date +%s%N)
    show "$cairn" backup web1 --disk "vda=disk.qcow2,format=qcow2,bitmap=auto"
    say "took $(seconds "$from"); the repository grew by $((($(used_bytes "$CAIRN_REPOSITORY") - before) / 1024)) KiB."
    say "The snapshot is complete in itself: it needs no other to be restored."
}

restore_and_compare() {
    local from
    from=$(date +%s%N)
    show "$cairn" restore web1@latest --disk vda --to restored.qcow2 --format qcow2
    say "took $(seconds "$from")"
    say "Does QEMU see the same disk?"
    show qemu-img compare -f qcow2 -F qcow2 disk.qcow2 restored.qcow2
    say "And is it the disk that was meant (the changed raw image)?"
    show qemu-img compare -f raw -F qcow2 disk.raw restored.qcow2
    rm restored.qcow2
    say "The first snapshot is still there as it was; restored, its file system is checked:"
    show "$cairn" restore "web1@$first" --disk vda --to first.raw --format raw
    show e2fsck -fn "first.raw?offset=$partition_offset"
    rm first.raw
}

# Where nobody sees cargo's own bar, RocksDB alone would be minutes of silence.
tell_progress() { # TARGET_FOLDER
    local begun sleeper='' minutes=0 files
    begun=$(date +%s)
    trap 'kill $sleeper 2>/dev/null || true; exit 0' TERM
    while :; do
        sleep 60 >/dev/null 2>&1 &
        sleeper=$!
        wait "$sleeper"
        minutes=$((minutes + 1))
        files=$(find "$1/release/build" -path '*/librocksdb-sys-*/out/*.o' -newermt "@$begun" | wc -l)
        say "still building, after $minutes min; of RocksDB's 340 files $files are compiled"
    done 2>/dev/null
}

build() {
    local target=${CARGO_TARGET_DIR:-target} from
    case $target in /*) ;; *) target=$PWD/$target ;; esac
    from=$(date +%s%N)
    [ -t 2 ] || { tell_progress "$target" & teller=$!; }
    cargo build --release --locked --package cairn --target-dir "$target"
    stop_telling
    cairn=$target/release/cairn
    say "built in $(seconds "$from")"
}

stop_telling() {
    [ -z "$teller" ] || { kill "$teller" && wait "$teller"; } 2>/dev/null || true
    teller=
}

work=
teller=
cleanup() {
    stop_telling
    [ -n "$work" ] || return 0
    if [ -n "${KEEP:-}" ]; then say "left behind: $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

step "Tools"
install_packages
say "all there"

if [ -n "${CAIRN_BINARY:-}" ]; then
    step "The program of CAIRN_BINARY, which is built already"
    cairn=$(realpath "$CAIRN_BINARY")
else
    step "Building the release binary (the first time about 9 minutes on two cores, most of it RocksDB)"
    build
fi
say "$("$cairn" --version)"

work=$(mktemp -d "${TMPDIR:-/tmp}/cairn-demo.XXXXXX")
work=$(realpath "$work")
cd "$work"
export CAIRN_REPOSITORY=$work/repository

step "A virtual machine's disk"
collect_files
make_disk

step "A repository, and the first backup: reads everything that is allocated"
show "$cairn" init
full_backup
first=$("$cairn" snapshots --json |
    /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["id"][:12])')

step "The guest changes its disk"
change_disk

step "The second backup: reads what the bitmap says has changed"
incremental_backup

step "What the repository holds"
show "$cairn" snapshots
show "$cairn" stats

step "Restoring the second snapshot, and comparing"
restore_and_compare

step "Verifying every stored byte"
show "$cairn" verify

step "Done: two backups of one disk, both restored and equal to what was backed up"
