/* The three options on the kernel's command line. Unknown kuasar.* words are reported, not guessed. */
#include "init.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static bool take(const char *word, const char *name, char *out, size_t size) {
  size_t length = strlen(name);
  if (strncmp(word, name, length) != 0) return false;
  if (strlen(word + length) >= size) say("%s: the value is longer than %zu bytes and is ignored", name, size - 1);
  else strcpy(out, word + length);
  return true;
}

/* The level travels inside JSON, so nothing but a plain word may pass. */
static void require_word(char *value, const char *name) {
  if (value[strspn(value, "abcdefghijklmnopqrstuvwxyz")] == '\0') return;
  say("%s: expected a word of lower-case letters; ignored", name);
  value[0] = '\0';
}

void read_options(struct options *options) {
  char line[COMMAND_LINE_BYTES_MAX + 1];
  char *rest;
  memset(options, 0, sizeof *options);
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("cannot read /proc/cmdline");
  ssize_t length = read(fd, line, sizeof line - 1);
  close(fd);
  line[length < 0 ? 0 : length] = '\0';
  for (char *word = strtok_r(line, " \n", &rest); word != NULL; word = strtok_r(NULL, " \n", &rest)) {
    if (take(word, "kuasar.console=", options->console, sizeof options->console)) continue;
    if (take(word, "kuasar.log=", options->log, sizeof options->log)) continue;
    if (take(word, "kuasar.agent=", options->agent, sizeof options->agent)) continue;
    if (strncmp(word, "kuasar.", 7) == 0) say("unknown option on the kernel command line: %s", word);
  }
  require_word(options->log, "kuasar.log");
}
