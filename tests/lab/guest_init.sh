#!/bin/busybox sh
# The first process of the lab's guest: loads the modules, mounts every disk at /mnt/DISK, and
# keeps the guest agent running.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -sf /proc/mounts /etc/mtab
while read -r module; do insmod "/lib/modules/$module.ko"; done </lib/modules/order

wait_for() { # COMMAND...
    i=0
    while [ $i -lt 1200 ] && ! "$@"; do
        sleep 0.1
        i=$((i + 1))
    done
}

for disk in $(sed -n 's/.*lab\.disks=\([a-z,]*\).*/\1/p' /proc/cmdline | tr ',' ' '); do
    wait_for [ -b "/dev/$disk" ]
    mkdir -p "/mnt/$disk"
    mount -t ext4 "/dev/$disk" "/mnt/$disk"
done

find_port() {
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] && return 0
    done
    return 1
}
wait_for find_port
port=/dev/$(basename "$port")
echo "ready, the agent listens on $port"
while :; do
    qemu-ga -m virtio-serial -p "$port" -t /run -l /var/log/agent.log
    sleep 1
done &
while :; do
    setsid cttyhack sh </dev/console >/dev/console 2>&1
    sleep 1
done
