/** The contract kept by the kernel, through the addon. */
import { closeSync } from 'node:fs'
import { type Addon, addon as loadAddon } from './addon.ts'
import { listenConsole } from './console.ts'
import type { MountRequest, Os } from './contract.ts'
import { attempt } from './error.ts'
import { createLocalhost } from './localhost.ts'
import { planMount } from './mount-plan.ts'
import { watchReadable } from './poll.ts'
import { spawnProgram } from './spawn.ts'
import { descriptorStream } from './stream.ts'
import { createVsock } from './vsock/vsock.ts'

/** umount2(2). */
const MNT_DETACH = 2
const UMOUNT_NOFOLLOW = 8

/** The kernel's own services. The addon is loaded on first use; see addon.ts for where from. */
export function createNativeOs(addon: () => Addon = loadAddon): Os {
  return {
    vsock: createVsock(addon),
    descriptors: {
      pipe() {
        const [readFd, writeFd] = attempt('create a pipe', () => addon().pipe())
        return { readFd, writeFd }
      },
      stream(fd, mode) {
        // libuv's pipe handle takes any descriptor and aborts the process when epoll does not; its poll handle asks first.
        watchReadable(addon(), fd, () => {})[Symbol.dispose]()
        return descriptorStream(fd, mode)
      },
      close: (fd) => closeSync(fd),
    },
    terminals: {
      listenConsole: (path) => listenConsole(addon(), path),
      resize(fd, columns, rows) {
        attempt(`resize the terminal ${fd} to ${columns} x ${rows}`, () => addon().resize(fd, columns, rows))
      },
    },
    mounts: {
      mount: (request) => mount(addon(), request),
      restrict: (target) => attempt(`make ${target} and what is mounted below it read-only`, () => addon().restrict(target)),
      unmount: (target, lazy = false) => attempt(`unmount ${target}`, () => addon().unmount(target, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0))),
    },
    processes: {
      spawn: (program) => spawnProgram(addon(), program, (pidfd, onExit) => watchPidfd(addon(), pidfd, onExit)),
      watch: (pid, onExit) => watchExit(addon(), pid, onExit),
      sethostname: (name) => attempt(`set the host name to "${name}"`, () => addon().setHostname(name)),
      setRealtime: (unixNanos) => attempt(`set the clock to ${unixNanos} ns`, () => addon().setRealtime(unixNanos)),
      bootTimeNanos: () => addon().bootTime(),
      powerOff: () => attempt('power off', () => addon().powerOff()),
    },
    localhost: createLocalhost(addon),
  }
}

/** All calls of the plan, or none: a mount whose later step fails is taken away again. */
function mount(addon: Addon, request: MountRequest): void {
  const { source, target } = request
  const about = `mount ${source === '' ? request.type : source} on ${target}`
  planMount(request).forEach((call, index) => {
    try {
      attempt(about, () => addon.mount(call.source, target, call.type, call.flags, call.data))
    } catch (error) {
      const created = index > 0 && !request.options.includes('remount')
      if (created) addon.unmount(target, MNT_DETACH)
      throw error
    }
  })
}

function watchExit(addon: Addon, pid: number, onExit: () => void): Disposable {
  return watchPidfd(addon, attempt(`watch process ${pid}`, () => addon.pidfdOpen(pid)), onExit)
}

/** Owns `fd`, a pidfd: it reads as ready once its process is a zombie or gone, pidfd_open(2). */
function watchPidfd(addon: Addon, fd: number, onExit: () => void): Disposable {
  const stop = () => {
    if (!active) return
    active = false
    watch?.[Symbol.dispose]()
    closeSync(fd)
  }
  let active = true
  let watch: Disposable | undefined
  try {
    watch = watchReadable(addon, fd, () => {
      stop()
      onExit()
    })
  } catch (error) {
    stop()
    throw error
  }
  return { [Symbol.dispose]: stop }
}
