#!/bin/sh
# The first process of a node, from its namespaces to its own root file system.
# Arguments: directory of the node, its name, the Python that runs /lab/inside, other directories
# of the machine that the node needs to see.
set -eu
# /proc is still the machine's: what stands there is our number outside.
read -r pid rest </proc/self/stat
echo "$pid"
read -r plugged # until the cable is in
mine=$1 name=$2 python=$3
shift 3
mount --make-rprivate /
# The root partition: what the machine has, and over it what the node wrote, which stays.
mount -t overlay overlay -o "lowerdir=/,upperdir=$mine/upper,workdir=$mine/work" "$mine/root"
cd "$mine/root"
for directory; do
  # What lies on a file system of its own is not below the machine's root.
  if [ ! -e ".$directory" ]; then
    mkdir -p ".$directory"
    mount --rbind "$directory" ".$directory"
  fi
done
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p boot lab var/lib/docker mnt
mount --bind "$mine/boot" boot
mount --bind "$mine/lab" lab
# overlay2 does not work on an overlay.
mount --bind "$mine/docker" var/lib/docker
hostname "$name"
pivot_root . mnt
umount -l /mnt
# Nothing of the environment of the tests gets in.
exec env -i PATH=/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
  tini -- "$python" -SEs /lab/inside </dev/null >>/lab/log/init.log 2>&1
