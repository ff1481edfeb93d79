#!/bin/sh
# First program of a guest whose root is protected by dm-verity.  Its root hash and where the hash
# tree begins are on the kernel's command line, which the launch measured; any disk may have it, for
# the hash says whether it does.  What the guest writes is in its memory, and gone when it ends.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
mount -t tmpfs run /run

end() {
  echo "tandem: $*" >/dev/console
  sleep 1  # for the console
  poweroff -f
}

hash="" offset=""
for word in $(cat /proc/cmdline); do
  case "$word" in
    tandem.roothash=*) hash="${word#*=}" ;;
    tandem.hashoffset=*) offset="${word#*=}" ;;
  esac
done
[ -n "$hash" ] && [ -n "$offset" ] || end "no tandem.roothash and tandem.hashoffset to boot from"

while read -r module; do
  insmod "/lib/modules/$module.ko"
done </lib/modules/order

for disk in /dev/vd[a-z]; do
  [ -b "$disk" ] || continue
  veritysetup open "$disk" root "$disk" "$hash" --hash-offset="$offset" && break
done
[ -b /dev/mapper/root ] || end "no disk has the root that was measured"

mkdir -p /lower /memory /root
mount -t squashfs -o ro /dev/mapper/root /lower || end "the measured root is damaged"
mount -t tmpfs -o mode=755 memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work root /root ||
  end "the root has no room for what it writes"
for each in dev proc run sys; do mount --move "/$each" "/root/$each"; done
exec switch_root /root /sbin/init
end "the measured root has no system"
