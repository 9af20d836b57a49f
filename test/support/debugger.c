/*
 * Holds processes as a debugger does, with every thread that they have:
 *
 *   debugger PID …
 *
 * Says "held" once all stand still. Lets go of them when it is killed, and ends when they have.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void hold(const char *pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/task", pid);
  DIR *threads = opendir(path);
  if (threads == NULL) die(path);
  for (struct dirent *entry; (entry = readdir(threads)) != NULL;) {
    pid_t thread = atoi(entry->d_name);
    if (thread == 0) continue;
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) != 0 || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) != 0) die("ptrace");
    if (waitpid(thread, NULL, __WALL) != thread) die("waitpid");
  }
  closedir(threads);
}

int main(int argc, char **argv) {
  if (argc < 2) die("usage: debugger PID …");
  for (int i = 1; i < argc; i++) hold(argv[i]);
  puts("held");
  fflush(stdout);
  /* A parent hears of its child's death only once the debugger has. */
  while (waitpid(-1, NULL, __WALL) > 0)
    ;
  return 0;
}
