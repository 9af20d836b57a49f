/* Kernel modules, in the order that image/ resolved: init knows nothing of dependencies. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int load_module(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  long result = syscall(SYS_finit_module, fd, "", 0);
  int error = errno;
  close(fd);
  errno = error;
  /* Built in, or loaded already: as good as loaded now. */
  return result == 0 || error == EEXIST ? 0 : -1;
}

void load_modules(const char *list_path, bool unlink_after) {
  char line[MODULE_PATH_BYTES_MAX];
  FILE *list = fopen(list_path, "re");
  if (list == NULL) {
    if (errno == ENOENT) return;
    fail("cannot read the module list %s", list_path);
  }
  while (fgets(line, sizeof line, list) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    bool may_fail = line[0] == '-';
    const char *path = may_fail ? line + 1 : line;
    if (load_module(path) != 0 && !may_fail) fail("cannot load the module %s", path);
    if (unlink_after) unlink(path);
  }
  fclose(list);
}

/* Where image/ wrote, per line, a name the kernel may ask for and a module that loads for it. */
#define DEMAND_LIST "/usr/lib/kuasar/modules-on-demand"

/* The kernel itself takes "-" and "_" for the same. */
static bool same_name(const char *a, const char *b) {
  for (; *a != '\0' && *b != '\0'; a++, b++) {
    char left = *a == '-' ? '_' : *a;
    char right = *b == '-' ? '_' : *b;
    if (left != right) return false;
  }
  return *a == *b;
}

int modprobe_main(const char *name) {
  char line[MODULE_PATH_BYTES_MAX];
  FILE *list = fopen(DEMAND_LIST, "re");
  if (list == NULL) return 1;
  int result = 1;
  while (fgets(line, sizeof line, list) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    char *path = strchr(line, ' ');
    if (path == NULL) continue;
    *path++ = '\0';
    if (!same_name(line, name)) continue;
    result = load_module(path) == 0 ? 0 : 1;
    if (result != 0) break;
  }
  fclose(list);
  return result;
}
