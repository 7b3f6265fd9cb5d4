# Installs what the build and the tests need and this machine lacks (Debian). Sourced, not run: by
# bash with `pipefail` as well as by dash. tests/fresh/run.sh tries it on systems just installed.
# shellcheck shell=sh

# Each line names something that must be there and the package that brings it.
needed_packages() {
    while read -r kind what package; do
        case $kind in
            command) command -v "$what" >/dev/null 2>&1 && continue ;;
            # bindgen loads libclang at run time, from wherever the system keeps it.
            library) case $(ldconfig -p 2>/dev/null) in *"$what"*) continue ;; esac
                     ls /usr/lib/llvm-*/lib/"$what"*.so* >/dev/null 2>&1 && continue ;;
            file) [ -e "$what" ] && continue ;;
        esac
        echo "$package"
    done <<'LIST'
command cc gcc
command c++ g++
file /usr/include/stdio.h libc6-dev
command clang clang
library libclang libclang-dev
command pkg-config pkg-config
command qemu-img qemu-utils
command qemu-io qemu-utils
command qemu-nbd qemu-utils
command mke2fs e2fsprogs
command e2fsck e2fsprogs
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
command virtlogd libvirt-daemon-system
command virsh libvirt-clients
command qemu-system-x86_64 qemu-system-x86
command busybox busybox-static
command systemd-analyze systemd
command man man-db
command zsh zsh
command fish fish
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
    # A shell that nobody logged in to may have no home, and no cargo in its path.
    if [ -z "${HOME:-}" ]; then
        HOME=$(getent passwd "$(id -u)" | cut -d : -f 6)
        export HOME
    fi
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
        echo "missing here, and only root can install it, with apt:" $packages >&2
        return 1
    fi
    # In a shell of its own, so that what it sets and traps ends with it. Names of packages hold no
    # blanks: here and below the list is meant to be split.
    # shellcheck disable=SC2086
    (install_as_root $packages) || return 1

    packages=$(needed_packages | sort -u)
    [ -n "$packages" ] || return 0
    # shellcheck disable=SC2086
    echo "apt is content, but what these packages bring is still missing:" $packages >&2
    return 1
}

