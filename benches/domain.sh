#!/usr/bin/env bash
# The daily backup of a running domain, beside virtnbdbackup's: wall time and growth, in one run.
#
#   benches/domain.sh FOLDER [RUNS [SHARE]]
#
# Makes a lab (tests/lab) below FOLDER with a domain without an OS, whose disk of 4 GiB holds 2.2 GiB
# of this machine's /usr. Each run writes 640 blocks of 64 KiB at random places through QEMU, 1 % of
# the disk: SHARE of two (1 unless said otherwise) random bytes, the others one byte repeated. Then an
# incremental backup is timed. virtnbdbackup refuses domains that have checkpoints of others, so the two have their
# runs one after the other, with the same places. Needs the package virtnbdbackup and 8 GiB.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:?FOLDER is wanted}")
runs=${2:-3}
share=${3:-1}
cairn=$here/target/release/cairn
lab() { bash "$here/tests/lab/lab.sh" -d "$folder/lab" "$@"; }
command -v virtnbdbackup >/dev/null || { echo "virtnbdbackup is missing" >&2; exit 1; }

mkdir -p "$folder"
trap 'lab down --wipe' EXIT
lab up
lab define bench light vda=4G
eval "$(lab env)"
disk=$(virsh domblklist bench | awk '/vda/ {print $2}')
virsh destroy bench >/dev/null 2>&1 || true
(tar -C /usr -cf - lib share bin 2>/dev/null || true) | head -c 2200M >"$folder/data.raw"
qemu-img convert -f raw -O qcow2 "$folder/data.raw" "$disk"
qemu-img resize -q "$disk" 4G
rm "$folder/data.raw"
mkdir -p "$folder/random"
virsh start bench >/dev/null

# dirty SEED [SHARE]: SHARE of 2 blocks hold random bytes (1 unless said otherwise).
dirty() {
    /usr/bin/python3 - "$1" "${2:-1}" "$folder/random" <<'PY'
import os, random, subprocess, sys
random.seed(int(sys.argv[1]))
places = random.sample(range(2200 * 16), 640)
shell = subprocess.Popen(["virsh", "-q"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
for i, place in enumerate(places):
    what = f"-P {i % 255}"
    if i % 2 < int(sys.argv[2]):
        # Bytes of its own for each place, since equal ones would be stored once.
        what = f"-s {sys.argv[3]}/{i}"
        with open(f"{sys.argv[3]}/{i}", "wb") as file:
            file.write(os.urandom(65536))
    shell.stdin.write("qemu-monitor-command bench --hmp 'qemu-io -d "
        f"/machine/peripheral/virtio-disk0/virtio-backend \"write {what} {place * 65536} 64k\"'\n")
shell.stdin.close()
shell.wait()
PY
}
seconds() { local begun; begun=$(date +%s.%N); "$@" >"$folder/log" 2>&1; echo "$(date +%s.%N) - $begun" | bc; }
bytes() { du -sb "$1" | cut -f1; }

export CAIRN_REPOSITORY=$folder/repository CAIRN_RUN_DIR=$folder/run XDG_CACHE_HOME=$folder/cache
rm -rf "$CAIRN_REPOSITORY" "$folder/virtnbdbackup"
"$cairn" init -q >/dev/null
echo "cairn, first: $(seconds "$cairn" backup bench) s, $(bytes "$CAIRN_REPOSITORY") bytes"
for run in $(seq "$runs"); do
    dirty "$run" "$share"
    before=$(bytes "$CAIRN_REPOSITORY")
    took=$(seconds "$cairn" backup bench --incremental)
    echo "cairn, incremental: $took s, $(($(bytes "$CAIRN_REPOSITORY") - before)) bytes more"
done
for name in $(virsh checkpoint-list bench --name); do virsh checkpoint-delete bench "$name" >/dev/null; done
nbdbackup() { virtnbdbackup -U "$LIBVIRT_DEFAULT_URI" -d bench -l "$1" -o "$folder/virtnbdbackup"; }
echo "virtnbdbackup, full: $(seconds nbdbackup full) s, $(bytes "$folder/virtnbdbackup") bytes"
for run in $(seq "$runs"); do
    dirty "$run" "$share"
    before=$(bytes "$folder/virtnbdbackup")
    took=$(seconds nbdbackup inc)
    echo "virtnbdbackup, inc: $took s, $(($(bytes "$folder/virtnbdbackup") - before)) bytes more"
done
