/*
 * A wire between two taps, in a process of its own, as a VPN's or another machine's daemon would be:
 *
 *   tap-wire NETNS TAP OWN     TAP is in the network namespace at the path NETNS, OWN in this one
 *
 * Frames that one of them sends are handed to the other, both ways. Says "open" once both are.
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* More than any frame of a tap without offloads. */
#define FRAME_BYTES_MAX 65536

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int open_tap(const char *name) {
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  int fd = open("/dev/net/tun", O_RDWR);
  if (fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0) die(name);
  return fd;
}

/* A frame that the other end does not take (it is down) is lost, as on any wire. */
static void carry(int from, int to) {
  char frame[FRAME_BYTES_MAX];
  ssize_t length = read(from, frame, sizeof frame);
  if (length < 0) die("read");
  if (write(to, frame, length) < 0) perror("write");
}

int main(int argc, char **argv) {
  if (argc != 4) die("usage: tap-wire NETNS TAP OWN");
  int own = open_tap(argv[3]), netns = open(argv[1], O_RDONLY);
  if (netns < 0 || setns(netns, CLONE_NEWNET) != 0) die(argv[1]);
  int tap = open_tap(argv[2]);
  puts("open");
  fflush(stdout);
  for (;;) {
    struct pollfd ends[] = {{.fd = tap, .events = POLLIN}, {.fd = own, .events = POLLIN}};
    if (poll(ends, 2, -1) < 0) die("poll");
    if (ends[0].revents) carry(tap, own);
    if (ends[1].revents) carry(own, tap);
  }
}
