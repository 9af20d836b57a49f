/* The file systems of the guest's own root, and the loopback interface. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CGROUP_ROOT "/sys/fs/cgroup"

/* Longest cgroup.controllers. */
#define CONTROLLERS_BYTES_MAX 256

struct system_mount {
  const char *source, *target, *type;
  unsigned long flags;
  const char *data;
};

static const struct system_mount system_mounts[] = {
    {"proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,mode=0620,gid=5,ptmxmode=0666"},
    {"shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"},
    {"tmp", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"cgroup2", CGROUP_ROOT, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

void mount_or_fail(const char *source, const char *target, const char *type, unsigned long flags, const char *data) {
  if (mount(source, target, type, flags, data) != 0) fail("cannot mount %s on %s", source, target);
}

/* devtmpfs comes along from the initramfs; without one it is mounted here. */
static void mount_dev(void) {
  if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755") != 0 && errno != EBUSY)
    fail("cannot mount devtmpfs on /dev");
}

/* Every controller the kernel has, for all children of the cgroup root, so that a container's cgroup has them all. */
static void enable_controllers(void) {
  char names[CONTROLLERS_BYTES_MAX + 1], change[2 * CONTROLLERS_BYTES_MAX + 2] = "";
  char *rest;
  int from = open(CGROUP_ROOT "/cgroup.controllers", O_RDONLY | O_CLOEXEC);
  int to = open(CGROUP_ROOT "/cgroup.subtree_control", O_WRONLY | O_CLOEXEC);
  ssize_t length = from < 0 ? -1 : read(from, names, sizeof names - 1);
  if (length < 0 || to < 0) fail("cannot open the cgroup root");
  names[length] = '\0';
  for (char *name = strtok_r(names, " \n", &rest); name != NULL; name = strtok_r(NULL, " \n", &rest))
    strcat(strcat(change, change[0] == '\0' ? "+" : " +"), name);
  if (write(to, change, strlen(change)) < 0) fail("cannot enable the cgroup controllers %s", change);
  close(from);
  close(to);
}

/*
 * Devices whose module comes when they are opened, so devtmpfs does not have them yet. For a container that binds one; a
 * container that is given one has its node from the OCI runtime. Source: Documentation/networking/tuntap.rst.
 */
static void static_nodes(void) {
  mkdir("/dev/net", 0755);
  if (mknod("/dev/net/tun", S_IFCHR, makedev(10, 200)) != 0 || chmod("/dev/net/tun", 0666) != 0)
    say("cannot make /dev/net/tun: %s", strerror(errno));
}

void mount_system(void) {
  struct stat above, dev;
  if (stat("/", &above) != 0 || stat("/dev", &dev) != 0) fail("the root has no /dev");
  if (above.st_dev == dev.st_dev) mount_dev();
  mkdir("/dev/pts", 0755);
  mkdir("/dev/shm", 01777);
  static_nodes();
  for (size_t i = 0; i < sizeof system_mounts / sizeof *system_mounts; i++) {
    const struct system_mount *m = &system_mounts[i];
    mount_or_fail(m->source, m->target, m->type, m->flags, m->data);
  }
  enable_controllers();
}

void loopback_up(void) {
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0) fail("cannot bring up the loopback interface");
  close(fd);
}
