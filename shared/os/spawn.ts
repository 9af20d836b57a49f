/** Programs as children of this process, started and reaped by the addon: Node's own way is a fork of all of Node. */
import { constants } from 'node:os'
import type { Addon } from './addon.ts'
import type { Child, ChildEnd, Program } from './contract.ts'
import { attempt, OsError } from './error.ts'

/** `watchPidfd` calls back once when the process has ended. */
export function spawnProgram(addon: Addon, program: Program, watchPidfd: (pidfd: number, onExit: () => void) => Disposable): Child {
  const { file, args, env, stdio } = program
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  const fds = [stdio?.stdin ?? -1, stdio?.stdout ?? -1, stdio?.stderr ?? -1] as const
  const [pid, pidfd] = attempt(`start ${file}`, () => addon.spawn(file, [file, ...args], variables, ...fds))
  const { promise: ended, resolve } = Promise.withResolvers<ChildEnd>()
  let running = true
  watchPidfd(pidfd, () => {
    running = false
    resolve(endOf(addon.waitChild(pid), file))
  })
  return {
    pid,
    ended,
    kill() {
      // Until it is reaped its pid is nobody else's.
      if (running) process.kill(pid, 'SIGKILL')
    },
  }
}

function endOf(status: number | undefined, file: string): ChildEnd {
  if (status === undefined) throw new OsError('ECHILD', 'waitpid', `${file} has ended and cannot be reaped (ECHILD)`)
  const signal = status & 0x7f
  return signal === 0 ? { exitCode: (status >> 8) & 0xff, signal: undefined } : { exitCode: undefined, signal: signalName(signal) }
}

function signalName(number: number): string {
  return Object.entries(constants.signals).find(([, value]) => value === number)?.[0] ?? `signal ${number}`
}
