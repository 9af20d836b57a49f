/*
 * Starts the agent and hands it every exit that lands on PID 1.
 *
 * An exit is one record on a pipe, little endian:
 *
 *    0        4        8                16                24
 *    +--------+--------+----------------+-----------------+
 *    | pid    | status | realtime ns    | boottime ns     |
 *    | u32    | u32    | u64            | u64             |
 *    +--------+--------+----------------+-----------------+
 *
 * status is waitpid(2)'s. The record is written while the process is still a zombie and only then is the zombie
 * reaped, so its pid cannot be given to another process before the agent could hear of the exit, and a full pipe
 * loses nothing: the zombies wait in the kernel. The agent's own children are the agent's to reap; what arrives here
 * are orphans, containers among them.
 */
#include "init.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

struct record {
  uint32_t pid, status;
  uint64_t realtime_nanos, boottime_nanos;
};
_Static_assert(sizeof(struct record) == 24, "the agent reads records of 24 bytes");

enum delivery { DELIVERED_ALL, PIPE_FULL, PIPE_CLOSED };

/* waitid(2) splits what waitpid(2) packs: exit code << 8, or signal with bit 7 for a core dump. */
static uint32_t wait_status(const siginfo_t *info) {
  uint32_t value = (uint32_t)info->si_status;
  if (info->si_code == CLD_EXITED) return (value & 0xff) << 8;
  return (value & 0x7f) | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

/* The next zombie, not yet reaped; false when there is none. */
static bool next_zombie(siginfo_t *info) {
  info->si_pid = 0;
  return waitid(P_ALL, 0, info, WEXITED | WNOHANG | WNOWAIT) == 0 && info->si_pid != 0;
}

static void reap(pid_t pid) {
  siginfo_t ignored;
  waitid(P_PID, (id_t)pid, &ignored, WEXITED | WNOHANG);
}

static bool has_ended(pid_t pid, siginfo_t *info) {
  info->si_pid = 0;
  return waitid(P_PID, (id_t)pid, info, WEXITED | WNOHANG | WNOWAIT) == 0 && info->si_pid == pid;
}

/*
 * Stopped by a signal (SIGSTOP) and not continued since; info says by which. The answer is a state, not an event: it is the
 * same as often as it is asked for. A debugger's stops are told to the debugger alone.
 */
static bool is_stopped(pid_t pid, siginfo_t *info) {
  info->si_pid = 0;
  return waitid(P_PID, (id_t)pid, info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info->si_pid == pid;
}

/* Hands over every zombie but the agent. A write of 24 bytes to a pipe is whole or not at all (pipe(7), PIPE_BUF). */
static enum delivery deliver(int pipe_fd, pid_t agent) {
  siginfo_t zombie;
  while (next_zombie(&zombie) && zombie.si_pid != agent) {
    struct record record = {
        .pid = htole32((uint32_t)zombie.si_pid),
        .status = htole32(wait_status(&zombie)),
        .realtime_nanos = htole64(clock_nanos(CLOCK_REALTIME)),
        .boottime_nanos = htole64(clock_nanos(CLOCK_BOOTTIME)),
    };
    if (write(pipe_fd, &record, sizeof record) != (ssize_t)sizeof record)
      return errno == EAGAIN ? PIPE_FULL : PIPE_CLOSED;
    reap(zombie.si_pid);
  }
  return DELIVERED_ALL;
}

static void exec_agent(char *const *command, const struct options *options, int exit_pipe) {
  char marks_variable[MARKS_BYTES_MAX + 32], config_variable[64];
  snprintf(marks_variable, sizeof marks_variable, "KUASAR_BOOT_MARKS=%s", marks());
  snprintf(config_variable, sizeof config_variable, "KUASAR_AGENT_CONFIG={\"logLevel\":\"%s\"}", options->log);
  char *const environment[] = {
      "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", marks_variable, options->log[0] == '\0' ? NULL : config_variable, NULL,
  };
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  setsid();
  int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(exit_pipe, EXIT_PIPE_FD);
  /* The pipe came above this number, so that dup2 made a copy without close-on-exec. */
  execve(command[0], command, environment);
  say("cannot start the agent %s: %s", command[0], strerror(errno));
  _exit(127);
}

/* A pipe whose ends are both above EXIT_PIPE_FD; the write end never blocks. */
static void open_exit_pipe(int *read_end, int *write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail("cannot create the exit pipe");
  *read_end = fcntl(ends[0], F_DUPFD_CLOEXEC, EXIT_PIPE_FD + 1);
  *write_end = fcntl(ends[1], F_DUPFD_CLOEXEC, EXIT_PIPE_FD + 1);
  close(ends[0]);
  close(ends[1]);
  if (*read_end < 0 || *write_end < 0) fail("cannot create the exit pipe");
  fcntl(*write_end, F_SETFL, O_NONBLOCK);
  /* Best effort: with the default of 64 KiB more of the queue stays with the zombies. */
  fcntl(*write_end, F_SETPIPE_SZ, EXIT_PIPE_BYTES);
}

static pid_t start_agent(char *const *command, const struct options *options, int *exit_pipe) {
  int read_end;
  open_exit_pipe(&read_end, exit_pipe);
  mark("agent-exec");
  if (strcmp(options->log, "debug") == 0 || strcmp(options->log, "trace") == 0) say("marks %s", marks());
  pid_t agent = fork();
  if (agent < 0) fail("cannot fork the agent");
  if (agent == 0) exec_agent(command, options, read_end);
  close(read_end);
  return agent;
}

static bool began(pid_t agent) {
  char path[32], name[sizeof AGENT_NAME] = "";
  snprintf(path, sizeof path, "/proc/%d/comm", agent);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd < 0 ? 0 : read(fd, name, sizeof name - 1);
  if (fd >= 0) close(fd);
  return length == sizeof name - 1 && strcmp(name, AGENT_NAME) == 0;
}

/*
 * A start from a snapshot that failed before any of the agent's code ran. Node refuses a blob of another build with an
 * exit status, but a damaged one crashes it, so the name tells and not the status; a zombie still has its name.
 */
static bool is_snapshot_failure(char *const *command, const siginfo_t *end) {
  bool from_snapshot = command[1] != NULL && strcmp(command[1], SNAPSHOT_OPTION) == 0;
  bool failed = end->si_code != CLD_EXITED || end->si_status != 0;
  return from_snapshot && failed && !began(end->si_pid);
}

static _Noreturn void agent_ended(const siginfo_t *info) {
  if (info->si_code == CLD_EXITED) say("the agent (pid %d) exited with status %d; powering off", info->si_pid, info->si_status);
  else say("the agent (pid %d) was killed by signal %d (%s); powering off", info->si_pid, info->si_status, strsignal(info->si_status));
  power_off();
}

/*
 * How long to sleep, in milliseconds; -1 while the agent runs. Its stop and its continuing each wake by SIGCHLD. An agent
 * that stays stopped is as good as dead: whoever asks it would wait for ever.
 */
static int until_stopped_for_good(pid_t agent, uint64_t *stopped_nanos) {
  siginfo_t stop;
  if (!is_stopped(agent, &stop)) {
    *stopped_nanos = 0;
    return -1;
  }
  uint64_t now = clock_nanos(CLOCK_BOOTTIME);
  if (*stopped_nanos == 0) *stopped_nanos = now;
  uint64_t stopped_ms = (now - *stopped_nanos) / 1000000;
  if (stopped_ms < AGENT_STOPPED_MS_MAX) return (int)(AGENT_STOPPED_MS_MAX - stopped_ms);
  say("the agent (pid %d) was stopped by signal %d (%s) and is still; powering off", agent, stop.si_status, strsignal(stop.si_status));
  power_off();
}

/* SIGCHLD wakes; SIGTERM and SIGINT are a wish to power off. All stay blocked and are read here. */
static int open_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) fail("cannot watch signals");
  return fd;
}

