/*
 * Plays the OCI runtime for tests: opens a pty, sends the master over the unix socket argv[1] with SCM_RIGHTS, prints
 * argv[2] on the slave and hangs up.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void check(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

static void send_fd(int socket_fd, int fd) {
  char byte = 0;
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof fd)];
  } control = {0};
  struct iovec vector = {.iov_base = &byte, .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  check(sendmsg(socket_fd, &message, 0) == 1, "sendmsg");
}

int main(int argc, char **argv) {
  check(argc == 3, "usage: send-terminal SOCKET TEXT");
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  check(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0, "posix_openpt");
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  check(slave >= 0, "open slave");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  int connection = socket(AF_UNIX, SOCK_STREAM, 0);
  check(connect(connection, (struct sockaddr *)&address, sizeof address) == 0, "connect");
  send_fd(connection, master);
  check(write(slave, argv[2], strlen(argv[2])) >= 0, "write");
  return 0;
}
