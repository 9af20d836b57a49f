#!/bin/sh
# Makes the namespaces, mounts and devices of a test node and becomes its PID 1.
#
#   enter.sh outer   joins the node's cgroups and runs the rest in new namespaces
#   enter.sh rooted  makes the cgroup namespace
#   enter.sh inner   builds the root, pivots into it, prints "ready <pid as the outer machine sees it>"
#
# From the environment:
#   NODE_DIR       the node's own directory
#   NODE_ROOT      the cached root
#   NODE_CHECKOUT  the repository, mounted read-only at /kuasar
#   NODE_SEED      what /var/lib/containerd starts with; may be empty
#   NODE_NAME      the node's hostname
#   NODE_CGROUPS   the node's cgroup directories, separated by colons
set -eu

enter_outer() {
  join_leaves
  # --kill-child: when this process dies, however it dies, so does the node's PID 1, and with it the whole node.
  exec unshare --mount --pid --net --ipc --uts --fork --kill-child --propagation private -- "$0" rooted
}

# A cgroup namespace is rooted where its maker is, and the node's root is its own cgroup, not the leaf in it.
enter_rooted() {
  join_tops
  exec unshare --cgroup -- "$0" inner
}

# 0 means "the writer".
join_tops() {
  IFS=:
  for cgroup in $NODE_CGROUPS; do echo 0 >"$cgroup/cgroup.procs"; done
  unset IFS
}

# On v2 a cgroup that hands controllers down may hold no process itself: the node's own live in the leaf `init`.
join_leaves() {
  IFS=:
  for cgroup in $NODE_CGROUPS; do
    [ ! -d "$cgroup/init" ] || cgroup=$cgroup/init
    echo 0 >"$cgroup/cgroup.procs"
  done
  unset IFS
}

enter_inner() {
  # /proc is still the outer machine's, so this is the pid the outer machine knows the node's PID 1 by.
  read -r outer_pid _ </proc/self/stat
  join_leaves
  echo "$NODE_NAME" >/proc/sys/kernel/hostname
  make_root
  make_proc_sys
  make_cgroups
  make_dev
  mount --bind "$NODE_CHECKOUT" "$root/kuasar"
  mount -o remount,bind,ro "$root/kuasar"
  mount --bind "$NODE_DIR/scratch" "$root/scratch"
  cd "$root"
  pivot_root . .
  umount -l .
  cd /
  # As systemd does. virtiofsd copies the mount namespace: only through a shared root does it see later mounts.
  mount --make-rshared /
  ip link set lo up
  # Whatever dies without a parent in the node is reaped by tini. "ready" comes once all its processes are there.
  exec tini -- sh -c 'echo "ready $0"; exec sleep infinity >/dev/null 2>&1 </dev/null' "$outer_pid"
}

# An overlay over the cached root. What the overlay snapshotter writes must not itself be on an overlay, so
# containerd's directory is a plain one; a checkout that lies on an overlay (in a container) falls back to tmpfs.
make_root() {
  if [ "$(stat -f -c %T "$NODE_DIR")" = overlayfs ]; then
    mkdir "$NODE_DIR/disk"
    mount -t tmpfs -o mode=0755 tmpfs "$NODE_DIR/disk"
  fi
  disk=$NODE_DIR/disk
  root=$NODE_DIR/root
  mkdir -p "$disk/upper" "$disk/work" "$disk/containerd" "$root"
  [ -z "$NODE_SEED" ] || cp -a --reflink=auto "$NODE_SEED/." "$disk/containerd"
  mount -t overlay -o "lowerdir=$NODE_ROOT,upperdir=$disk/upper,workdir=$disk/work" overlay "$root"
  mkdir -p "$root/var/lib/containerd"
  mount --bind "$disk/containerd" "$root/var/lib/containerd"
  mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
}

make_proc_sys() {
  mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
  mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
}

# The outer machine's layout again, each hierarchy rooted at the node's own cgroup by the cgroup namespace.
make_cgroups() {
  top=$root/sys/fs/cgroup
  if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$top"
    for controller in $(cat "$top/cgroup.controllers"); do echo "+$controller" >"$top/cgroup.subtree_control"; done
    return
  fi
  mount -t tmpfs -o mode=0755 tmpfs "$top"
  # Read whole before the first mount: the list grows with what is mounted here.
  mounts=$(grep ' /sys/fs/cgroup/[^ ]* cgroup2\? ' /proc/self/mounts)
  while read -r _ point kind options _; do
    case $kind in
      cgroup)
        mkdir -p "$root$point"
        # Only the hierarchy's own names may be given again; the rest belongs to the mount point or the machine.
        flags='rw|ro|relatime|noatime|nosuid|nodev|noexec|seclabel|clone_children|release_agent=.*'
        names=$(echo "$options" | tr , '\n' | grep -v -x -E "$flags" | paste -sd,)
        mount -t cgroup -o "$names" cgroup "$root$point"
        ;;
      cgroup2)
        mkdir -p "$root$point"
        mount -t cgroup2 cgroup2 "$root$point"
        ;;
    esac
  done <<MOUNTS
$mounts
MOUNTS
}

make_dev() {
  dev=$root/dev
  mount -t tmpfs -o mode=0755,nosuid tmpfs "$dev"
  mkdir -p "$dev/pts" "$dev/shm" "$dev/mqueue" "$dev/net"
  for name in null zero full random urandom tty kvm fuse net/tun vhost-net vhost-vsock vhost-vdpa; do
    [ -c "/dev/$name" ] && cp -a "/dev/$name" "$dev/$name"
  done
  mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$dev/pts"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$dev/shm"
  mount -t mqueue mqueue "$dev/mqueue"
  ln -s pts/ptmx "$dev/ptmx"
  ln -s /proc/self/fd "$dev/fd"
  ln -s /proc/self/fd/0 "$dev/stdin"
  ln -s /proc/self/fd/1 "$dev/stdout"
  ln -s /proc/self/fd/2 "$dev/stderr"
}

"enter_$1"
