/**
 * What the kernel gives us that Node cannot reach, as one contract. `native.ts` keeps it with the addon,
 * `fake.ts` keeps it in memory for tests. Nothing else in the project may load native code.
 *
 * Every failure is an `OsError`: `code` is the errno name ("ECONNRESET"), `syscall` the call that failed.
 */
import type { Socket } from 'node:net'
import type { Vsock } from './vsock/contract.ts'

export * from './vsock/contract.ts'

/** A real pipe(2), both ends close-on-exec: a child's stdio must not be a socket, or /dev/stdout cannot be reopened. */
export interface Pipe {
  readonly readFd: number
  readonly writeFd: number
}

export interface Descriptors {
  pipe(): Pipe
  /**
   * Wraps a pipe end, a pty master or a socket as an ordinary stream that owns `fd`. EIO of a closed pty reads as end,
   * and what is written after it is dropped.
   * Errors: EPERM for what cannot be polled, a regular file or /dev/null; `fd` is then still the caller's.
   */
  stream(fd: number, mode: 'read' | 'write' | 'duplex'): Socket
  /** Closes a descriptor that no stream owns. */
  close(fd: number): void
}

export interface ConsoleListener extends AsyncDisposable {
  /** The pty master that the OCI runtime sends on `--console-socket` (SCM_RIGHTS). Resolves once. */
  receive(signal?: AbortSignal): Promise<number>
}

export interface Terminals {
  /** Listens on a unix socket for one pty master. The path is removed on disposal. */
  listenConsole(path: string): Promise<ConsoleListener>
  /** TIOCSWINSZ. */
  resize(fd: number, columns: number, rows: number): void
}

export interface MountRequest {
  readonly source: string
  readonly target: string
  /** File-system type; empty for a bind, remount or propagation change. */
  readonly type: string
  /**
   * OCI / fstab option words ("ro", "rbind", "nosuid", "rslave", …); words that are no flag travel as data. "move" alone
   * moves the mount at `source`.
   */
  readonly options: readonly string[]
}

export interface Mounts {
  mount(request: MountRequest): void
  /** MNT_DETACH when `lazy`. A link as `target` is no mount point. EINVAL (not a mount point) and ENOENT are reported, not swallowed. */
  unmount(target: string, lazy?: boolean): void
  /**
   * Makes the mount at `target` and every one below it read-only, nosuid and nodev, at once: nobody who renames what lies below can
   * keep one from it. ENOSYS before Linux 5.12. Source: mount_setattr(2), AT_RECURSIVE.
   */
  restrict(target: string): void
}

/** A program to run in our working directory. */
export interface Program {
  readonly file: string
  /** Without the program's name in front */
  readonly args: readonly string[]
  /** All of its environment */
  readonly env: Readonly<Record<string, string>>
  /** What it gets as its descriptors 0, 1 and 2; each above 2 here, and still ours to close. Undefined: /dev/null. */
  readonly stdio: { readonly stdin: number; readonly stdout: number; readonly stderr: number } | undefined
}

export interface ChildEnd {
  /** Undefined when a signal ended it */
  readonly exitCode: number | undefined
  /** "SIGKILL"; undefined when it exited */
  readonly signal: string | undefined
}

export interface Child {
  readonly pid: number
  /** Resolves when it has ended, and has been reaped. */
  readonly ended: Promise<ChildEnd>
  /** SIGKILL; nothing when it has ended. */
  kill(): void
}

export interface Processes {
  /**
   * Runs a program as a child, which inherits nothing but what is named. Its exec is over when this returns.
   * Errors: ENOENT, EACCES and whatever else exec(2) says; EAGAIN.
   */
  spawn(program: Program): Child
  /**
   * Watches any process, child or not, by pidfd. Calls back once when it ends, with no status (only a parent
   * learns that). Errors: ESRCH when it is gone already.
   */
  watch(pid: number, onExit: () => void): Disposable
  sethostname(name: string): void
  /** Sets CLOCK_REALTIME. `unixNanos` in nanoseconds since the epoch. */
  setRealtime(unixNanos: bigint): void
  /** CLOCK_BOOTTIME in nanoseconds: since the kernel started, sleep included. */
  bootTimeNanos(): bigint
  /** sync(2) then reboot(RB_POWER_OFF). Only PID 1's namespace owner may. */
  powerOff(): void
}

export interface LocalhostListener extends Disposable {
  /** Gives localhost back, at once. Open connections live on, and keep the namespace. Idempotent. */
  close(): void
}

export interface Localhost {
  /**
   * Takes every TCP connection made inside a network namespace to 127.0.0.0/8 or ::1, whatever its port, in place of
   * whoever listens there; `port` is the one that was dialled. The sockets come paused, may be half-open, and do not
   * delay. Nothing of it outlives this process, however that ends.
   * Errors: ENOENT no such namespace, EPERM; EINVAL or ENOSYS of the kernel before 5.9, or without CONFIG_BPF_SYSCALL.
   */
  listen(netnsPath: string, onConnection: (socket: Socket, port: number) => void): Promise<LocalhostListener>
}

export interface Os {
  readonly vsock: Vsock
  readonly descriptors: Descriptors
  readonly terminals: Terminals
  readonly mounts: Mounts
  readonly processes: Processes
  readonly localhost: Localhost
}
