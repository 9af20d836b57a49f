/*
 * PID 1 of the guest, one static binary:
 *
 *   /init            stage 1, in the initramfs: loads the disk's modules, mounts the root, becomes stage 2
 *   /sbin/init       stage 2, on the root: mounts, loads modules, starts the agent, reaps for ever
 *   init supervise   stage 2 from the agent on, for tests and for machines that are set up already
 *   init pause       PID 1 of a pod-shared PID namespace: reaps and otherwise sleeps
 *   modprobe -q -- NAME   run by the kernel when it lacks a module: loads it if image/ provided it
 *
 * Nothing is restarted: when something cannot work, init says why on the console and powers the machine off.
 */
#ifndef KUASAR_INIT_H
#define KUASAR_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

/* How long the root disk may take to appear after its driver is loaded, in milliseconds. */
#define ROOT_WAIT_MS_MAX 5000

/* How long file systems may take to be written back before the power goes, in milliseconds. */
#define SYNC_WAIT_MS_MAX 2000

/* How long the agent may stay stopped by a signal, in milliseconds: containerd waits for its answers without a deadline. */
#define AGENT_STOPPED_MS_MAX 600

/* Longest kernel command line, COMMAND_LINE_SIZE of x86. */
#define COMMAND_LINE_BYTES_MAX 2048

/* Longest list of boot marks handed to the agent, in bytes. A mark that does not fit is left out. */
#define MARKS_BYTES_MAX 1024

/* Longest line of a module list. */
#define MODULE_PATH_BYTES_MAX 256

/* Capacity of the exit pipe in bytes: 43690 records, allocated as they come. A test builds init with a small one. */
#ifndef EXIT_PIPE_BYTES
#define EXIT_PIPE_BYTES (1024 * 1024)
#endif

/* Where the agent finds the read end of the exit pipe. */
#define EXIT_PIPE_FD 3

/* What the agent calls itself (proc_pid_comm(5)) once it runs. Until then its start-up snapshot has not loaded. */
#define AGENT_NAME "kuasar-agent"

/* Node's option for a start from a snapshot; the first argument, the blob being the second. */
#define SNAPSHOT_OPTION "--snapshot-blob"

struct options {
  char console[32];  /* kuasar.console=NAME: device below /dev for init's and the agent's output; empty is /dev/console */
  char log[16];      /* kuasar.log=LEVEL: the agent's log level (KUASAR_AGENT_CONFIG); "debug" makes init print its marks */
  char agent[128];   /* kuasar.agent=/path: program run in the agent's place, without arguments */
};

/* say.c: the console */
void open_console(const char *name);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says the message and the text of errno, then powers off. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void power_off(void);

/* mark.c: when each part of the boot was reached */
uint64_t clock_nanos(clockid_t clock);
void mark(const char *name);
const char *marks(void);

/* options.c */
void read_options(struct options *options);

/* modules.c: a list names one module file per line, in load order; a leading '-' lets that module fail */
void load_modules(const char *list_path, bool unlink_after);
/* Loads what the kernel asks for by this name; 1 when there is no such module or it does not load. */
int modprobe_main(const char *name);

/* mounts.c */
void mount_or_fail(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
void mount_system(void);
void loopback_up(void);

/* The modes. */
void switch_to_root(void);
_Noreturn void supervise(char *const *command, const struct options *options);
_Noreturn void run_agent(const struct options *options);
_Noreturn void run_bundle(const struct options *options);
int pause_main(void);

#endif
