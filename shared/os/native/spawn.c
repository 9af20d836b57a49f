/*
 * Starting a program without fork(2), which would copy Node's page tables and then cost it a fault for every page it
 * touches. posix_spawn(3) lends the child the address space until its exec, and reports a failed exec as its own.
 */
#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Longest list of arguments or variables. */
#define WORDS_MAX 256

static void free_words(char **words) {
  for (char **word = words; words != NULL && *word != NULL; word++) free(*word);
  free(words);
}

/* An array of strings as a vector that ends with NULL, for free_words. On NULL an error is pending. */
static char **read_words(napi_env env, napi_value array) {
  uint32_t length;
  if (napi_get_array_length(env, array, &length) != napi_ok || length > WORDS_MAX) {
    napi_throw_type_error(env, NULL, "expected an array of at most 256 strings");
    return NULL;
  }
  char **words = calloc(length + 1, sizeof *words);
  for (uint32_t at = 0; words != NULL && at < length; at++) {
    napi_value value;
    String word;
    if (napi_get_element(env, array, at, &value) != napi_ok || !read_string(env, value, word)) {
      free_words(words);
      return NULL;
    }
    if ((words[at] = strdup(word)) == NULL) {
      free_words(words);
      words = NULL;
    }
  }
  if (words == NULL) throw_errno(env, "malloc");
  return words;
}

/* A descriptor below 0 stands for /dev/null. All signals as after boot: Node ignores some, and blocks them at times. */
static int start(pid_t *pid, const char *file, char **argv, char **envp, const int32_t fds[3]) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  sigemptyset(&none);
  /* Not sigfillset(3), which leaves out the two of glibc's own; those the child would then ignore for good. */
  memset(&all, 0xff, sizeof all);
  int error = posix_spawn_file_actions_init(&actions);
  if (error != 0) return error;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);
  for (int at = 0; at < 3 && error == 0; at++)
    error = fds[at] < 0 ? posix_spawn_file_actions_addopen(&actions, at, "/dev/null", at == 0 ? O_RDONLY : O_WRONLY, 0)
                        : posix_spawn_file_actions_adddup2(&actions, fds[at], at);
  if (error == 0) error = posix_spawn(pid, file, &actions, &attributes, argv, envp);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error;
}

/* A pidfd of a child. Without one nobody would hear of the child's end, so that comes at once. */
static int watch_or_end(pid_t pid) {
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (fd >= 0) return fd;
  int error = errno;
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  errno = error;
  return -1;
}

/* (file, [argument 0, …], ["NAME=value", …], stdin, stdout, stderr) → [pid, pidfd]. */
napi_value spawn_program(napi_env env, napi_callback_info info) {
  napi_value args[6];
  String file;
  int32_t fds[3];
  if (!read_args(env, info, 6, args) || !read_string(env, args[0], file)) return NULL;
  for (int at = 0; at < 3; at++)
    if (!read_int(env, args[3 + at], &fds[at])) return NULL;
  char **argv = read_words(env, args[1]);
  char **envp = argv == NULL ? NULL : read_words(env, args[2]);
  if (envp == NULL) {
    free_words(argv);
    return NULL;
  }
  pid_t pid;
  int error = start(&pid, file, argv, envp, fds);
  free_words(argv);
  free_words(envp);
  errno = error;
  if (error != 0) return throw_errno(env, "posix_spawn");
  int pidfd = watch_or_end(pid);
  return pidfd < 0 ? throw_errno(env, "pidfd_open") : make_array(env, (int64_t[]){pid, pidfd}, 2);
}

/* (pid of a child) → its wait status, waitpid(2), once; undefined while it lives. */
napi_value wait_child(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int32_t pid;
  int status;
  if (!read_args(env, info, 1, args) || !read_int(env, args[0], &pid)) return NULL;
  pid_t ended = waitpid(pid, &status, WNOHANG);
  if (ended < 0) return throw_errno(env, "waitpid");
  return ended == 0 ? NULL : make_int(env, status);
}