static void read_signals(int fd) {
  struct signalfd_siginfo signal;
  while (read(fd, &signal, sizeof signal) == (ssize_t)sizeof signal) {
    if (signal.ssi_signo == SIGCHLD) continue;
    say("signal %u from pid %u; powering off", signal.ssi_signo, signal.ssi_pid);
    power_off();
  }
}

_Noreturn void supervise(char *const *command, const struct options *options) {
  int signals = open_signals(), exit_pipe;
  pid_t agent = start_agent(command, options, &exit_pipe);
  uint64_t stopped_nanos = 0;
  for (;;) {
    siginfo_t end;
    if (has_ended(agent, &end)) {
      if (!is_snapshot_failure(command, &end)) agent_ended(&end);
      say("the start-up snapshot %s does not load; the agent starts from its bundle, which takes longer", command[2]);
      reap(agent);
      close(exit_pipe);
      run_bundle(options);
    }
    enum delivery delivery = deliver(exit_pipe, agent);
    if (delivery == PIPE_CLOSED && !has_ended(agent, &end)) {
      say("the agent (pid %d) closed its exit pipe; powering off", agent);
      power_off();
    }
    struct pollfd waits[] = {{.fd = signals, .events = POLLIN}, {.fd = exit_pipe, .events = POLLOUT}};
    int wait_ms = until_stopped_for_good(agent, &stopped_nanos);
    if (delivery != PIPE_CLOSED) poll(waits, delivery == PIPE_FULL ? 2 : 1, wait_ms);
    read_signals(signals);
  }
}
