/* Processes, clocks, and the machine itself. */
#include "addon.h"

#include <errno.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NANOS_PER_SECOND 1000000000LL

/* (pid) → pidfd, close-on-exec by definition. glibc 2.36 has a wrapper, older ones do not. */
napi_value pidfd_open_pid(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t pid;
  if (!read_args(env, info, 1, args) || !read_int(env, args[0], &pid)) return NULL;
  long fd = syscall(SYS_pidfd_open, pid, 0);
  return fd < 0 ? throw_errno(env, "pidfd_open") : make_int(env, fd);
}

/* (name) → undefined. */
napi_value set_hostname(napi_env env, napi_callback_info info) {
  napi_value args[1];
  String name;
  if (!read_args(env, info, 1, args) || !read_string(env, args[0], name)) return NULL;
  return sethostname(name, strlen(name)) == 0 ? NULL : throw_errno(env, "sethostname");
}

/* (bigint nanoseconds since the epoch) → undefined. */
napi_value set_realtime(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int64_t nanos;
  bool lossless;
  if (!read_args(env, info, 1, args)) return NULL;
  if (napi_get_value_bigint_int64(env, args[0], &nanos, &lossless) != napi_ok || !lossless) {
    napi_throw_type_error(env, NULL, "expected a 64-bit bigint");
    return NULL;
  }
  struct timespec time = {.tv_sec = nanos / NANOS_PER_SECOND, .tv_nsec = nanos % NANOS_PER_SECOND};
  return clock_settime(CLOCK_REALTIME, &time) == 0 ? NULL : throw_errno(env, "clock_settime");
}

/* () → bigint nanoseconds of CLOCK_BOOTTIME. */
napi_value boot_time(napi_env env, napi_callback_info info) {
  (void)info;
  struct timespec time;
  napi_value result = NULL;
  if (clock_gettime(CLOCK_BOOTTIME, &time) != 0) return throw_errno(env, "clock_gettime");
  napi_create_bigint_int64(env, time.tv_sec * NANOS_PER_SECOND + time.tv_nsec, &result);
  return result;
}

/* () → does not return to a caller that may. */
napi_value power_off(napi_env env, napi_callback_info info) {
  (void)info;
  sync();
  return reboot(RB_POWER_OFF) == 0 ? NULL : throw_errno(env, "reboot");
}
