#!/bin/sh
# The first power-on, as on a Raspberry Pi: this runs as init, takes itself off the command line,
# grows the last partition to the end of the card, gives the card a signature of its own, reboots.
set -eu
grep -q ' /proc ' /proc/mounts 2>/dev/null || mount -t proc proc /proc
grep -q ' /sys ' /proc/mounts || mount -t sysfs sys /sys
root=$(findmnt -n -o SOURCE /)
disk=${root%?}
case $disk in *[0-9]p) disk=${disk%p} ;; esac
boot=$(echo "$root" | sed 's/2$/1/')

mount -t vfat "$boot" /boot
sed -i 's| init=/usr/lib/raspi-config/init_resize\.sh||; s| quiet||g' /boot/cmdline.txt
sync

last=$(sfdisk -d "$disk" | grep -c '^/dev/')
if [ "$last" != 2 ]; then
  echo "init_resize: $last partitions, the root is not the last one; waiting for a key"
  read -r _
fi
old=$(sfdisk --disk-id "$disk" | sed 's/^0x//')
new=$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')
echo ', +' | sfdisk --no-reread --no-tell-kernel --force -q -N 2 "$disk"
sfdisk --no-reread --no-tell-kernel --force -q --disk-id "$disk" "0x$new"
mount -o remount,rw "$root" /
sed -i "s/$old/$new/g" /etc/fstab
sed -i "s/$old/$new/g" /boot/cmdline.txt
sync
mount -o remount,ro "$root" /
umount /boot
echo "init_resize: p2 fills the card, the signature is $new; rebooting"
sync
echo b >/proc/sysrq-trigger
sleep 60
