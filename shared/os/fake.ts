/**
 * The contract without native code, for tests of what stands on it. Streams are real (named pipes, unix sockets), so
 * back-pressure and half-closing behave; mounts, clocks and exits are kept in memory, where a test reads and drives them.
 */
import { spawn } from 'node:child_process'
import { closeSync } from 'node:fs'
import type { Child, ChildEnd, MountRequest, Os, Program } from './contract.ts'
import { OsError } from './error.ts'
import { FakeConsoles } from './fake-console.ts'
import { FakeLocalhosts } from './fake-localhost.ts'
import { fakePipe, fakeStream } from './fake-pipe.ts'
import { FakeVsockNetwork } from './fake-vsock.ts'
import { planMount } from './mount-plan.ts'

export interface FakeOsOptions {
  /** This machine's CID; default 3, the first that a guest may have. */
  readonly cid?: number
  /** Fake machines on one network reach each other; default a network of its own. */
  readonly network?: FakeVsockNetwork
}

export interface FakeOs extends Os, AsyncDisposable {
  readonly network: FakeVsockNetwork
  readonly localhost: FakeLocalhosts
  /** What is mounted, in the order it was mounted. */
  readonly mounted: readonly MountRequest[]
  /** Last size given to each terminal, as columns and rows. */
  readonly sizes: ReadonlyMap<number, readonly [columns: number, rows: number]>
  readonly hostname: string
  /** What setRealtime was last given, in nanoseconds since the epoch. */
  readonly realtime: bigint | undefined
  readonly poweredOff: boolean
  /** Makes `pid` a living process that `watch` accepts. */
  start(pid: number): void
  /** Ends `pid`: watchers are called, in the order they came. */
  exit(pid: number): void
  /** Plays the OCI runtime: gives `fd` to whoever listens at `path`. */
  sendConsole(path: string, fd: number): void
}

const FIRST_GUEST_CID = 3

export function createFakeOs({ cid = FIRST_GUEST_CID, network }: FakeOsOptions = {}): FakeOs {
  const ownNetwork = network ?? new FakeVsockNetwork()
  const consoles = new FakeConsoles()
  const mounted: MountRequest[] = []
  const sizes = new Map<number, readonly [number, number]>()
  const living = new Map<number, Set<() => void>>()
  let hostname = 'localhost'
  let realtime: bigint | undefined
  let poweredOff = false

  return {
    network: ownNetwork,
    localhost: new FakeLocalhosts(),
    mounted,
    sizes,
    get hostname() {
      return hostname
    },
    get realtime() {
      return realtime
    },
    get poweredOff() {
      return poweredOff
    },
    vsock: ownNetwork.machine(cid),
    descriptors: { pipe: fakePipe, stream: fakeStream, close: (fd) => closeSync(fd) },
    terminals: {
      listenConsole: async (path) => consoles.listen(path),
      resize: (fd, columns, rows) => void sizes.set(fd, [columns, rows]),
    },
    mounts: {
      mount(request) {
        planMount(request)
        if (!request.options.includes('remount')) mounted.push(request)
      },
      unmount(target) {
        const at = mounted.findLastIndex((request) => request.target === target)
        if (at < 0) throw new OsError('EINVAL', 'umount2', `unmount ${target}: not a mount point (EINVAL)`)
        mounted.splice(at, 1)
      },
      restrict(target) {
        if (!mounted.some((request) => request.target === target)) throw new OsError('EINVAL', 'mount_setattr', `make ${target} read-only: not a mount point (EINVAL)`)
      },
    },
    processes: {
      spawn: fakeSpawn,
      watch(pid, onExit) {
        const watchers = living.get(pid)
        if (watchers === undefined) throw new OsError('ESRCH', 'pidfd_open', `watch process ${pid}: no such process (ESRCH)`)
        const once = () => onExit()
        watchers.add(once)
        return { [Symbol.dispose]: () => void watchers.delete(once) }
      },
      sethostname(name) {
        hostname = name
      },
      setRealtime(unixNanos) {
        realtime = unixNanos
      },
      bootTimeNanos: () => process.hrtime.bigint(),
      powerOff() {
        poweredOff = true
      },
    },
    start(pid) {
      if (!living.has(pid)) living.set(pid, new Set())
    },
    exit(pid) {
      const watchers = living.get(pid)
      living.delete(pid)
      for (const call of watchers ?? []) call()
    },
    sendConsole: (path, fd) => consoles.send(path, fd),
    async [Symbol.asyncDispose]() {
      if (network === undefined) await ownNetwork[Symbol.asyncDispose]()
    },
  }
}

/** A real child, by Node's own means. */
function fakeSpawn({ file, args, env, stdio }: Program): Child {
  const child = spawn(file, args, { env, stdio: stdio === undefined ? 'ignore' : [stdio.stdin, stdio.stdout, stdio.stderr] })
  child.on('error', () => {})
  const { pid } = child
  if (pid === undefined) throw new OsError('ENOENT', 'posix_spawn', `start ${file}: no such file or directory (ENOENT)`)
  const { promise: ended, resolve } = Promise.withResolvers<ChildEnd>()
  child.once('exit', (code, signal) => resolve({ exitCode: code ?? undefined, signal: signal ?? undefined }))
  return { pid, ended, kill: () => void child.kill('SIGKILL') }
}
