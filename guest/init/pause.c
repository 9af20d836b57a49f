/*
 * PID 1 of a pod-shared PID namespace. Started outside one it makes it: the child is PID 1 inside, its pid outside is
 * printed, and the starter exits, so that the child is an orphan of the guest's init like every container.
 *
 * Only SIGKILL from outside ends it: what a container sends to its PID 1 the kernel drops, for there is no handler for it
 * (pid_namespaces(7)).
 */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int reap_for_ever(void) {
  sigset_t set;
  int signal = 0;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  while (sigwait(&set, &signal) == 0)
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
  return 1;
}

static void detach_output(void) {
  int null = open("/dev/null", O_RDWR);
  for (int target = 0; target <= 2; target++) dup2(null, target);
  if (null > 2) close(null);
}

int pause_main(void) {
  if (getpid() == 1) return reap_for_ever();
  if (unshare(CLONE_NEWPID) != 0) {
    say("cannot make a PID namespace: %s", strerror(errno));
    return 1;
  }
  pid_t child = fork();
  if (child < 0) {
    say("cannot fork into the PID namespace: %s", strerror(errno));
    return 1;
  }
  if (child == 0) {
    detach_output();
    return reap_for_ever();
  }
  printf("%d\n", child);
  return 0;
}
