#!/usr/bin/env bash
# A throw-away laboratory: a libvirtd of its own with domains in real QEMU processes, so that
# backups, checkpoints, dirty bitmaps and NBD exports are tested for real. Needs root, and neither
# systemd nor KVM: the libvirtd is a plain process in a mount namespace of its own, where the lab's
# folders lie over the system's. Nothing of the machine's own libvirt is seen or touched.
#
#   lab.sh -d DIR up                        start the libvirtd
#   lab.sh -d DIR hold                      up, say "ready", down --wipe when stdin ends
#   lab.sh -d DIR define NAME light|guest DISK=SIZE...
#                                           a domain without an OS, or a small Linux with the
#                                           guest agent and ext4 on every disk, at /mnt/DISK
#   lab.sh -d DIR start NAME                start it; a guest's agent is waited for
#   lab.sh -d DIR write NAME DISK OFFSET LEN BYTE   write through the running QEMU
#   lab.sh -d DIR check NAME DISK OFFSET LEN BYTE   compare through the running QEMU
#   lab.sh -d DIR exec NAME 'SHELL COMMAND' run it in the guest; exits as it does, 125 if it cannot
#   lab.sh -d DIR kill NAME                 SIGKILL its QEMU and wait until libvirtd knows
#   lab.sh -d DIR remove NAME               end it and delete what belongs to it
#   lab.sh -d DIR virsh ARGS...             virsh on this lab
#   lab.sh -d DIR env                       shell lines with the lab's URI
#   lab.sh -d DIR down [--wipe]             end everything [and delete the lab]
#
# Sizes take K, M and G; BYTE is 0..255 or 0x.. DIR/pki holds a CA and two certificates, for backups
# with <server tls='yes'>. Settings: LAB_QEMU_USER (the user QEMU runs as; root unless said
# otherwise), LAB_CONFINED=1 (libvirt's own default: a domain's XML then names that user),
# LAB_ACCEL=qemu|kvm, LAB_PORTS="TLS TCP" (ports on which the libvirtd listens on the loopback, with
# DIR/pki/libvirt as a client's pkipath), and what guest.sh takes.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ACCEL=${LAB_ACCEL:-qemu}
QEMU_USER=${LAB_QEMU_USER:-root}
CONFINED=${LAB_CONFINED:-0}
PORTS=${LAB_PORTS:-}
PARTS=(etc lib run cache log)
DIR=
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

say() { printf 'lab: %s\n' "$*" >&2; }
die() { printf 'lab: error: %s\n' "$*" >&2; exit 125; }
usage() {
    sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p;}' "$0" >&2
    exit 125
}

set_places() {
    [ -n "$DIR" ] || usage
    [ "$(id -u)" = 0 ] || die "a lab needs root"
    DIR=$(realpath -m -- "$DIR")
    case $DIR in *[!A-Za-z0-9_./-]*) die "DIR may hold only A-Za-z0-9_./- : $DIR" ;; esac
    # Paths of UNIX sockets are limited to 107 bytes, and libvirt appends its own part.
    [ ${#DIR} -le 70 ] || die "DIR is too long for UNIX sockets: $DIR"
    L=$DIR/libvirt
    PIDFILE=$L/libvirtd.pid
    export LIBVIRT_DEFAULT_URI="qemu:///system?socket=$L/run/libvirt-sock"
}

domain_place() { # NAME
    case $1 in '' | *[!A-Za-z0-9_-]*) die "a domain's name may hold only A-Za-z0-9_- : $1" ;; esac
    DOM=$1
    HOME_OF=$DIR/domains/$DOM
    QLOG=$L/log/qemu/$DOM.log
    QPID=$L/run/qemu/$DOM.pid
}

vsh() { virsh -q "$@"; }
state() { vsh domstate "$DOM" 2>/dev/null || true; }
running() { [ "$(state)" = running ]; }

# ---------------------------------------------------------------- processes

# True if the process whose number file $1 holds is alive and its command line holds $2. Only such
# a process is ever signalled.
ours() {
    local p
    p=$(cat "$1" 2>/dev/null) || return 1
    [ -n "$p" ] && [ -r "/proc/$p/cmdline" ] || return 1
    [[ $(tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null) == *"$2"* ]]
}

stop_pid() { # FILE MARK
    local p
    ours "$1" "$2" || return 0
    p=$(cat "$1")
    kill -TERM "$p" 2>/dev/null || true
    for _ in $(seq 1200); do
        kill -0 "$p" 2>/dev/null || return 0
        sleep 0.05
    done
    kill -KILL "$p" 2>/dev/null || true
}

