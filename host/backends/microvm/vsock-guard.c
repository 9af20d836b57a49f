/*
 * Loaded before vhost-device-vsock 0.3.0 (LD_PRELOAD), which does not survive a peer on the host that goes in the middle of a
 * dial, as a killed containerd does: one pod's whole vsock would end with it. Nothing changes for a peer that stays.
 *
 *   write, send  EPIPE is taken for success. The answer to CONNECT is written without a thought of failure, and the
 *                device's only thread panics. That nobody is there is heard at the next read all the same.
 *   read         ECONNRESET, of a peer that left with bytes unread, is the end of the stream. The device passes over any
 *                error, and the guest would hold its side of the connection for good.
 *   epoll_wait   A hang-up beside something to read is not told of. The device waits for exactly EPOLLIN of a connection
 *                that is new, and else leaves it as it is and asks again, for ever.
 *
 * Source: vhost-device-vsock 0.3.0, vsock_conn.rs (send_pkt, recv_pkt) and vhu_vsock_thread.rs (handle_event).
 */
#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static ssize_t written(ssize_t result, size_t count) {
  return result < 0 && errno == EPIPE ? (ssize_t)count : result;
}

EXPORT ssize_t write(int fd, const void *bytes, size_t count) {
  return written(syscall(SYS_write, fd, bytes, count), count);
}

EXPORT ssize_t send(int fd, const void *bytes, size_t count, int flags) {
  return written(syscall(SYS_sendto, fd, bytes, count, flags, NULL, 0), count);
}

EXPORT ssize_t read(int fd, void *bytes, size_t count) {
  ssize_t result = syscall(SYS_read, fd, bytes, count);
  return result < 0 && errno == ECONNRESET ? 0 : result;
}

EXPORT int epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms) {
  int count = (int)syscall(SYS_epoll_pwait, fd, events, max, timeout_ms, NULL, 0);
  for (int i = 0; i < count; i++)
    if (events[i].events & EPOLLIN) events[i].events &= ~(unsigned)(EPOLLHUP | EPOLLRDHUP | EPOLLERR);
  return count;
}
