/* What init says, and its last word. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* Makes /dev/NAME the standard descriptors; what cannot be opened leaves them as they are, and says so. */
void open_console(const char *name) {
  char path[64];
  snprintf(path, sizeof path, "/dev/%s", name);
  int fd = open(path, O_RDWR | O_NOCTTY);
  if (fd < 0) {
    say("console %s: %s; output stays where it was", path, strerror(errno));
    return;
  }
  for (int target = 0; target <= 2; target++) dup2(fd, target);
  if (fd > 2) close(fd);
}

static void say_list(const char *suffix, const char *format, va_list list) {
  char line[512];
  int length = vsnprintf(line, sizeof line, format, list);
  if (length < 0) return;
  /* One write, so that the line is not torn by the agent's own output. */
  dprintf(STDERR_FILENO, "init: %s%s\n", line, suffix);
}

void say(const char *format, ...) {
  va_list list;
  va_start(list, format);
  say_list("", format, list);
  va_end(list);
}

void fail(const char *format, ...) {
  char suffix[128];
  snprintf(suffix, sizeof suffix, ": %s; powering off", strerror(errno));
  va_list list;
  va_start(list, format);
  say_list(suffix, format, list);
  va_end(list);
  power_off();
}

/*
 * sync(2) in a process of its own: it would wait for ever for a virtiofs whose host side died. Then the console gets its time,
 * for the kernel's own last line does not wait for ours, and would come in the middle of it.
 */
static void sync_within_limit(void) {
  pid_t child = fork();
  if (child == 0) {
    sync();
    tcdrain(STDERR_FILENO);
    _exit(0);
  }
  struct timespec step = {.tv_nsec = 1000000};
  for (int waited_ms = 0; child > 0 && waited_ms < SYNC_WAIT_MS_MAX; waited_ms++) {
    if (waitpid(child, NULL, WNOHANG) != 0) return;
    nanosleep(&step, NULL);
  }
  if (child > 0) say("file systems were not written back within %d ms", SYNC_WAIT_MS_MAX);
}

void power_off(void) {
  sync_within_limit();
  reboot(RB_POWER_OFF);
  /* Only when it was not allowed: the end of PID 1 ends the namespace, or panics the kernel. */
  _exit(1);
}
