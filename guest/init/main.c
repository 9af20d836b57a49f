/* Which of its parts this process plays. */
#include "init.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Root file-system paths of the module list and the initramfs's own. */
#define ROOT_MODULES "/usr/lib/kuasar/modules"
#define INITRAMFS_MODULES "/modules"

/* Descriptors a process may have at most, the kernel's default ceiling (fs.nr_open): Node and crun inherit it. */
#define OPEN_FILES_MAX 1048576

static void raise_limits(void) {
  struct rlimit limit = {.rlim_cur = OPEN_FILES_MAX, .rlim_max = OPEN_FILES_MAX};
  struct rlimit none = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) fail("cannot raise the limit of open files");
  /* The kernel's own follow the VM's memory, some 1800 for each user of a small one. What counts is the container's pids.max. */
  if (setrlimit(RLIMIT_NPROC, &none) != 0 || setrlimit(RLIMIT_SIGPENDING, &none) != 0) fail("cannot lift the limits of processes");
}

static _Noreturn void run_root(void) {
  struct options options;
  mark("switch-root");
  mount_system();
  read_options(&options);
  mark("mounts");
  load_modules(ROOT_MODULES, false);
  if (options.console[0] != '\0') open_console(options.console);
  loopback_up();
  raise_limits();
  mark("modules");
  run_agent(&options);
}

static _Noreturn void run_initramfs(void) {
  mount_or_fail("devtmpfs", "/dev", "devtmpfs", 0, "mode=0755");
  open_console("console");
  load_modules(INITRAMFS_MODULES, true);
  mark("drivers");
  switch_to_root();
  run_root();
}

/* The last part of a path. */
static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash == NULL ? path : slash + 1;
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(base_name(argv[0]), "modprobe") == 0) return modprobe_main(argv[argc - 1]);
  if (argc > 1 && strcmp(argv[1], "pause") == 0) return pause_main();
  if (getpid() != 1) {
    say("this is PID 1 of a guest; as another process it knows only: init pause");
    return 2;
  }
  if (argc > 2 && strcmp(argv[1], "supervise") == 0) {
    struct options options = {0};
    supervise(argv + 2, &options);
  }
  mark("init");
  if (strcmp(argv[0], "/init") == 0) run_initramfs();
  run_root();
}
