/* The table of what JavaScript can call, and the helpers every function uses. */
#include "addon.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

static const napi_property_descriptor functions[] = {
#define METHOD(name, function) {name, NULL, function, NULL, NULL, NULL, napi_enumerable, NULL}
    METHOD("vsockConnect", vsock_connect), METHOD("vsockListen", vsock_listen),
    METHOD("vsockAccept", vsock_accept),   METHOD("vsockAddress", vsock_address),
    METHOD("vsockLocalCid", vsock_local_cid), METHOD("socketError", socket_error),
    METHOD("pollStart", poll_start),       METHOD("pollStop", poll_stop),
/* All that the package node-vsock has: nothing that only root may. */
#ifndef VSOCK_ALONE
    METHOD("unixListen", unix_listen),     METHOD("unixAccept", unix_accept),
    METHOD("receiveFd", receive_fd),       METHOD("pipe", make_pipe),
    METHOD("resize", resize),              METHOD("pidfdOpen", pidfd_open_pid),
    METHOD("mount", do_mount),             METHOD("unmount", do_unmount),
    METHOD("restrict", do_restrict),
    METHOD("setHostname", set_hostname),   METHOD("setRealtime", set_realtime),
    METHOD("bootTime", boot_time),         METHOD("powerOff", power_off),
    METHOD("localhostListen", localhost_listen),
    METHOD("spawn", spawn_program),        METHOD("waitChild", wait_child),
#endif
#undef METHOD
};

NAPI_MODULE_INIT() {
  if (napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions) != napi_ok) return NULL;
  if (napi_set_named_property(env, exports, "version", make_int(env, ADDON_VERSION)) != napi_ok) return NULL;
  return exports;
}

bool read_args(napi_env env, napi_callback_info info, size_t count, napi_value *args) {
  size_t given = count;
  if (napi_get_cb_info(env, info, &given, args, NULL, NULL) == napi_ok && given == count) return true;
  napi_throw_type_error(env, NULL, "wrong number of arguments");
  return false;
}

bool read_int(napi_env env, napi_value value, int32_t *out) {
  double number;
  if (napi_get_value_double(env, value, &number) == napi_ok && number >= INT32_MIN && number <= INT32_MAX &&
      number == (double)(int32_t)number) {
    *out = (int32_t)number;
    return true;
  }
  napi_throw_type_error(env, NULL, "expected a 32-bit integer");
  return false;
}

bool read_uint(napi_env env, napi_value value, uint32_t *out) {
  double number;
  if (napi_get_value_double(env, value, &number) == napi_ok && number >= 0 && number <= UINT32_MAX &&
      number == (double)(uint32_t)number) {
    *out = (uint32_t)number;
    return true;
  }
  napi_throw_type_error(env, NULL, "expected an unsigned 32-bit integer");
  return false;
}

bool read_string(napi_env env, napi_value value, String out) {
  size_t length;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) {
    napi_throw_type_error(env, NULL, "expected a string");
    return false;
  }
  if (length >= STRING_BYTES_MAX) {
    errno = ENAMETOOLONG;
    throw_errno(env, "copy");
    return false;
  }
  napi_get_value_string_utf8(env, value, out, STRING_BYTES_MAX, &length);
  if (strlen(out) == length) return true;
  napi_throw_type_error(env, NULL, "the string holds a NUL byte");
  return false;
}

napi_value make_int(napi_env env, int64_t value) {
  napi_value result = NULL;
  napi_create_int64(env, value, &result);
  return result;
}

napi_value make_array(napi_env env, const int64_t *values, uint32_t count) {
  napi_value array = NULL;
  if (napi_create_array_with_length(env, count, &array) != napi_ok) return NULL;
  for (uint32_t i = 0; i < count; i++) napi_set_element(env, array, i, make_int(env, values[i]));
  return array;
}

napi_value throw_errno(napi_env env, const char *syscall) {
  int number = errno;
  char text[160];
  napi_value code, message, name, error;
  snprintf(text, sizeof text, "%s: %s", syscall, strerror(number));
  if (napi_create_string_utf8(env, uv_err_name(-number), NAPI_AUTO_LENGTH, &code) == napi_ok &&
      napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &message) == napi_ok &&
      napi_create_string_utf8(env, syscall, NAPI_AUTO_LENGTH, &name) == napi_ok &&
      napi_create_error(env, code, message, &error) == napi_ok &&
      napi_set_named_property(env, error, "syscall", name) == napi_ok &&
      napi_set_named_property(env, error, "errno", make_int(env, -number)) == napi_ok)
    napi_throw(env, error);
  return NULL;
}
