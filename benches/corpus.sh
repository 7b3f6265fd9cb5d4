#!/usr/bin/env bash
# corpus.sh DIR - build a realistic corpus of VM disk images in DIR.
#
# Needs root, loop devices, a Debian mirror, and the Debian packages
#   debootstrap e2fsprogs xfsprogs gdisk qemu-utils python3 openssl util-linux
#
# What it leaves in DIR:
#   vm-a-day0.qcow2 .. vm-a-day4.qcow2   4 GiB GPT disk, ext4 root at 1 MiB, one full image a day
#   vm-a-day1.dirty.json ..              64 KiB blocks that differ from the day before, as a
#                                        JSON list of {"offset","length"} (merged runs)
#   vm-b.qcow2                           same OS, other packages; ext4 starts at 1 MiB + 4 KiB
#   vm-c.qcow2                           same OS on XFS
#   random.raw text.raw zeros.raw        worst cases: 512 MiB random, 512 MiB text, 1 GiB hole
#   raw/NAME.raw                         each qcow2 again as a sparse raw file (KEEP_RAW=0: not kept)
#   manifest.json                        name, virtual size, allocated bytes, sha256 of the guest data
#   packages-*.txt                       exact package versions of each guest
#
# Fixed: random seeds, UUIDs, hash seeds, GPT GUIDs, host names, page and log contents, order of
# the operations.  Not fixed: what the mirror serves on the day (packages-*.txt records it), inode
# times, and block placement by the kernel's allocator.  So two runs agree in kind and size and,
# for random/text/zeros, bit for bit; not bit for bit for the VMs.
#
# The dirty lists are by content (a block rewritten with the same bytes is not in them), so they
# are a lower bound of what a QEMU dirty bitmap would hold.
set -euo pipefail

DIR=${1:?usage: corpus.sh DIR}
SUITE=${SUITE:-bookworm}
# the mirrors this machine's apt already uses
SITES=$(apt-get indextargets --format '$(SITE)' "Created-By: Packages" | sort -u)
MIRROR=${MIRROR:-$(grep '/debian/*$' <<<"$SITES" | sed -n 1p)}
SECURITY=${SECURITY:-$(grep 'security/*$' <<<"$SITES" | sed -n 1p)}
DISK_SIZE=${DISK_SIZE:-4G}
KEEP_RAW=${KEEP_RAW:-1}
SEED=${SEED:-20240601}
export LC_ALL=C DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH=1717200000

BASE_PKGS=(python3 perl build-essential vim git postgresql linux-image-amd64 initramfs-tools
           openssh-server rsyslog curl less locales python3-numpy openjdk-17-jre-headless
           man-db logrotate cron iproute2 ca-certificates)
DAY1_PKGS=(redis-server jq)
DAY3_PKGS=(nginx php-cli)
VMB_PKGS=(apache2 mariadb-server nodejs ruby)

[ "$(id -u)" = 0 ] || { echo "corpus.sh: needs root" >&2; exit 1; }
for t in debootstrap mke2fs mkfs.xfs sgdisk qemu-img python3 openssl losetup; do
    command -v "$t" >/dev/null || { echo "corpus.sh: $t is missing" >&2; exit 1; }
done

mkdir -p "$DIR" "$DIR/raw"
DIR=$(realpath "$DIR")
W=$DIR/work
mkdir -p "$W" "$W/mnt"
MNT=$W/mnt
LOOP=
say() { printf '[corpus %(%H:%M:%S)T] %s\n' -1 "$*" >&2; }

unmount_guest() { # everything below a guest root
    local root=$1 m
    for m in var/cache/apt/archives sys dev proc; do
        mountpoint -q "$root/$m" && umount "$root/$m"
    done
    return 0
}
cleanup() {
    set +e
    unmount_guest "$W/base"; unmount_guest "$W/vmb"; unmount_guest "$MNT"
    mountpoint -q "$MNT" && umount "$MNT"
    [ -n "$LOOP" ] && losetup -d "$LOOP"
}
trap cleanup EXIT

mount_guest() {
    local root=$1
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    mount -t sysfs sysfs "$root/sys"
}
# run a command inside a guest root, with daemons kept from starting
guest() {
    local root=$1; shift
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C \
        DEBIAN_FRONTEND=noninteractive "$@"
}
APT=(apt-get -y -q -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold
     -o APT::Keep-Downloaded-Packages=true --no-install-recommends)

