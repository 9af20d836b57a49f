/*
 * The least a guest can do: PID 1 that loads what vsock needs, says hello to the host and powers off. The time from
 * QEMU's start to that hello is the floor under a pod's start: nothing that runs in this kernel can be up sooner.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOST_PORT 1025
#define MODULE_PATH_BYTES_MAX 256

static _Noreturn void power_off(void) {
  reboot(RB_POWER_OFF);
  reboot(RB_AUTOBOOT);
  _exit(1);
}

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "floor: cannot %s: %s\n", what, strerror(errno));
  power_off();
}

static void load_modules(const char *list_path) {
  char path[MODULE_PATH_BYTES_MAX];
  FILE *list = fopen(list_path, "re");
  if (list == NULL) fail("read the list of modules");
  while (fgets(path, sizeof path, list) != NULL) {
    path[strcspn(path, "\n")] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) fail(path);
    close(fd);
  }
  fclose(list);
}

int main(void) {
  static const char hello[] = "hello\n";
  const struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = HOST_PORT};
  char end;
  load_modules("/modules");
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (const struct sockaddr *)&host, sizeof host) != 0) fail("reach the host");
  if (write(fd, hello, sizeof hello - 1) != (ssize_t)sizeof hello - 1) fail("say hello");
  /* The host closes once it has heard: power that goes before would take the word with it. */
  while (read(fd, &end, 1) > 0) continue;
  power_off();
}
