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
file /usr/share/terminfo/d ncurses-term
file /usr/share/bash-completion/bash_completion bash-completion
file /bin/kill procps
command mkfifo coreutils
file /usr/include/libvirt/libvirt.h libvirt-dev
command libvirtd libvirt-daemon-system
command virsh libvirt-clients
command qemu-system-x86_64 qemu-system-x86
command busybox busybox-static
command modprobe kmod
command openssl openssl
command ssh openssh-client
command sshd openssh-server
command swtpm swtpm
command swtpm_setup swtpm-tools
command xz xz-utils
command zstd zstd
command unshare util-linux
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
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        # One line, whatever divides the names.
        # shellcheck disable=SC2086
        echo "missing here, and only root can install it:" $packages >&2
        return 1
    fi
    # In a shell of its own, so that what it sets and traps ends with it.
    (install_as_root)
}

install_as_root() {
    export DEBIAN_FRONTEND=noninteractive
    trap 'exit 1' HUP INT TERM
    trap clean_up EXIT
    forbid_services
    apt-get update -qq </dev/null || return 1
    if [ -n "$(backports_suite)" ] && needed_packages | grep -q -e '^qemu-' -e '^libvirt-'; then
        install_from_backports "$(backports_suite)" || return 1
        packages=$(needed_packages | sort -u)
        [ -n "$packages" ] || return 0
    fi
    # Names of packages hold no blanks; the list is meant to be split.
    # shellcheck disable=SC2086
    install_named $packages
}

install_named() {
    echo "installing: $*"
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 \
        -o Dpkg::Options::=--force-confold "$@" </dev/null >/dev/null
}

# The tests start what they need for themselves: no libvirtd and no sshd is to run for having been
# installed. A machine that has a policy of its own keeps it.
forbid_services() {
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        policy=
    else
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    fi
}

clean_up() {
    [ -z "${policy:-}" ] || rm -f "$policy"
    [ -z "${apt_state:-}" ] || rm -rf "$apt_state"
}

# Prints the suite that qemu-utils was taken from, if those are backports. qemu-system of the
# release itself is then too old for it, and apt would silently remove qemu-utils to install that.
backports_suite() {
    installed=$(dpkg-query -W -f '${Status} ${Version}' qemu-utils 2>/dev/null) || return 0
    case $installed in
        "install ok installed "*~bpo*) (. /etc/os-release && echo "$VERSION_CODENAME-backports") ;;
    esac
}

# QEMU and libvirt from backports, through an apt state of its own: the machine's sources stay as
# they are. Each package is named with its suite, so that apt takes nothing else from there.
install_from_backports() {
    suite=$1
    apt_state=$(mktemp -d)
    mkdir -p "$apt_state/lists/partial" "$apt_state/cache/archives/partial" "$apt_state/parts"
    cp /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources "$apt_state/parts/" \
        2>/dev/null || true
    if ! grep -qs "^[^#]*$suite" /etc/apt/sources.list "$apt_state"/parts/*; then
        # The mirror that this machine uses already.
        mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' |
            grep '/debian/*$' | head -n 1)
        echo "deb $mirror $suite main" >"$apt_state/parts/tests-$suite.list"
    fi
    set -- -o "Dir::Etc::SourceParts=$apt_state/parts" -o "Dir::State::Lists=$apt_state/lists" \
        -o "Dir::Cache=$apt_state/cache" -o APT::Sandbox::User=root
    apt-get update -qq "$@" </dev/null || return 1
    for package in seabios qemu-utils qemu-system-x86 qemu-system-common qemu-system-data \
        libvirt-daemon libvirt-daemon-common libvirt-daemon-log libvirt-daemon-driver-qemu \
        libvirt-clients libvirt-common libvirt0 libvirt-dev; do
        set -- "$@" "$package/$suite"
    done
    install_named "$@"
}
