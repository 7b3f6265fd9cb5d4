# Installs what the build and the tests need and this machine lacks (Debian). Sourced, not run.
# shellcheck shell=sh
#
# Each line names something that must be there and the package that brings it.

needed_packages() {
    while read -r kind what package; do
        case $kind in
            command) command -v "$what" >/dev/null 2>&1 && continue ;;
            # bindgen loads libclang at run time, from wherever the system keeps it.
            library) ldconfig -p 2>/dev/null | grep -q "$what" && continue
                     ls /usr/lib/llvm-*/lib/"$what"*.so* >/dev/null 2>&1 && continue ;;
            file) [ -e "$what" ] && continue ;;
        esac
        echo "$package"
    done <<'LIST'
command cc gcc
command c++ g++
command clang clang
library libclang libclang-dev
command pkg-config pkg-config
command qemu-img qemu-utils
command qemu-io qemu-utils
command mke2fs e2fsprogs
command debugfs e2fsprogs
command sfdisk fdisk
command losetup mount
command blkid util-linux
command setpriv util-linux
command nbdkit nbdkit
command nbdinfo libnbd-bin
command nbdcopy libnbd-bin
command nbdsh python3-libnbd
command mkfs.xfs xfsprogs
command mkfs.btrfs btrfs-progs
command mkfs.fat dosfstools
command mkntfs ntfs-3g
command lvm lvm2
command setfattr attr
command setfacl acl
command setcap libcap2-bin
command mcopy mtools
file /usr/bin/python3 python3
file /bin/kill procps
command mkfifo coreutils
file /etc/ssl/certs/ca-certificates.crt ca-certificates
LIST
}

install_packages() {
    # cargo may be there without being in the path of a shell that nobody logged in to.
    command -v cargo >/dev/null 2>&1 || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    # mke2fs, debugfs, sfdisk and others stand where only root's path looks.
    PATH=$PATH:/usr/sbin:/sbin
    export PATH
    if ! command -v cargo >/dev/null 2>&1; then
        echo "cargo is missing: install Rust 1.95 or newer, for example by rustup" >&2
        return 1
    fi

    packages=$(needed_packages | sort -u)
    [ -n "$packages" ] || return 0
    # Names of packages hold no blanks; the list is meant to be split.
    # shellcheck disable=SC2086
    set -- $packages
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "missing here, and only root can install it: $*" >&2
        return 1
    fi
    echo "installing: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null &&
        apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}
