/*
 * A server of a pod's, for tests of how it is reached:
 *
 *   tcp-server ADDRESS PORT echo          sends back what it gets, to the end
 *   tcp-server ADDRESS PORT COMMAND …     runs a command for each connection, as its standard input and output
 *
 * ADDRESS is numeric and is the only one it listens on. Says "listening" once it does.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 1024

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int listen_on(const char *address, int port) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  int is6 = inet_pton(AF_INET6, address, &v6.sin6_addr) == 1;
  if (!is6 && inet_pton(AF_INET, address, &v4.sin_addr) != 1) die(address);
  int on = 1, fd = socket(is6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (is6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) != 0) die("setsockopt");
  if (bind(fd, is6 ? (void *)&v6 : (void *)&v4, is6 ? sizeof v6 : sizeof v4) != 0) die("bind");
  if (listen(fd, BACKLOG) != 0) die("listen");
  return fd;
}

static void echo(int fd) {
  char bytes[65536];
  for (ssize_t got; (got = read(fd, bytes, sizeof bytes)) > 0;)
    for (ssize_t at = 0, put; at < got; at += put)
      if ((put = write(fd, bytes + at, got - at)) <= 0) return;
}

int main(int argc, char **argv) {
  if (argc < 4) die("usage: tcp-server ADDRESS PORT echo|COMMAND…");
  signal(SIGCHLD, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  int listener = listen_on(argv[1], atoi(argv[2]));
  puts("listening");
  fflush(stdout);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    if (fork() == 0) {
      close(listener);
      if (strcmp(argv[3], "echo") == 0) {
        echo(fd);
        _exit(0);
      }
      dup2(fd, 0);
      dup2(fd, 1);
      close(fd);
      signal(SIGCHLD, SIG_DFL);
      execvp(argv[3], argv + 3);
      _exit(127);
    }
    close(fd);
  }
}