# ---------------------------------------------------------------- libvirtd

# A CA, a server's and a client's certificate, under the names that QEMU and libnbd look for.
make_pki() {
    local d=$DIR/pki who use
    [ ! -e "$d/client-cert.pem" ] || return 0
    rm -rf "$d"
    mkdir -p "$d"
    (
        cd "$d"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
            -subj /CN=lab-ca -keyout ca-key.pem -out ca-cert.pem \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        for who in server client; do
            use=${who}Auth
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
                -keyout $who-key.pem -out $who.csr
            printf '%s\n' 'subjectAltName=DNS:localhost,IP:127.0.0.1' "extendedKeyUsage=$use" \
                keyUsage=digitalSignature,keyEncipherment basicConstraints=CA:FALSE >ext
            openssl x509 -req -in $who.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial \
                -days 30 -out $who-cert.pem -extfile ext
            rm $who.csr ext
        done
        # QEMU reads them as whatever user it runs as.
        chmod 644 ./*.pem
        # The same under the names that libvirt looks for.
        mkdir libvirt
        ln -s ../ca-cert.pem libvirt/cacert.pem
        ln -s ../client-cert.pem libvirt/clientcert.pem
        ln -s ../client-key.pem libvirt/clientkey.pem
    ) >"$DIR/pki.log" 2>&1 || die "openssl failed: $(cat "$DIR/pki.log")"
}

write_configuration() {
    local own=1
    [ "$QEMU_USER" != root ] || own=0
    # stdio_handler: no virtlogd is needed. No cgroups, no mount namespace for each domain.
    cat >"$L/etc/qemu.conf" <<EOF
security_driver = "none"
security_default_confined = $CONFINED
stdio_handler = "file"
user = "$QEMU_USER"
group = "$(id -gn "$QEMU_USER")"
dynamic_ownership = $own
remember_owner = 0
cgroup_controllers = [ ]
namespaces = [ ]
backup_tls_x509_cert_dir = "$DIR/pki"
backup_tls_x509_verify = 1
EOF
    cat >"$L/etc/libvirtd.conf" <<EOF
log_outputs = "3:file:$L/libvirtd.log"
unix_sock_dir = "/run/libvirt"
auth_unix_ro = "none"
auth_unix_rw = "none"
EOF
    [ -n "$PORTS" ] || return 0
    cat >>"$L/etc/libvirtd.conf" <<EOF
listen_addr = "127.0.0.1"
listen_tls = 1
tls_port = "${PORTS% *}"
listen_tcp = 1
tcp_port = "${PORTS#* }"
auth_tcp = "none"
ca_file = "$DIR/pki/ca-cert.pem"
cert_file = "$DIR/pki/server-cert.pem"
key_file = "$DIR/pki/server-key.pem"
EOF
}

cmd_up() {
    local part child
    if ours "$PIDFILE" "$L/etc/libvirtd.conf" && vsh list >/dev/null 2>&1; then return 0; fi
    id "$QEMU_USER" >/dev/null || die "there is no user $QEMU_USER"
    stop_pid "$PIDFILE" "$L/etc/libvirtd.conf"
    mkdir -p "$DIR/domains"
    touch "$DIR/.cairn-lab"
    chmod 755 "$DIR" "$DIR/domains"
    make_pki
    rm -f "$PIDFILE"
    for part in "${PARTS[@]}"; do mkdir -p "$L/$part"; done
    mkdir -p /etc/libvirt /var/lib/libvirt /run/libvirt /var/cache/libvirt /var/log/libvirt
    write_configuration
    # A user who may not open /dev/kvm makes libvirtd probe QEMU for a whole minute.
    if [ "$QEMU_USER" != root ] && [ -e /dev/kvm ] && [ ! -e "$L/kvm" ]; then
        mknod -m 666 "$L/kvm" c 10 232
    fi
    # Slave: what the machine mounts later stays visible, and nothing of the lab's leaks out.
    # shellcheck disable=SC2016
    setsid unshare -m --propagation slave bash -c '
        set -e
        mount --bind "$1/etc" /etc/libvirt
        mount --bind "$1/lib" /var/lib/libvirt
        mount --bind "$1/run" /run/libvirt
        mount --bind "$1/cache" /var/cache/libvirt
        mount --bind "$1/log" /var/log/libvirt
        if [ -e "$1/kvm" ]; then mount --bind "$1/kvm" /dev/kvm; fi
        exec libvirtd $2 -f "$1/etc/libvirtd.conf" -p "$1/libvirtd.pid"' \
        lab-libvirtd "$L" "${PORTS:+--listen}" \
        </dev/null >"$L/libvirtd.out" 2>&1 &
    child=$!
    for _ in $(seq 2400); do
        if vsh list >/dev/null 2>&1; then return 0; fi
        kill -0 $child 2>/dev/null || break
        sleep 0.05
    done
    cat "$L/libvirtd.out" "$L/libvirtd.log" >&2 2>/dev/null || true
    die "libvirtd did not start"
}

cmd_hold() {
    # The lab is deleted even if it never stood.
    trap 'cmd_down --wipe' EXIT
    cmd_up
    echo ready
    cat >/dev/null
}

cmd_down() {
    local pid
    for pid in "$L"/run/qemu/*.pid; do
        [ ! -e "$pid" ] || stop_pid "$pid" "$DIR/domains/"
    done
    stop_pid "$PIDFILE" "$L/etc/libvirtd.conf"
    rm -f "$PIDFILE"
    if [ "${1:-}" = --wipe ] && [ -e "$DIR/.cairn-lab" ]; then rm -rf "$DIR"; fi
}

# ---------------------------------------------------------------- domains

# Always the same for a name, so that defining anew updates in place and checkpoints stay.
uuid_of() { # NAME
    local h
    h=$(printf 'cairn-lab %s' "$1" | md5sum)
    echo "${h:0:8}-${h:8:4}-4${h:13:3}-8${h:17:3}-${h:20:12}"
}

bytes() { numfmt --from=iec -- "$(tr a-z A-Z <<<"$1")" || die "not a size: $1"; }

make_disk() { # IMAGE SIZE VARIANT
    local seed
    [ ! -e "$1" ] || return 0
    if [ "$3" = light ]; then
        qemu-img create -q -f qcow2 "$1" "$2"
        return
    fi
    seed=$1.seed
    mkdir -p "$seed"
    echo "made by the lab" >"$seed/seed.txt"
    truncate -s "$2" "$1.raw"
    mkfs.ext4 -q -F -d "$seed" "$1.raw"
    qemu-img convert -f raw -O qcow2 "$1.raw" "$1.new"
    rm -r "$1.raw" "$seed"
    mv "$1.new" "$1"
}

disk_xml() { # DISK
    cat <<EOF
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='$HOME_OF/$1.qcow2'/>
      <target dev='$1' bus='virtio'/>
    </disk>
EOF
}

domain_xml() { # MEMORY-MiB OS-XML DEVICES-XML
    local cpu="<cpu mode='maximum'/>"
    [ "$ACCEL" = qemu ] || cpu="<cpu mode='host-passthrough'/>"
    # <acpi/>: without it libvirt 9.0 passes -no-acpi, which QEMU 9 and newer refuse.
    cat <<EOF
<domain type='$ACCEL'>
  <name>$DOM</name>
  <uuid>$(uuid_of "$DOM")</uuid>
  <memory unit='MiB'>$1</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>$2</os>
  <features><acpi/></features>
  $cpu
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>$(command -v qemu-system-x86_64)</emulator>
$3
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='$HOME_OF/serial.log'/></serial>
  </devices>
</domain>
EOF
}

cmd_define() { # NAME VARIANT DISK=SIZE...
    local variant memory=64 os='' devices='' disks='' guest spec disk
    [ $# -ge 3 ] || usage
    domain_place "$1"
    variant=$2
    shift 2
    case $variant in light | guest) ;; *) usage ;; esac
    mkdir -p "$HOME_OF"
    for spec in "$@"; do
        disk=${spec%%=*}
        [[ $spec =~ ^vd[a-z]=[0-9]+[KMGkmg]?$ ]] || die "not DISK=SIZE: $spec"
        make_disk "$HOME_OF/$disk.qcow2" "$(bytes "${spec#*=}")" "$variant"
        devices+=$(disk_xml "$disk")$'\n'
        disks+=${disks:+,}$disk
    done
    if [ "$variant" = guest ]; then
        guest=$("$HERE/guest.sh") || die "the guest cannot be built"
        memory=256
        os="<kernel>$guest/vmlinuz</kernel><initrd>$guest/initrd.img</initrd>"
        os+="<cmdline>console=ttyS0 rdinit=/init quiet panic=-1 lab.disks=$disks</cmdline>"
        devices+="    <channel type='unix'>"
        devices+="<target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    fi
    echo "$variant" >"$HOME_OF/variant"
    # QEMU appends to it as the user it runs as.
    touch "$HOME_OF/serial.log"
    chmod 666 "$HOME_OF/serial.log"
    domain_xml $memory "$os" "$devices" >"$HOME_OF/domain.xml"
    vsh define "$HOME_OF/domain.xml" >/dev/null
}

cmd_start() { # NAME
    domain_place "$1"
    vsh start "$DOM" >/dev/null
    [ "$(cat "$HOME_OF/variant")" = guest ] || return 0
    for _ in $(seq 3000); do
        if vsh qemu-agent-command "$DOM" '{"execute":"guest-ping"}' >/dev/null 2>&1; then
            return 0
        fi
        running || die "the guest stopped: $(tail -20 "$HOME_OF/serial.log")"
        sleep 0.2
    done
    die "no answer of the guest's agent: $(tail -20 "$HOME_OF/serial.log")"
}

cmd_kill() { # NAME
    domain_place "$1"
    ours "$QPID" "$HOME_OF/" || die "no QEMU of $DOM runs"
    kill -KILL "$(cat "$QPID")"
    for _ in $(seq 2400); do
        [ "$(state)" != "shut off" ] || return 0
        sleep 0.05
    done
    die "libvirtd does not notice that QEMU is gone"
}

cmd_remove() { # NAME
    domain_place "$1"
    vsh destroy "$DOM" >/dev/null 2>&1 || true
    stop_pid "$QPID" "$HOME_OF/"
    vsh undefine "$DOM" --checkpoints-metadata --snapshots-metadata >/dev/null 2>&1 || true
    rm -rf "$HOME_OF"
}

# ---------------------------------------------------------------- into a running domain

# The command goes to the virtio device's own BlockBackend, and so takes the guest's path: through
# dirty bitmaps and through a running backup's copy-before-write filter. (By the node's name, QEMU
# refuses it.) Its result goes to QEMU's stdout, which is libvirt's log of the domain; the monitor
# itself answers nothing, even on failure.
qemu_io() { # DISK COMMAND EXPECTED
    local path at new=
    [[ $1 =~ ^vd[a-z]$ ]] || die "DISK must be vda, vdb, ..."
    path=/machine/peripheral/virtio-disk$(($(printf '%d' "'${1#vd}") - 97))/virtio-backend
    exec 9>"$HOME_OF/io.lock"
    flock 9
    at=$(stat -c %s "$QLOG")
    vsh qemu-monitor-command "$DOM" --hmp "qemu-io -d $path \"$2\"" >/dev/null
    for _ in $(seq 6000); do
        new=$(tail -c +$((at + 1)) "$QLOG")
        if grep -qiE 'failed|not valid|not found|invalid|error' <<<"$new"; then
            die "qemu-io: $2: $new"
        fi
        if grep -qF -- "$3" <<<"$new"; then return 0; fi
        sleep 0.02
    done
    die "qemu-io: $2: no answer (${new:-nothing in $QLOG})"
}

cmd_io() { # write|read WORD NAME DISK OFFSET LEN BYTE
    local offset len
    [ $# = 7 ] || usage
    domain_place "$3"
    offset=$(bytes "$5")
    len=$(bytes "$6")
    qemu_io "$4" "$1 -P $7 $offset $len" "$2 $len/$len bytes at offset $offset"
}

cmd_exec() { # NAME COMMAND
    [ $# = 2 ] || usage
    domain_place "$1"
    exec /usr/bin/python3 "$HERE/guest_exec.py" "$DOM" "$2"
}

cmd_env() { printf "export LIBVIRT_DEFAULT_URI='%s'\n" "$LIBVIRT_DEFAULT_URI"; }

[ "${1:-}" = -d ] && [ $# -ge 3 ] || usage
DIR=$2
cmd=$3
shift 3
set_places
case $cmd in
    up | hold | define | exec | env | down) "cmd_$cmd" "$@" ;;
    start | kill | remove) [ $# = 1 ] || usage; "cmd_$cmd" "$1" ;;
    write) cmd_io write wrote "$@" ;;
    check) cmd_io read read "$@" ;;
    virsh) exec virsh "$@" ;;
    *) usage ;;
esac
