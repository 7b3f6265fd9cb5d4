#!/bin/bash
# Tries tests/packages.sh, tests/demo.sh and tests/run.sh on Debian systems that were just installed:
# `tests/fresh/run.sh CAIRN [CASE...]`, with the program as it was built for this machine. Needs root,
# the mirror that this machine's apt uses, Rust in rustup's folders, and 4 GiB of memory or disk.
#
# Each case begins with a minimal root by debootstrap, brings qemu-utils into it (or not), runs one
# command of the README as it stands there, and looks at what became of the system: see case.sh.
# Nothing is simulated. Three cases begin with the minimal root alone and install everything, among
# them the one that failed once: QEMU from backports that are no longer listed, under `pipefail`. For
# the others what has nothing to do with QEMU and libvirt is installed already: they differ in nothing
# else, and so take seconds. Packages are fetched once, and kept in target/fresh.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/packages.sh

fail() { echo "FAILED: $*" >&2; exit 1; }
say() { printf '== fresh: %s (at %s s)\n' "$*" "$SECONDS"; }

# What is mounted and started ends with the namespaces.
if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || fail "only root can make roots"
    [ -x "${1:?the program is wanted, as target/release/cairn}" ] || fail "no program is at $1"
    PATH=$PATH:/usr/sbin:/sbin
    command -v debootstrap >/dev/null || (install_as_root debootstrap) || fail "no debootstrap"
    work=$(realpath -m "${CARGO_TARGET_DIR:-target}/fresh")
    mkdir -p "$work/archives/partial" "$work/debootstrap"
    exec unshare --mount --pid --fork --kill-child --propagation private --mount-proc \
        "$0" --inside "$work" "$(realpath "$1")" "${@:2}"
fi
work=$2 cairn=$3
shift 3
chosen=("$@")
roots=$work/roots
rm -rf "$roots"
mkdir "$roots"
trap 'rm -rf "$work/roots" 2>/dev/null || true' EXIT
# Memory is faster, where there is enough.
if [ "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)" -gt $((8 << 20)) ]; then
    mount -t tmpfs -o size=6g,mode=755 roots "$roots"
fi

# ---------------------------------------------------------------- roots

site_of() { # FILTER...: where apt fetches from
    local sites
    sites=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' "$@")
    echo "${sites%%$'\n'*}"
}

# Proxies, certificates and passwords are this machine's, which knows how to reach its mirror.
copy_settings() { # ROOT
    apt-config dump |
        sed -n '/^Acquire::\(http\|https\|Check-[A-Za-z-]*\|Retries\|Languages\)[: ]/p' \
            >"$1/etc/apt/apt.conf.d/99machine"
    cp -L /etc/resolv.conf /etc/hosts "$1/etc/"
    cp -a /etc/apt/auth.conf* "$1/etc/apt/" 2>/dev/null || true
    # A fresh root has no certificates of its own.
    if [[ $mirror = https:* && -e /etc/ssl/certs/ca-certificates.crt ]]; then
        cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/apt/machine.crt"
        echo 'Acquire::https::CaInfo "/etc/apt/machine.crt";' >"$1/etc/apt/apt.conf.d/98machine"
    fi
    # What is thrown away need not survive a power cut.
    echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/unsafe-io"
}

make_root() { # SUITE
    local root=$roots/$1 key=/usr/share/keyrings/debian-archive-keyring.gpg
    say "Debian $1 by debootstrap"
    debootstrap --variant=minbase --cache-dir="$work/debootstrap" "$1" "$root" "$mirror" \
        >"$work/debootstrap.log" 2>&1 ||
        { tail -n 20 "$work/debootstrap.log" >&2; fail "no $1 from $mirror: is there a network?"; }
    copy_settings "$root"
    # The two ways of writing sources.
    rm -f "$root/etc/apt/sources.list"
    if [ "$1" = bookworm ]; then
        printf '%s\n' '# The release' "deb [ signed-by=$key ] $mirror $1 main" \
            "deb $mirror $1-updates main" >"$root/etc/apt/sources.list"
    else
        printf '%s\n' '# The release' '' 'Types: deb' "URIs: $mirror" "Suites: $1 $1-updates" \
            'Components: main' "Signed-By: $key" >"$root/etc/apt/sources.list.d/debian.sources"
    fi
    enter "$1" apt-get update -qq -o APT::Update::Error-Mode=any || fail "apt cannot reach $mirror"
}

begin() { # NAME BELOW...: a root that is as those below, the uppermost first, and may change
    local name=$1 below
    below=$(IFS=:; echo "${*:2}")
    mkdir -p "$roots/changes/$name" "$roots/scratch/$name" "$roots/$name"
    (cd "$roots" && mount -t overlay "$name" "$name" \
        -o "lowerdir=$below,upperdir=changes/$name,workdir=scratch/$name")
}

enter() { # ROOT COMMAND...
    unshare --mount --pid --fork --kill-child --propagation private \
        tests/fresh/enter.sh "$roots/$1" "$work/archives" "$cairn" "${@:2}"
}

# ---------------------------------------------------------------- cases

is_chosen() { # PATTERN
    [ ${#chosen[@]} -gt 0 ] || return 0
    # shellcheck disable=SC2053
    for name in "${chosen[@]}"; do [[ $name != $1 ]] || return 0; done
    return 1
}

run_case() { # SUITE QEMU_UTILS SHELL LAYER...
    local suite=$1 qemu_utils=$2 shell=$3 name
    name=$suite-$qemu_utils-$shell
    shift 3
    is_chosen "$name" || return 0
    say "$name"
    begin "$name" "$@"
    enter "$name" tests/fresh/case.sh "$suite" "$mirror" "$qemu_utils" "$shell" \
        >"$work/$name.log" 2>&1 ||
        { tail -n 60 "$work/$name.log" >&2; fail "$name; all it said is in $work/$name.log"; }
    umount "$roots/$name"
    rm -rf "$roots/changes/$name" "$roots/scratch/$name"
    count=$((count + 1))
}

release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=${MIRROR:-$(site_of "Codename: $release")}
if [ -z "$mirror" ]; then
    apt-get update -qq || true
    mirror=$(site_of "Codename: $release")
fi
[ -n "$mirror" ] || fail "apt does not know where this Debian comes from: set MIRROR"
count=0

if is_chosen 'bookworm-*'; then
    make_root bookworm
    run_case bookworm refused sh bookworm
    run_case bookworm unreachable sh bookworm
    run_case bookworm unlisted bash bookworm
    run_case bookworm absent sh bookworm

    say "all but QEMU and libvirt"
    begin others bookworm
    enter others tests/fresh/case.sh bookworm "$mirror" others sh >"$work/others.log" 2>&1 ||
        { tail -n 60 "$work/others.log" >&2; fail "the other packages cannot be installed"; }
    umount "$roots/others"
    layers=(changes/others bookworm)
    for qemu_utils in release backports; do
        for shell in bash sh; do run_case bookworm $qemu_utils $shell "${layers[@]}"; done
    done
    run_case bookworm absent bash "${layers[@]}"
    run_case bookworm unlisted sh "${layers[@]}"
    rm -rf "$roots/changes" "$roots/bookworm"
fi
if is_chosen 'trixie-*'; then
    make_root trixie
    run_case trixie absent bash trixie
fi
[ "$count" -gt 0 ] || fail "no such case: ${chosen[*]}"
say "$count cases passed"
