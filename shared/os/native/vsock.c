/*
 * AF_VSOCK stream sockets, all non-blocking and close-on-exec. Connect only begins here; JavaScript waits for
 * writability and asks socketError, so no libuv pool thread sleeps in a connect and an abort takes effect at once.
 */
#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static int open_socket(void) { return socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

static struct sockaddr_vm address_of(uint32_t cid, uint32_t port) {
  return (struct sockaddr_vm){.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
}

static napi_value fail_and_close(napi_env env, int fd, const char *syscall) {
  napi_value result = throw_errno(env, syscall);
  close(fd);
  return result;
}

/* (cid, port, timeoutMs) → fd of a connect in progress. */
napi_value vsock_connect(napi_env env, napi_callback_info info) {
  napi_value args[3];
  uint32_t cid, port, timeout_ms;
  if (!read_args(env, info, 3, args) || !read_uint(env, args[0], &cid) || !read_uint(env, args[1], &port) ||
      !read_uint(env, args[2], &timeout_ms))
    return NULL;
  int fd = open_socket();
  if (fd < 0) return throw_errno(env, "socket");
  struct timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = (timeout_ms % 1000) * 1000L};
  if (setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &limit, sizeof limit) != 0)
    return fail_and_close(env, fd, "setsockopt");
  struct sockaddr_vm address = address_of(cid, port);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
    return fail_and_close(env, fd, "connect");
  return make_int(env, fd);
}

/* (port, backlog) → fd listening on every CID of this machine. */
napi_value vsock_listen(napi_env env, napi_callback_info info) {
  napi_value args[2];
  uint32_t port, backlog;
  if (!read_args(env, info, 2, args) || !read_uint(env, args[0], &port) || !read_uint(env, args[1], &backlog))
    return NULL;
  int fd = open_socket();
  if (fd < 0) return throw_errno(env, "socket");
  struct sockaddr_vm address = address_of(VMADDR_CID_ANY, port);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) return fail_and_close(env, fd, "bind");
  if (listen(fd, (int)backlog) != 0) return fail_and_close(env, fd, "listen");
  return make_int(env, fd);
}

/* (listening fd) → [fd, peer cid, peer port]. EAGAIN when no connection waits. */
napi_value vsock_accept(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t listener;
  if (!read_args(env, info, 1, args) || !read_int(env, args[0], &listener)) return NULL;
  struct sockaddr_vm peer = {0};
  socklen_t length = sizeof peer;
  int fd = accept4(listener, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return throw_errno(env, "accept4");
  return make_array(env, (int64_t[]){fd, peer.svm_cid, peer.svm_port}, 3);
}

/* (fd) → [cid, port] it is bound to. */
napi_value vsock_address(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t fd;
  if (!read_args(env, info, 1, args) || !read_int(env, args[0], &fd)) return NULL;
  struct sockaddr_vm own = {0};
  socklen_t length = sizeof own;
  if (getsockname(fd, (struct sockaddr *)&own, &length) != 0) return throw_errno(env, "getsockname");
  return make_array(env, (int64_t[]){own.svm_cid, own.svm_port}, 2);
}

/* () → this machine's CID. ENODEV without a vsock device, be it the file or what is behind it (the CID is then "any"). */
napi_value vsock_local_cid(napi_env env, napi_callback_info info) {
  (void)info;
  int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) errno = ENODEV;
  if (fd < 0) return throw_errno(env, "open");
  uint32_t cid;
  if (ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0) return fail_and_close(env, fd, "ioctl");
  close(fd);
  errno = ENODEV;
  return cid == VMADDR_CID_ANY ? throw_errno(env, "ioctl") : make_int(env, cid);
}

/* (fd) → undefined, or throws the pending error of a finished connect. */
napi_value socket_error(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t fd;
  if (!read_args(env, info, 1, args) || !read_int(env, args[0], &fd)) return NULL;
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return throw_errno(env, "getsockopt");
  errno = error;
  return error == 0 ? NULL : throw_errno(env, "connect");
}
