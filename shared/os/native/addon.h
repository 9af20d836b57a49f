/*
 * The native half of shared/os. Each function does one system call (or the few that belong together), throws a JS
 * Error with `code`, `syscall` and `errno` when it fails, and keeps no state. Policy lives in native.ts.
 */
#ifndef KUASAR_OS_ADDON_H
#define KUASAR_OS_ADDON_H

#include <stddef.h>
#include <stdint.h>

#define NAPI_VERSION 8
#include <node_api.h>

/* Raised whenever a function is added or changes; native.ts refuses any other number. */
#define ADDON_VERSION 5

/* Longest string argument in bytes, NUL included. A path fits (PATH_MAX), and so does the kernel's page of mount data. */
#define STRING_BYTES_MAX 4096

typedef char String[STRING_BYTES_MAX];

/* Reads exactly `count` arguments. On false a TypeError is pending. */
bool read_args(napi_env env, napi_callback_info info, size_t count, napi_value *args);
bool read_int(napi_env env, napi_value value, int32_t *out);
bool read_uint(napi_env env, napi_value value, uint32_t *out);
bool read_string(napi_env env, napi_value value, String out);

napi_value make_int(napi_env env, int64_t value);
/* [first, second, …] as a JS array of numbers. */
napi_value make_array(napi_env env, const int64_t *values, uint32_t count);

/* Throws `errno` as an Error about `syscall` and returns NULL, for `return throw_errno(…)`. */
napi_value throw_errno(napi_env env, const char *syscall);

napi_value vsock_connect(napi_env env, napi_callback_info info);
napi_value vsock_listen(napi_env env, napi_callback_info info);
napi_value vsock_accept(napi_env env, napi_callback_info info);
napi_value vsock_address(napi_env env, napi_callback_info info);
napi_value vsock_local_cid(napi_env env, napi_callback_info info);
napi_value socket_error(napi_env env, napi_callback_info info);

napi_value unix_listen(napi_env env, napi_callback_info info);
napi_value unix_accept(napi_env env, napi_callback_info info);
napi_value receive_fd(napi_env env, napi_callback_info info);

napi_value make_pipe(napi_env env, napi_callback_info info);
napi_value resize(napi_env env, napi_callback_info info);

napi_value poll_start(napi_env env, napi_callback_info info);
napi_value poll_stop(napi_env env, napi_callback_info info);

napi_value localhost_listen(napi_env env, napi_callback_info info);

napi_value do_mount(napi_env env, napi_callback_info info);
napi_value do_unmount(napi_env env, napi_callback_info info);
napi_value do_restrict(napi_env env, napi_callback_info info);

napi_value pidfd_open_pid(napi_env env, napi_callback_info info);
napi_value set_hostname(napi_env env, napi_callback_info info);
napi_value set_realtime(napi_env env, napi_callback_info info);
napi_value boot_time(napi_env env, napi_callback_info info);
napi_value power_off(napi_env env, napi_callback_info info);

napi_value spawn_program(napi_env env, napi_callback_info info);
napi_value wait_child(napi_env env, napi_callback_info info);

#endif
