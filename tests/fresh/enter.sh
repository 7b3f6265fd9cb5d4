#!/bin/bash
# Runs a command in a root, in namespaces of mounts and processes that run.sh made for it:
# `enter.sh ROOT ARCHIVES CAIRN COMMAND...`. The checkout is at /checkout, the program at /cairn, and
# Rust where rustup puts it: they can be written to, and nothing of that is kept. The environment is
# that of root's first login.
set -euo pipefail
home=/root
root=$1 archives=$2 cairn=$3
shift 3
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}
[ -x "$cargo_home/bin/cargo" ] || { echo "no cargo in $cargo_home/bin" >&2; exit 1; }

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sys "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 pts "$root/dev/pts"
mount -t tmpfs shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mount --bind "$archives" "$root/var/cache/apt/archives"

mount -t tmpfs written "$root/mnt"
copy_on_write() { # FOLDER PLACE
    local written=$root/mnt/${2##*/}
    mkdir -p "$root$2" "$written/upper" "$written/work"
    mount -t overlay written "$root$2" \
        -o "lowerdir=$1,upperdir=$written/upper,workdir=$written/work"
}
copy_on_write "$cargo_home" $home/.cargo
copy_on_write "$rustup_home" $home/.rustup
copy_on_write "$PWD" /checkout
touch "$root/cairn"
mount --bind "$cairn" "$root/cairn"

# The command is not the first process, whose signals are not as others'.
chroot "$root" env -i HOME=$home PATH=/usr/bin:/bin TERM=dumb CAIRN_BINARY=/cairn \
    sh -c 'cd /checkout && "$@"' sh "$@" </dev/null
