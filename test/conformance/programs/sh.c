/*
 * /bin/sh of the image that most of critest's specs run. It runs a single plain word itself, and leaves all else to
 * busybox: Debian's static busybox would not run /bin/ls for "ls" but its own, and a spec masks that very file; and
 * critest compares what the shell then says with the words of busybox 1.29, which named no line.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int is_plain_word(const char *text) {
  return text[0] != '\0' && text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")] == '\0';
}

int main(int argc, char **argv) {
  const char *self = argv[0];
  if (argc == 3 && strcmp(argv[1], "-c") == 0 && is_plain_word(argv[2])) {
    char *command[] = {argv[2], NULL};
    execvp(argv[2], command);
    fprintf(stderr, "%s: %s: %s\n", self, argv[2], strerror(errno));
    return errno == ENOENT ? 127 : 126;
  }
  argv[0] = "sh";
  execv("/bin/busybox", argv);
  perror("/bin/busybox");
  return 126;
}
