/* mount(2), umount2(2) and mount_setattr(2) as they are; mount-plan.ts turns option words into flags. */
#include "addon.h"

#include <fcntl.h>
#include <sys/mount.h>

static const char *or_null(const char *text) { return *text == '\0' ? NULL : text; }

/* (source, target, type, flags, data) → undefined. An empty type or data is NULL. */
napi_value do_mount(napi_env env, napi_callback_info info) {
  napi_value args[5];
  String source, target, type, data;
  uint32_t flags;
  if (!read_args(env, info, 5, args) || !read_string(env, args[0], source) || !read_string(env, args[1], target) ||
      !read_string(env, args[2], type) || !read_uint(env, args[3], &flags) || !read_string(env, args[4], data))
    return NULL;
  return mount(source, target, or_null(type), flags, or_null(data)) == 0 ? NULL : throw_errno(env, "mount");
}

/* (target, flags) → undefined. */
napi_value do_unmount(napi_env env, napi_callback_info info) {
  napi_value args[2];
  String target;
  int32_t flags;
  if (!read_args(env, info, 2, args) || !read_string(env, args[0], target) || !read_int(env, args[1], &flags))
    return NULL;
  return umount2(target, flags) == 0 ? NULL : throw_errno(env, "umount2");
}

/* (target) → undefined. The mount and all below it, in one call: read-only, nosuid, nodev. */
napi_value do_restrict(napi_env env, napi_callback_info info) {
  napi_value args[1];
  String target;
  if (!read_args(env, info, 1, args) || !read_string(env, args[0], target)) return NULL;
  struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
  if (mount_setattr(AT_FDCWD, target, AT_RECURSIVE | AT_SYMLINK_NOFOLLOW, &attributes, sizeof attributes) == 0) return NULL;
  return throw_errno(env, "mount_setattr");
}