install_as_root() { # PACKAGE...
    export DEBIAN_FRONTEND=noninteractive
    trap 'exit 1' HUP INT TERM
    trap clean_up EXIT
    apt_state=$(mktemp -d) || return 1
    forbid_services
    update_lists
    backported=$(backported_sources)
    if [ -n "$backported" ] && { is_of "$backported" "$@" || ! plan "$@"; }; then
        install_from_backports "$@"
    else
        install_named "$@"
    fi
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

# What is there may do, so it goes on without what cannot be fetched, and says so.
update_lists() { # [OPTION...]
    apt-get update -qq -o APT::Update::Error-Mode=any "$@" </dev/null >"$apt_state/log" 2>&1 &&
        return 0
    sed 's/^/   /' "$apt_state/log" >&2
    echo "apt-get update could not fetch all lists of packages. Is there a network, and are the" \
        "sources in /etc/apt right? It goes on with those that are here." >&2
}

# Writes into $apt_state/plan what apt would do; false if it would not.
plan() { # [OPTION...] PACKAGE...
    LC_ALL=C apt-get -s -y --no-install-recommends --no-auto-remove install "$@" \
        </dev/null >"$apt_state/plan" 2>&1
}

# Adds packages, and never removes one: apt would take away without a word what does not go together
# with the new ones.
install_named() { # [OPTION...] PACKAGE...
    if ! plan "$@"; then
        sed 's/^/   /' "$apt_state/plan" >&2
        refuse "apt finds no way to install what is missing."
        return 1
    fi
    removed=$(sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p' "$apt_state/plan")
    if [ -n "$removed" ]; then
        # shellcheck disable=SC2086
        refuse "To install what is missing, apt would remove: $(echo $removed)"
        return 1
    fi
    echo "installing: $(sed -n 's/^Inst \([^ ]*\).*/\1/p' "$apt_state/plan" | wc -l) packages"
    apt-get install -y -qq --no-remove --no-auto-remove --no-install-recommends \
        -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold "$@" \
        </dev/null >"$apt_state/log" 2>&1 && return 0
    tail -n 40 "$apt_state/log" >&2
    echo "apt-get install failed, as told above" >&2
    return 1
}

refuse() { # WHY
    cat >&2 <<TEXT
$1
Nothing was installed, and nothing removed. Some package of this machine comes from another release
than what apt takes now; \`apt-cache policy PACKAGE\` shows whence. Either list its source in
/etc/apt/sources.list.d, or bring it to a version that is listed, and start again.
TEXT
}

# Prints the source packages of which backports of this release are installed here. What else is
# made from the same source has to come from there too: qemu-system of the release is too old for
# qemu-utils from backports. QEMU, its BIOS and libvirt go together.
backported_sources() {
    dpkg-query -W -f '${db:Status-Abbrev} ${source:Package} ${Version}\n' |
        awk -v mark="~bpo$(of_release VERSION_ID)+" '
            $1 ~ /^.i/ && index($3, mark) { sources[$2] }
            END { if ("qemu" in sources || "libvirt" in sources) {
                      sources["qemu"]; sources["libvirt"]; sources["seabios"] }
                  for (name in sources) print name }' | sort
}

of_release() { # NAME: prints that variable of /etc/os-release
    (unset "$1" && . /etc/os-release && eval "echo \"\${$1:-none}\"")
}

# Whether one of the packages is made from one of the sources.
is_of() { # SOURCES PACKAGE...
    sources=$(echo "$1" | tr '\n' ' ')
    shift
    for name in $(apt-cache show --no-all-versions "$@" 2>/dev/null |
        sed -n 's/^\(Package\|Source\): \([^ ]*\).*/\2/p'); do
        case " $sources " in *" $name "*) return 0 ;; esac
    done
    return 1
}

# Installs packages, those of the sources in $backported from backports and nothing else from there.
# The machine's settings of apt stay as they are: what differs lies in $apt_state.
install_from_backports() { # PACKAGE...
    suite=$(of_release VERSION_CODENAME)-backports
    cat /etc/apt/preferences >"$apt_state/preferences" 2>/dev/null || true
    for source in $backported; do
        printf '\nPackage: src:%s\nPin: release n=%s\nPin-Priority: 990\n' "$source" "$suite"
    done >>"$apt_state/preferences"
    set -- -o "Dir::Etc::Preferences=$apt_state/preferences" -o Dir::Cache::pkgcache= \
        -o Dir::Cache::srcpkgcache= "$@"
    if [ -z "$(apt-get indextargets "Codename: $suite" 'Created-By: Packages')" ]; then
        list_backports "$suite" || return 1
        set -- -o "Dir::Etc::SourceParts=$apt_state/parts" \
            -o "Dir::State::Lists=$apt_state/lists" -o APT::Sandbox::User=root "$@"
    fi
    install_named "$@"
}

# Fetches the lists of the machine's sources and of backports into $apt_state/lists: from the mirror
# that the release comes from, with the same options and keys.
list_backports() { # SUITE
    mkdir -p "$apt_state/lists/partial" "$apt_state/parts"
    cp /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources "$apt_state/parts/" \
        2>/dev/null || true
    # A file and the number of a line of it or, in a file of stanzas, of a stanza; and what stands
    # there for the release, which may be `stable`.
    entry=
    release=
    while read -r site_entry name; do
        [ -n "$entry" ] || entry=$site_entry release=$name
    done <<TEXT
$(apt-get indextargets --format '$(SOURCESENTRY) $(RELEASE)' 'Created-By: Packages' \
    'Origin: Debian' "Codename: ${1%-backports}")
TEXT
    if [ -z "$entry" ]; then
        echo "something is from $1 here, but neither that nor ${1%-backports} is among apt's" \
            "sources: list both in /etc/apt/sources.list.d" >&2
        return 1
    fi
    case $entry in
        *.sources:*)
            awk -v RS= -v number="${entry##*:}" -v suite="$1" '
                /(^|\n)Types:/ && ++count == number {
                    sub(/\nSuites:[^\n]*/, "\nSuites: " suite, $0)
                    sub(/^Suites:[^\n]*/, "Suites: " suite, $0)
                    print }' "${entry%:*}" >"$apt_state/parts/tests-$1.sources" ;;
        *)
            sed -n "${entry##*:}s/[[:blank:]]$release\([[:blank:]]\)/ $1\1/p" "${entry%:*}" \
                >"$apt_state/parts/tests-$1.list" ;;
    esac
    update_lists -o "Dir::Etc::SourceParts=$apt_state/parts" \
        -o "Dir::State::Lists=$apt_state/lists" -o APT::Sandbox::User=root
}
