#!/bin/sh
# One case, inside of a root that run.sh made: `case.sh SUITE MIRROR QEMU_UTILS SHELL`. QEMU_UTILS is
#
#   absent, release, backports   where it is from before the command runs
#   unlisted                     from backports, which are among apt's sources no more
#   refused                      absent, and a package is there that cannot stay
#   unreachable                  absent, and no source can be reached
#   others                       absent, and it stays: all but QEMU and libvirt is installed
#
# For bash the command is tests/demo.sh, for sh it is tests/run.sh, which says what cargo test takes.
set -eu
suite=$1 mirror=$2 qemu_utils=$3 shell=$4
scripts_path=$PATH
PATH=$PATH:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive
. tests/packages.sh

fail() { echo "FAILED: $*" >&2; exit 1; }
quiet_install() {
    apt-get install -y -qq --no-install-recommends "$@" >/tmp/installed 2>&1 ||
        fail "$(cat /tmp/installed)"
}

# A shell in which every command takes its time: what a pipe's end does not wait for is still on its
# way then, as it is by chance on a busy machine.
slow=/tmp/slow
cat >$slow <<'TEXT'
exec 9>/dev/null
BASH_XTRACEFD=9
PS4='$(sleep 0.005)'
set -x
TEXT

command_of_the_readme() {
    case $shell in
        bash) PATH=$scripts_path BASH_ENV=$slow tests/demo.sh ;;
        sh) PATH=$scripts_path tests/run.sh -h ;;
    esac
}

# The other way of writing sources.
write_stanzas() {
    rm /etc/apt/sources.list
    printf '%s\n' '# The release' '' "URIs: $mirror" 'Types: deb' "Suites: $suite $suite-updates" \
        'Components: main' 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' \
        >/etc/apt/sources.list.d/debian.sources
}

state() { # FOLDER: notes what is installed and where apt looks
    mkdir "$1"
    dpkg-query -W -f '${db:Status-Abbrev}${binary:Package}\n' | sort >"$1/packages"
    find /etc/apt/sources.list* /etc/apt/preferences* -type f -exec sha256sum {} + >"$1/sources" \
        2>/dev/null || true
}

nothing_is_left_or_lost() {
    state /tmp/after
    lost=$(comm -23 /tmp/before/packages /tmp/after/packages)
    [ -z "$lost" ] || fail "removed: $lost"
    cmp /tmp/before/sources /tmp/after/sources || fail "apt's sources are not what they were"
    [ ! -e /usr/sbin/policy-rc.d ] || fail "policy-rc.d is left behind"
    [ -z "$(find /tmp -name 'tmp.*' -o -name 'cairn-*')" ] || fail "left behind: $(ls -d /tmp/*)"
    for name in /proc/[0-9]*/comm; do
        case $(cat "$name" 2>/dev/null) in
            sshd | libvirtd | virtlogd | dbus-daemon) fail "a service runs: $(cat "$name")" ;;
        esac
    done
}

# What belongs together is of one version, and nothing else is from backports.
versions_agree() {
    for pair in qemu-utils:qemu-system-x86 libvirt-dev:libvirt-daemon; do
        one=$(dpkg-query -W -f '${source:Version}' "${pair%:*}")
        other=$(dpkg-query -W -f '${source:Version}' "${pair#*:}")
        [ "$one" = "$other" ] || fail "$pair: $one and $other"
    done
    from_backports=$(dpkg-query -W -f '${Version} ${source:Package}\n' | sed -n '/~bpo/s/.* //p' | sort -u)
    # shellcheck disable=SC2086
    set -- $from_backports
    case $qemu_utils:"$*" in
        absent: | release: | backports:"libvirt qemu seabios" | unlisted:"libvirt qemu seabios") ;;
        *) fail "from backports: $*" ;;
    esac
}

everything_is_there() {
    missing=$(needed_packages | sort -u)
    [ -z "$missing" ] || fail "still missing: $missing"
    again=$(PATH=$scripts_path sh -euc '. tests/packages.sh; install_packages' 2>&1)
    [ -z "$again" ] || fail "the second time it says: $again"
    echo 'int main() { return 0; }' | .cargo/cxx -x c++ - -o /tmp/compiled && /tmp/compiled ||
        fail "nothing can be compiled"
}

must_be_refused() { # WORDS...: what it must say
    if command_of_the_readme >/tmp/said 2>&1; then fail "it went through: $(cat /tmp/said)"; fi
    for words in "$@"; do
        case $(cat /tmp/said) in *"$words"*) ;; *) fail "no word of $words: $(cat /tmp/said)" ;; esac
    done
    nothing_is_left_or_lost
    cmp /tmp/before/packages /tmp/after/packages || fail "something was installed"
    exit 0
}

case $qemu_utils in
    others)
        # shellcheck disable=SC2046
        quiet_install $(needed_packages | sort -u | sed '/^qemu\|^libvirt/d')
        exit 0
        ;;
    refused)
        mkdir -p /tmp/jealous/DEBIAN
        printf '%s\n' 'Package: jealous' 'Version: 1' 'Architecture: all' 'Conflicts: mtools' \
            'Maintainer: Nobody <nobody@localhost>' 'Description: cannot be beside mtools' \
            >/tmp/jealous/DEBIAN/control
        dpkg-deb -b /tmp/jealous /tmp/jealous.deb
        dpkg -i /tmp/jealous.deb
        ;;
    unreachable)
        rm -r /etc/apt/sources.list.d /var/lib/apt/lists
        echo 'deb http://127.0.0.1:9/debian bookworm main' >/etc/apt/sources.list
        ;;
    release)
        quiet_install qemu-utils
        # Some source of the machine's owner is often out of order.
        echo 'deb http://127.0.0.1:9/other stable main' >/etc/apt/sources.list.d/other.list
        ;;
    backports | unlisted)
        echo "deb $mirror $suite-backports main" >/etc/apt/sources.list.d/backports.list
        apt-get update -qq
        quiet_install -t "$suite-backports" qemu-utils
        [ "$qemu_utils" = backports ] || rm /etc/apt/sources.list.d/backports.list
        [ "$qemu_utils:$shell" != unlisted:sh ] || write_stanzas
        ;;
esac
state /tmp/before
case $qemu_utils in
    refused) must_be_refused 'would remove: jealous' 'nothing removed' ;;
    unreachable) must_be_refused 'could not fetch all lists' 'finds no way' 'Nothing was installed' ;;
esac
command_of_the_readme
nothing_is_left_or_lost
versions_agree
everything_is_there
