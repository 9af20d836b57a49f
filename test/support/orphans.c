/*
 * Makes argv[1] orphans for tests: each prints its pid, is handed to PID 1 by the end of its parent, and exits with its
 * number modulo 200.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(pid_t pid) {
  if (pid >= 0) return;
  perror("fork");
  exit(1);
}

static void make_orphan(int number) {
  pid_t child = fork();
  check(child);
  if (child > 0) {
    waitpid(child, NULL, 0);
    return;
  }
  pid_t orphan = fork();
  check(orphan);
  if (orphan == 0) _exit(number % 200);
  dprintf(STDOUT_FILENO, "%d\n", orphan);
  _exit(0);
}

int main(int argc, char **argv) {
  int count = argc == 2 ? atoi(argv[1]) : 0;
  for (int i = 0; i < count; i++) make_orphan(i);
  return 0;
}
