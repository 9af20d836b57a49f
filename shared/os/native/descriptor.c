/* Pipes, terminals, and descriptors received over a unix socket. */
#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* () → [read fd, write fd], close-on-exec. */
napi_value make_pipe(napi_env env, napi_callback_info info) {
  (void)info;
  int fds[2];
  napi_value array;
  if (pipe2(fds, O_CLOEXEC) != 0) return throw_errno(env, "pipe2");
  if (napi_create_array_with_length(env, 2, &array) != napi_ok) return NULL;
  napi_set_element(env, array, 0, make_int(env, fds[0]));
  napi_set_element(env, array, 1, make_int(env, fds[1]));
  return array;
}

/* (tty fd, columns, rows) → undefined. */
napi_value resize(napi_env env, napi_callback_info info) {
  napi_value args[3];
  int32_t fd;
  uint32_t columns, rows;
  if (!read_args(env, info, 3, args) || !read_int(env, args[0], &fd) || !read_uint(env, args[1], &columns) ||
      !read_uint(env, args[2], &rows))
    return NULL;
  struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
  return ioctl(fd, TIOCSWINSZ, &size) == 0 ? NULL : throw_errno(env, "ioctl");
}

/* (path) → fd listening on a unix stream socket, mode 0600. */
napi_value unix_listen(napi_env env, napi_callback_info info) {
  napi_value args[1];
  String path;
  if (!read_args(env, info, 1, args) || !read_string(env, args[0], path)) return NULL;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  errno = ENAMETOOLONG;
  if (strlen(path) >= sizeof address.sun_path) return throw_errno(env, "bind");
  memcpy(address.sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return throw_errno(env, "socket");
  /* On Linux the mode of a unix socket before bind is the mode of the path bind creates. */
  if (fchmod(fd, 0600) == 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1) == 0)
    return make_int(env, fd);
  throw_errno(env, "bind");
  close(fd);
  return NULL;
}

/* (listening fd) → fd. EAGAIN when no connection waits. */
napi_value unix_accept(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t listener;
  if (!read_args(env, info, 1, args) || !read_int(env, args[0], &listener)) return NULL;
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  return fd < 0 ? throw_errno(env, "accept4") : make_int(env, fd);
}

/* Closes every descriptor of a control message past the first, and returns the first, or -1. */
static int first_descriptor(struct msghdr *message) {
  int first = -1;
  for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at != NULL; at = CMSG_NXTHDR(message, at)) {
    if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(at) + i * sizeof fd, sizeof fd);
      if (first < 0) first = fd;
      else close(fd);
    }
  }
  return first;
}

/* (unix socket fd) → the descriptor of the next message. EAGAIN when none waits; EBADMSG when it carries none, or at EOF. */
napi_value receive_fd(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t socket_fd;
  if (!read_args(env, info, 1, args) || !read_int(env, args[0], &socket_fd)) return NULL;
  char name[STRING_BYTES_MAX];
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * 8)];
  } control;
  struct iovec vector = {.iov_base = name, .iov_len = sizeof name};
  struct msghdr message = {
      .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  if (recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC) < 0) return throw_errno(env, "recvmsg");
  int fd = first_descriptor(&message);
  errno = EBADMSG;
  return fd < 0 ? throw_errno(env, "recvmsg") : make_int(env, fd);
}
