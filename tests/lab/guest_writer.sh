#!/bin/busybox sh
# writer COUNT FILE...: writes the numbers 1, 2, ... COUNT (0: without end) as lines of 16 bytes,
# each number to every file in turn, and each on the disk before the next is begun. So at any point
# in time no file is ahead of the one before it, and none is more than one line behind the first.
count=$1
shift
n=0
while [ "$count" = 0 ] || [ $n -lt "$count" ]; do
    for file in "$@"; do
        printf '%015d\n' $((n + 1)) |
            dd of="$file" bs=16 seek=$n conv=notrunc,fsync status=none || exit 1
    done
    n=$((n + 1))
done
