#!/bin/bash
# Shows Cairn at work on a real disk: full backup, change, incremental backup from a dirty bitmap,
# restore, comparison, verification. Needs Debian, root (to install what is missing) and cargo.
#
# Everything it makes lies in one temporary folder, which it removes; it can be run any number of
# times. `KEEP=1 tests/demo.sh` leaves the folder behind.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/packages.sh

# How much to put into the disk, in MiB, and what to leave free for the change.
fill_mib=256
spare_mib=128
# Partitions start at 1 MiB, as every current installer has it.
partition_offset=$((1024 * 1024))

step() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
show() {
    local line="${*//$work\//}"
    printf '   $ %s\n' "${line/#$cairn/cairn}"
    "$@" 2>&1 | sed "s|$work/||; s/^/     /"
}
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1024 / 1024 }'; }
used_bytes() { du -s --block-size=1 "$1" | cut -f1; }
seconds() { awk -v from="$1" -v to="$(date +%s%N)" 'BEGIN { printf "%.1f s", (to - from) / 1e9 }'; }

collect_files() {
    # Whole folders until there is enough: programs, documents and data in the mix of a real system.
    mkdir "$work/files"
    local taken=0 folder size
    for folder in /usr/share/* /usr/lib/* /usr/bin "$HOME"/.rustup/toolchains/*/lib; do
        [ -d "$folder" ] || continue
        size=$(du -sm "$folder" | cut -f1)
        [ "$((taken + size))" -le "$fill_mib" ] || continue
        mkdir -p "$work/files$(dirname "$folder")"
        cp -a "$folder" "$work/files$folder"
        taken=$((taken + size))
    done
    say "$(find "$work/files" -type f | wc -l) real files of this machine, $taken MiB"
    fs_mib=$((taken + taken / 4 + spare_mib))
}

make_disk() {
    mke2fs -q -t ext4 -d "$work/files" "$work/fs.img" "${fs_mib}M" >/dev/null 2>&1
    rm -r "$work/files"
    truncate -s "$((partition_offset + (fs_mib + 1) * 1024 * 1024))" "$work/disk.raw"
    echo 'start=2048, type=83' | sfdisk --quiet "$work/disk.raw"
    dd if="$work/fs.img" of="$work/disk.raw" bs=1M seek=1 conv=notrunc,sparse status=none
    rm "$work/fs.img"
    qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$disk"
    say "disk.qcow2: a disk of $(mib "$(stat -c %s "$work/disk.raw")") with a partition table and an ext4;"
    say "the qcow2 takes $(mib "$(used_bytes "$disk")")"
}

# Changes files in the guest's file system, and brings just the blocks that differ into the qcow2,
# through QEMU, which marks them in the bitmap: what a running guest does to its disk.
change_disk() {
    head -c 3000000 /dev/urandom >"$work/new-file"
    seq 1 200000 >"$work/new-log"
    debugfs -w -f /dev/stdin "$work/disk.raw?offset=$partition_offset" >/dev/null 2>&1 <<COMMANDS
write $work/new-file photo.jpg
write $work/new-log app.log
mkdir reports
cd reports
write $work/new-log november.txt
COMMANDS
    # The bitmap knows what QEMU wrote: an overlay of the differences, committed into the disk.
    qemu-img create -q -f qcow2 -b "$work/disk.raw" -F raw "$work/changes.qcow2"
    qemu-img rebase -f qcow2 -b "$disk" -F qcow2 "$work/changes.qcow2"
    qemu-img commit -q -f qcow2 "$work/changes.qcow2"
    rm "$work/changes.qcow2" "$work/new-file" "$work/new-log"
    say "three files and a folder added; the bitmap marks $(mib "$(bitmap_bytes)") of the disk as changed"
}

# Asks QEMU itself, over a socket and read-only; the server ends with its one client.
bitmap_bytes() {
    local name
    name=$(qemu-img info --output=json "$disk" | sed -n 's/.*"name": "\(cairn-auto-[^"]*\)".*/\1/p')
    qemu-nbd -f qcow2 -r -B "$name" -k "$work/nbd.socket" --fork "$disk"
    # Through this window QEMU calls dirty blocks "no data".
    qemu-img map --output=json --image-opts \
        "driver=nbd,server.type=unix,server.path=$work/nbd.socket,x-dirty-bitmap=qemu:dirty-bitmap:$name" |
        tr '{' '\n' | sed -n '/"data": false/s/.*"length": \([0-9]*\).*/\1/p' |
        awk '{ sum += $1 } END { print sum + 0 }'
}

full_backup() {
    say "It adds a bitmap to the image first: from now on QEMU notes in it which blocks change, so the"
    say "next backup knows where to look."
    local from
    from=$(date +%s%N)
    show "$cairn" backup web1 --disk "vda=$disk,format=qcow2,bitmap=auto"
    say "took $(seconds "$from"); the repository now takes $(mib "$(used_bytes "$CAIRN_REPOSITORY")")"
}

incremental_backup() {
    local before from
    before=$(used_bytes "$CAIRN_REPOSITORY")
    from=$(date +%s%N)
    show "$cairn" backup web1 --disk "vda=$disk,format=qcow2,bitmap=auto"
    say "took $(seconds "$from"); the repository grew by $((($(used_bytes "$CAIRN_REPOSITORY") - before) / 1024)) KiB."
    say "The snapshot is complete in itself: it needs no other to be restored."
}

restore_and_compare() {
    local from
    from=$(date +%s%N)
    show "$cairn" restore web1@latest --disk vda --to "$work/restored.qcow2" --format qcow2
    say "took $(seconds "$from")"
    say "Does QEMU see the same disk?"
    show qemu-img compare -f qcow2 -F qcow2 "$disk" "$work/restored.qcow2"
    say "And is it the disk that was meant (the changed raw image)?"
    show qemu-img compare -f raw -F qcow2 "$work/disk.raw" "$work/restored.qcow2"
    rm "$work/restored.qcow2"
    say "The first snapshot is still there as it was; restored, its file system is checked:"
    show "$cairn" restore "web1@$first" --disk vda --to "$work/first.raw" --format raw
    show e2fsck -fn "$work/first.raw?offset=$partition_offset"
    rm "$work/first.raw"
}

step "Tools"
install_packages
say "all there"

step "Building the release binary (the first time, RocksDB makes this 10 minutes or more)"
from=$(date +%s%N)
cargo build --release --locked --package cairn
cairn=$PWD/${CARGO_TARGET_DIR:-target}/release/cairn
case ${CARGO_TARGET_DIR:-} in /*) cairn=$CARGO_TARGET_DIR/release/cairn ;; esac
say "$("$cairn" --version), built in $(seconds "$from")"

work=$(mktemp -d "${TMPDIR:-/tmp}/cairn-demo.XXXXXX")
disk=$work/disk.qcow2
export CAIRN_REPOSITORY=$work/repository
cleanup() { if [ -n "${KEEP:-}" ]; then say "left behind: $work"; else rm -rf "$work"; fi; }
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

step "A virtual machine's disk"
collect_files
make_disk

step "A repository, and the first backup: reads everything that is allocated"
show "$cairn" init
full_backup
first=$("$cairn" snapshots --json | tr -d ' \n' | sed 's/.*"id":"\([0-9a-f]\{12\}\).*/\1/')

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
