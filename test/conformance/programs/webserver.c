/*
 * The web server of critest's images, under the name of the one it stands in for. It listens before it does anything else:
 * a spec that forwards a port does so as soon as the container has started, and takes a refused connection for the end.
 * A request is busybox's to answer (httpd -i: one connection, on the standard descriptors). The port is the file `port`.
 */
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOT "/srv/www"
#define BACKLOG 128

static void end(int signal) {
  (void)signal;
  _exit(0);
}

static int fail(const char *what) {
  perror(what);
  return 1;
}

/* Of IPv6 and, with it, of IPv4; of IPv4 alone where the kernel has no other. */
static int listen_on(unsigned short port) {
  struct sockaddr_in6 both = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_port = htons(port)};
  int no = 0, yes = 1;
  int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int family = fd < 0 ? AF_INET : AF_INET6;
  if (fd < 0) fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0) return -1;
  if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no) != 0) return -1;
  int bound = family == AF_INET6 ? bind(fd, (struct sockaddr *)&both, sizeof both) : bind(fd, (struct sockaddr *)&ipv4, sizeof ipv4);
  return bound == 0 && listen(fd, BACKLOG) == 0 ? fd : -1;
}

int main(int argc, char **argv) {
  (void)argc;
  char path[256];
  unsigned port = 0;
  const char *name = strrchr(argv[0], '/') == NULL ? argv[0] : strrchr(argv[0], '/') + 1;
  FILE *file = fopen("/srv/port", "re");
  if (file == NULL || fscanf(file, "%u", &port) != 1) return fail("/srv/port");
  fclose(file);
  int server = listen_on((unsigned short)port);
  if (server < 0) return fail("listen");
  // As process 1 it gets no signal that it does not ask for.
  signal(SIGTERM, end);
  signal(SIGQUIT, end);
  signal(SIGCHLD, SIG_IGN);
  snprintf(path, sizeof path, "/var/run/%s.pid", name);
  if ((file = fopen(path, "we")) != NULL) {
    fprintf(file, "%d\n", (int)getpid());
    fclose(file);
  }
  printf("%s serves port %u\n", name, port);
  fflush(stdout);
  for (;;) {
    int connection = accept(server, NULL, NULL);
    if (connection < 0) continue;
    if (fork() == 0) {
      dup2(connection, STDIN_FILENO);
      dup2(connection, STDOUT_FILENO);
      execl("/bin/busybox", "busybox", "httpd", "-i", "-h", ROOT, NULL);
      _exit(127);
    }
    close(connection);
  }
}
