/* From the initramfs to the root disk. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#define ROOT_DISK "/dev/vda"
#define ROOT_TYPE "erofs"
#define NEW_ROOT "/root"

/* The disk is normally there as soon as its driver is loaded; a slow bus gets a while, and then an error that says so. */
static void wait_for_disk(void) {
  struct timespec step = {.tv_nsec = 1000000};
  for (int waited_ms = 0; access(ROOT_DISK, R_OK) != 0; waited_ms++) {
    if (waited_ms >= ROOT_WAIT_MS_MAX) fail("the root disk %s did not appear within %d ms", ROOT_DISK, ROOT_WAIT_MS_MAX);
    nanosleep(&step, NULL);
  }
}

/*
 * The initramfs's files are unlinked so that their memory is free again; it stays below as an empty file system, for
 * the kernel's own root cannot be unmounted (Documentation/filesystems/ramfs-rootfs-initramfs.rst).
 */
void switch_to_root(void) {
  wait_for_disk();
  mount_or_fail(ROOT_DISK, NEW_ROOT, ROOT_TYPE, MS_RDONLY, NULL);
  mount_or_fail("/dev", NEW_ROOT "/dev", NULL, MS_MOVE, NULL);
  unlink("/modules");
  unlink("/init");
  if (chdir(NEW_ROOT) != 0) fail("cannot enter the root");
  mount_or_fail(".", "/", NULL, MS_MOVE, NULL);
  if (chroot(".") != 0 || chdir("/") != 0) fail("cannot switch to the root");
}
