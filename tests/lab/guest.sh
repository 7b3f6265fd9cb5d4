#!/usr/bin/env bash
# Builds the lab's guest, once, and prints the folder that holds vmlinuz and initrd.img: Debian's
# cloud kernel, and an initramfs of busybox and the guest agent.
#
# What is built is kept in ${LAB_CACHE:-${TMPDIR:-/tmp}/cairn-lab-cache}. LAB_KERNEL (a vmlinuz) and
# LAB_MODULES (its folder of /lib/modules) take the place of Debian's kernel.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${LAB_CACHE:-${TMPDIR:-/tmp}/cairn-lab-cache}
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

die() { printf 'guest: error: %s\n' "$*" >&2; exit 1; }

fetch() { # PACKAGE FOLDER: unpacks it without installing it
    [ ! -e "$2/.done" ] || return 0
    rm -rf "$2"
    mkdir -p "$2/deb"
    apt-cache show "$1" >/dev/null 2>&1 || apt-get -q update >&2
    (cd "$2/deb" && apt-get -q -o APT::Sandbox::User=root download "$1") >&2 ||
        die "cannot download $1"
    dpkg -x "$2"/deb/*.deb "$2"
    rm -r "$2/deb"
    touch "$2/.done"
}

add_kernel() { # ROOT OUT
    local unpacked=$CACHE/kernel package version module file
    if [ -n "${LAB_KERNEL:-}" ]; then
        unpacked=$2/kernel
        version=$(basename "${LAB_MODULES:?}")
        mkdir -p "$unpacked/lib/modules"
        cp -a "$LAB_MODULES" "$unpacked/lib/modules/"
        cp -L "$LAB_KERNEL" "$2/vmlinuz"
    else
        apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || apt-get -q update >&2
        package=$(apt-cache depends linux-image-cloud-amd64 |
            awk '/Depends: linux-image/ && !found++ {print $2}')
        [ -n "$package" ] || die "no linux-image-cloud-amd64 here: set LAB_KERNEL and LAB_MODULES"
        fetch "$package" "$unpacked"
        if [ ! -e "$unpacked/lib/modules" ]; then
            mkdir -p "$unpacked/lib"
            ln -s ../usr/lib/modules "$unpacked/lib/modules"
        fi
        version=$(ls "$unpacked/lib/modules")
        cp "$unpacked/boot/vmlinuz-$version" "$2/vmlinuz"
    fi
    depmod -b "$unpacked" "$version"
    # In the order they must be loaded in; what is built in is not found, and not missed.
    for module in virtio_pci virtio_blk virtio_console crc32c ext4; do
        modprobe -d "$unpacked" -S "$version" --show-depends "$module" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
        module=$(basename "$file")
        module=${module%%.ko*}
        case $file in
            *.xz) xz -dc "$file" ;;
            *.zst) zstd -dcq "$file" ;;
            *.gz) gzip -dc "$file" ;;
            *) cat "$file" ;;
        esac >"$1/lib/modules/$module.ko"
        echo "$module" >>"$1/lib/modules/order"
    done
    touch "$1/lib/modules/order"
    rm -rf "$2/kernel"
}

add_agent() { # ROOT
    local library
    fetch qemu-guest-agent "$CACHE/agent"
    cp "$CACHE/agent/usr/sbin/qemu-ga" "$1/sbin/"
    if ldd "$1/sbin/qemu-ga" | grep 'not found' >&2; then die "libraries of qemu-ga are missing"; fi
    ldd "$1/sbin/qemu-ga" |
        awk '{for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i}' |
        while read -r library; do
            mkdir -p "$1$(dirname "$library")"
            cp -L "$library" "$1$library"
        done
}

build() { # OUT
    local root=$1/root
    mkdir -p "$root"/{bin,sbin,etc,proc,sys,dev,mnt,run,tmp,var/log,lib/modules}
    ln -s /run "$root/var/run"
    add_kernel "$root" "$1"
    add_agent "$root"
    cp -L "$(command -v busybox)" "$root/bin/busybox"
    install -m 755 "$HERE/guest_init.sh" "$root/init"
    install -m 755 "$HERE/guest_writer.sh" "$root/bin/writer"
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) | gzip -1 >"$1/initrd.img"
    rm -r "$root"
}

mkdir -p "$CACHE"
# Tests run side by side: one of them builds, the others wait.
exec 8>"$CACHE/lock"
flock 8
sources=$(cat "$HERE"/guest.sh "$HERE"/guest_*.sh | md5sum)
out=$CACHE/guest-${sources:0:12}${LAB_KERNEL:+-own}
if [ ! -e "$out/initrd.img" ]; then
    rm -rf "$out.new"
    build "$out.new"
    rm -rf "$out"
    mv "$out.new" "$out"
fi
# QEMU reads them as whatever user it runs as.
chmod 755 "$CACHE" "$out"
chmod 644 "$out"/*
echo "$out"
