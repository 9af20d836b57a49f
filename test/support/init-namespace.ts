/** Runs the guest's init as PID 1 of a PID namespace of its own, where powering off ends the namespace and no more. */
import { resolve } from 'node:path'
import { execa } from 'execa'

export const INIT = resolve(import.meta.dirname, '../../build/init/init')

/** The same, with an exit pipe that is full after this many records. */
export const INIT_SMALL_PIPE = `${INIT}-small-pipe`
export const SMALL_PIPE_RECORDS = Math.floor(4096 / 24)

export interface InitRun {
  /** What init and the agent printed. */
  readonly output: string
  /** How the namespace ended: reboot(2) below the first PID namespace kills its PID 1 with SIGINT. */
  readonly poweredOff: boolean
}

/** `init supervise` with init-agent.ts playing `scene` as its agent, until it powers off. */
export async function superviseScene(scene: readonly string[], init = INIT): Promise<InitRun> {
  const agent = resolve(import.meta.dirname, 'init-agent.ts')
  return await inNamespace([init, 'supervise', process.execPath, agent, ...scene])
}

/** `command` as PID 1. Killed with everything in it when this process dies. */
export async function inNamespace(command: readonly string[]): Promise<InitRun> {
  const unshare = ['--fork', '--pid', '--mount-proc', '--kill-child', ...command]
  const { all, exitCode, signal } = await execa('unshare', unshare, { all: true, reject: false, maxBuffer: 64 * 1024 * 1024 })
  // unshare(1) ends as its child did: by the same signal, or with 128 + its number.
  return { output: all, poweredOff: signal === 'SIGINT' || exitCode === 130 }
}