# ---------------------------------------------------------------- the OS tree
build_base() {
    [ -e "$W/base.done" ] && return
    say "debootstrap $SUITE"
    debootstrap --variant=minbase "$SUITE" "$W/base" "$MIRROR" >"$W/debootstrap.log"
    printf '#!/bin/sh\nexit 101\n' >"$W/base/usr/sbin/policy-rc.d"
    chmod 755 "$W/base/usr/sbin/policy-rc.d"
    cp -L /etc/resolv.conf "$W/base/etc/resolv.conf"
    echo "deb $MIRROR $SUITE main" >"$W/base/etc/apt/sources.list"
    echo vm-a >"$W/base/etc/hostname"
    mount_guest "$W/base"
    guest "$W/base" apt-get -q update >"$W/apt-base.log"
    guest "$W/base" "${APT[@]}" install "${BASE_PKGS[@]}" >>"$W/apt-base.log" 2>&1
    guest "$W/base" apt-get clean
    # security updates exist from here on: they are what day 1 and day 3 upgrade to
    echo "deb $SECURITY $SUITE-security main" >>"$W/base/etc/apt/sources.list"
    guest "$W/base" apt-get -q update >>"$W/apt-base.log"
    guest "$W/base" "${APT[@]}" --download-only dist-upgrade >>"$W/apt-base.log" 2>&1
    guest "$W/base" "${APT[@]}" --download-only install "${DAY1_PKGS[@]}" "${DAY3_PKGS[@]}" \
        >>"$W/apt-base.log" 2>&1
    unmount_guest "$W/base"
    mkdir -p "$W/pool"
    mv "$W"/base/var/cache/apt/archives/*.deb "$W/pool/"
    app_data "$W/base" create
    touch "$W/base.done"
}

# Application data: a 200 MB page file in the manner of PostgreSQL, logs, and a tar-like blob.
app_data() {
    python3 - "$1" "$2" "$SEED" <<'PY'
import os, random, struct, sys
root, what, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
PAGE, NPAGES = 8192, 25600                       # 200 MiB
data = os.path.join(root, "var/lib/app"); os.makedirs(data, exist_ok=True)
log = os.path.join(root, "var/log/app"); os.makedirs(log, exist_ok=True)
WORDS = [w.strip() for w in """account active address amount archive balance batch billing cancel
carrier city client code comment contact country created credit currency customer date debit
default deleted delivery discount draft due email error event expired failed file first gateway
group invoice item label last ledger limit line local login name note number open order owner paid
parcel partner pending person phone pick price priority product queue rate receipt record refund
region remote report result retry return route sale shipped source stage state status stock street
success summary tax team ticket total transfer type unit update user value vendor version void
warehouse weight zone""".split()]

def page(r, no, lsn):
    """8 KiB: a 24-byte header with an LSN and checksum, line pointers, rows filled from the end."""
    rows, used, ptrs = [], 0, 0
    free_target = r.randrange(0, 2500)
    while True:
        row = struct.pack("<IIIHH", lsn & 0xffffffff, 0, no, ptrs, 0x0802) + \
              struct.pack("<Qd", r.getrandbits(40), r.random() * 1000) + \
              "|".join(r.choices(WORDS, k=r.randrange(4, 16))).encode() + \
              b"%032x" % r.getrandbits(128)
        row += b"\0" * (-len(row) % 8)
        if 24 + 4 * (ptrs + 1) + used + len(row) > PAGE - free_target:
            break
        rows.append(row); used += len(row); ptrs += 1
    out = bytearray(PAGE); pos = PAGE
    for i, row in enumerate(rows):
        pos -= len(row); out[pos:pos + len(row)] = row
        struct.pack_into("<HH", out, 24 + 4 * i, pos, len(row) * 2)
    struct.pack_into("<QHHHHHHI", out, 0, lsn, r.getrandbits(16), 0, 24 + 4 * ptrs, pos, PAGE,
                     PAGE | 4, 0)
    return bytes(out)

def line(r, day, n):
    s = n // 40
    return ("2024-06-%02dT%02d:%02d:%02d.%06d host app[%d]: level=%s req=%08x user=%d path=/%s/%s ms=%d\n" % (
        1 + day, s // 3600 % 24, s // 60 % 60, s % 60, r.randrange(10**6), r.randrange(400, 4000),
        r.choice(("info", "info", "info", "warn", "debug", "error")), r.getrandbits(32),
        r.randrange(50000), r.choice(WORDS), r.choice(WORDS), int(r.expovariate(1 / 40.0)))).encode()

def append_logs(r, day, files, total):
    """Small appends to several files in turn, synced often: what makes logs interleave on disk."""
    fds = [os.open(os.path.join(log, f), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640) for f in files]
    n = done = 0
    while done < total:
        fd = r.choice(fds)
        buf = b"".join(line(r, day, n + i) for i in range(r.randrange(1, 200)))
        os.write(fd, buf); done += len(buf); n += 200
        if r.random() < 0.05:
            os.fsync(fd)
    for fd in fds:
        os.fsync(fd); os.close(fd)

LOGS = ["app.log", "access.log", "error.log", "audit.log"]
if what == "create":
    r = random.Random(seed)
    with open(os.path.join(data, "table.db"), "wb") as f:
        for no in range(NPAGES):
            f.write(page(r, no, no))
    with open(os.path.join(data, "blob.bin"), "wb") as f:      # 64 MiB: text, random, text, ...
        for i in range(64):
            f.write(r.randbytes(1 << 20) if i % 2 else
                    " ".join(r.choices(WORDS, k=170000)).encode()[:1 << 20].ljust(1 << 20))
    append_logs(r, 0, LOGS, 24 << 20)
else:
    day = int(what); r = random.Random(seed + day)
    append_logs(r, day, LOGS, 16 << 20)
    fd = os.open(os.path.join(data, "table.db"), os.O_RDWR)
    hot = [r.randrange(NPAGES) for _ in range(NPAGES // 20)]   # 5 % of pages take most writes
    for i in range(2500):
        no = r.choice(hot) if r.random() < 0.7 else r.randrange(NPAGES)
        os.pwrite(fd, page(r, no, day << 32 | i), no * PAGE)
        if i % 64 == 0:
            os.fsync(fd)
    os.fsync(fd); os.close(fd)
    if day == 2:                   # a file rewritten with 100 bytes put in near its front
        p = os.path.join(data, "blob.bin")
        old = open(p, "rb").read()
        with open(p + ".tmp", "wb") as f:
            f.write(old[:5000] + r.randbytes(100) + old[5000:]); os.fsync(f.fileno())
        os.rename(p + ".tmp", p)
PY
}

# ---------------------------------------------------------------- disks
new_disk() { # file disk-guid part-guid first-sector (alignment of 8 sectors)
    rm -f "$1"; truncate -s "$DISK_SIZE" "$1"
    sgdisk -a 8 -U "$2" -n "1:$4:0" -t 1:8300 -c 1:root -u "1:$3" "$1" >/dev/null
}
part_bytes() { # file -> offset size
    local f l
    read -r f l < <(sgdisk -i 1 "$1" | awk '/^First sector/{f=$3} /^Last sector/{l=$3} END{print f, l}')
    echo $((f * 512)) $(((l - f + 1) * 512))
}
make_ext4() { # tree file uuid
    local off size; read -r off size < <(part_bytes "$2")
    E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -F -t ext4 -U "$3" -L root \
        -E "hash_seed=$3,lazy_itable_init=0,lazy_journal_init=0,offset=$off" \
        -b 4096 -d "$1" "$2" "$((size / 1024))k"
}
attach() { # file: its first partition is mounted at $MNT
    local off size; read -r off size < <(part_bytes "$1")
    LOOP=$(losetup --find --show --offset "$off" --sizelimit "$size" "$1")
    mount "$LOOP" "$MNT"
}
detach() {
    sync -f "$MNT"; umount "$MNT"; losetup -d "$LOOP"; LOOP=
}
save() { # work-raw name
    say "saving $2"
    qemu-img convert -f raw -O qcow2 "$1" "$DIR/$2.qcow2"
    if [ "$KEEP_RAW" = 1 ]; then
        rm -f "$DIR/raw/$2.raw"; cp --sparse=always "$1" "$DIR/raw/$2.raw"
    fi
}
dirty() { # old new out.json
    python3 - "$1" "$2" "$3" <<'PY'
import json, os, sys
G, BIG = 65536, 4 << 20
old, new = open(sys.argv[1], "rb", 0), open(sys.argv[2], "rb", 0)
size = os.path.getsize(sys.argv[2]); runs = []
for base in range(0, size, BIG):
    a, b = old.read(BIG), new.read(BIG)
    if a == b:
        continue
    for o in range(0, len(b), G):
        if a[o:o + G] != b[o:o + G]:
            n = min(G, len(b) - o)
            if runs and runs[-1]["offset"] + runs[-1]["length"] == base + o:
                runs[-1]["length"] += n
            else:
                runs.append({"offset": base + o, "length": n})
json.dump(runs, open(sys.argv[3], "w"))
print(sys.argv[3], len(runs), "extents", sum(r["length"] for r in runs), "bytes", file=sys.stderr)
PY
}

# ---------------------------------------------------------------- vm-a and its days
GUID_A=11111111-aaaa-4aaa-8aaa-000000000001
day_packages() {
    # copying the whole pool in would dirty blocks that a real guest would not: bind-mount it
    mkdir -p "$MNT/var/cache/apt/archives/partial" "$W/pool/partial"
    mount_guest "$MNT"
    mount --bind "$W/pool" "$MNT/var/cache/apt/archives"
    guest "$MNT" "${APT[@]}" --no-download "$@" >>"$W/apt-days.log" 2>&1 ||
        { umount "$MNT/var/cache/apt/archives"; unmount_guest "$MNT"; tail -20 "$W/apt-days.log" >&2; return 1; }
    umount "$MNT/var/cache/apt/archives"
    unmount_guest "$MNT"
}
day1() { # a few security upgrades, two new packages
    mapfile -t up < <(chroot "$MNT" apt-get -s -o Debug::NoLocking=1 upgrade 2>/dev/null |
                      awk '/^Inst/{print $2}' | grep -v -E '^linux-' | awk 'NR % 2' )
    day_packages install "${DAY1_PKGS[@]}" "${up[@]}"
}
day2() { # no packages: user files, a source tree compiled and cleaned, the blob rewritten
    cp -a "$MNT/usr/lib/python3.11" "$MNT/home/py" && guest "$MNT" python3 -m compileall -q -f /home/py || true
    find "$MNT/home/py" -name '*.py' -size +40k -delete
}
day3() { # everything else upgraded (a kernel and initramfs with it, where there is one)
    day_packages dist-upgrade
    day_packages install "${DAY3_PKGS[@]}"
    for f in app.log access.log; do            # logrotate
        gzip -9n <"$MNT/var/log/app/$f" >"$MNT/var/log/app/$f.1.gz"; : >"$MNT/var/log/app/$f"
    done
}
day4() { # deletions, then fstrim: the freed blocks become holes
    rm -rf "$MNT/usr/share/doc" "$MNT/usr/share/locale" "$MNT/home/py" "$MNT"/var/lib/apt/lists/*_Packages
    sync -f "$MNT"; fstrim "$MNT"
}

make_vm_a() {
    local raw=$W/vm-a.raw prev=$W/vm-a.prev.raw d
    new_disk "$raw" 11111111-0000-4000-8000-00000000000a 11111111-0000-4000-8000-0000000000a1 2048
    make_ext4 "$W/base" "$raw" "$GUID_A"
    attach "$raw"; detach
    save "$raw" vm-a-day0
    for d in 1 2 3 4; do
        cp --sparse=always "$raw" "$prev"
        say "vm-a day $d"
        attach "$raw"
        "day$d"
        app_data "$MNT" "$d"
        chroot "$MNT" dpkg-query -W >"$DIR/packages-vm-a-day$d.txt"
        detach
        save "$raw" "vm-a-day$d"
        dirty "$prev" "$raw" "$DIR/vm-a-day$d.dirty.json"
    done
    rm -f "$raw" "$prev"
}

# ---------------------------------------------------------------- vm-b, vm-c
make_vm_b() {
    local raw=$W/vm-b.raw
    say "vm-b"
    rm -rf --one-file-system "$W/vmb"; cp -a "$W/base" "$W/vmb"
    echo vm-b >"$W/vmb/etc/hostname"
    rm -rf "$W/vmb/var/lib/app" "$W/vmb/var/log/app"
    rm -f "$W"/vmb/etc/ssh/ssh_host_*; openssl rand -hex 16 >"$W/vmb/etc/machine-id"
    mount_guest "$W/vmb"
    guest "$W/vmb" "${APT[@]}" install "${VMB_PKGS[@]}" >"$W/apt-vmb.log" 2>&1
    guest "$W/vmb" apt-get clean
    guest "$W/vmb" dpkg-query -W >"$DIR/packages-vm-b.txt"
    unmount_guest "$W/vmb"
    SEED=$((SEED + 1000)) app_data "$W/vmb" create
    new_disk "$raw" 22222222-0000-4000-8000-00000000000b 22222222-0000-4000-8000-0000000000b1 2056
    make_ext4 "$W/vmb" "$raw" 22222222-bbbb-4bbb-8bbb-000000000002
    attach "$raw"; detach
    save "$raw" vm-b
    rm -rf --one-file-system "$W/vmb" "$raw"
}
make_vm_c() {
    local raw=$W/vm-c.raw off size
    say "vm-c"
    new_disk "$raw" 33333333-0000-4000-8000-00000000000c 33333333-0000-4000-8000-0000000000c1 2048
    read -r off size < <(part_bytes "$raw")
    LOOP=$(losetup --find --show --offset "$off" --sizelimit "$size" "$raw")
    mkfs.xfs -q -f -m uuid=33333333-cccc-4ccc-8ccc-000000000003 -L root "$LOOP"
    mount "$LOOP" "$MNT"
    cp -a "$W/base/." "$MNT/"
    echo vm-c >"$MNT/etc/hostname"; openssl rand -hex 16 >"$MNT/etc/machine-id"
    detach
    save "$raw" vm-c
    rm -f "$raw"
}

# ---------------------------------------------------------------- worst cases
make_worst() {
    say "random, text, zeros"
    head -c 512M /dev/zero |
        openssl enc -aes-256-ctr -nosalt -K "$(printf %064x "$SEED")" -iv "$(printf %032x 1)" >"$DIR/random.raw"
    truncate -s 0 "$DIR/zeros.raw"; truncate -s 1G "$DIR/zeros.raw"
    python3 - "$DIR/text.raw" "$SEED" <<'PY'
import random, sys
r = random.Random(int(sys.argv[2])); size = 512 << 20
words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
         "lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi"]
stock = [(" ".join(r.choices(words, k=r.randrange(60, 140))) + "\n").encode() for _ in range(500)]
with open(sys.argv[1], "wb") as f:
    n = 0
    while n < size:
        buf = b"".join(b"%010d " % (n + i) + r.choice(stock) for i in range(1000))
        f.write(buf); n += len(buf)
    f.truncate(size)
PY
}

manifest() {
    say "manifest"
    python3 - "$DIR" <<'PY'
import hashlib, json, os, subprocess, sys
d = sys.argv[1]; out = []
def sha(path):
    h = hashlib.sha256()
    with open(path, "rb", 0) as f:
        while b := f.read(4 << 20):
            h.update(b)
    return h.hexdigest()
names = ["vm-a-day%d" % i for i in range(5)] + ["vm-b", "vm-c"]
for n in names:
    q, raw = f"{d}/{n}.qcow2", f"{d}/raw/{n}.raw"
    tmp = None
    if not os.path.exists(raw):
        tmp = raw = os.path.join(d, "work", n + ".tmp.raw")
        subprocess.run(["qemu-img", "convert", "-O", "raw", q, raw], check=True)
    e = {"name": n, "qcow2": n + ".qcow2", "virtual": os.path.getsize(raw),
         "allocated": os.stat(raw).st_blocks * 512, "qcow2_bytes": os.path.getsize(q), "sha256": sha(raw)}
    dj = f"{d}/{n}.dirty.json"
    if os.path.exists(dj):
        x = json.load(open(dj)); e["dirty"] = {"file": n + ".dirty.json", "extents": len(x), "bytes": sum(r["length"] for r in x)}
    out.append(e)
    if tmp: os.unlink(tmp)
for n in ("random", "text", "zeros"):
    p = f"{d}/{n}.raw"
    out.append({"name": n, "raw": n + ".raw", "virtual": os.path.getsize(p),
                "allocated": os.stat(p).st_blocks * 512, "sha256": sha(p)})
json.dump(out, open(d + "/manifest.json", "w"), indent=1)
for e in out:
    print("%-10s virtual %5d MiB allocated %5d MiB dirty %s" % (e["name"], e["virtual"] >> 20,
          e["allocated"] >> 20, e.get("dirty", "-")))
PY
}

build_base
make_vm_a
make_vm_b
make_vm_c
make_worst
manifest
[ "${KEEP_WORK:-0}" = 1 ] || rm -rf --one-file-system "$W"
say done
