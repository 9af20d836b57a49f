/** One container's cgroup v2 directory. */
import { readdirSync, readFileSync, watch, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { RuntimeError } from '#shared/errors.ts'
import { parseKeyed } from './cgroup-files.ts'

/** Directories of one container's cgroup that are looked into; a container may make its own below. */
const DIRECTORIES_MAX = 1000

export class Cgroup {
  /** Absolute directory. */
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  /** Every process in the cgroup and below it. Empty when the cgroup is gone. */
  pids(): number[] {
    const pids: number[] = []
    const directories = [this.path]
    for (let index = 0; index < directories.length && index < DIRECTORIES_MAX; index++) {
      const directory = directories[index] ?? ''
      try {
        const procs = readFileSync(`${directory}/cgroup.procs`, 'latin1')
        for (const line of procs.split('\n')) if (line !== '') pids.push(Number(line))
        for (const entry of readdirSync(directory, { withFileTypes: true })) {
          if (entry.isDirectory()) directories.push(`${directory}/${entry.name}`)
        }
      } catch {
        // Gone between the listing and the reading: nothing lives in it.
      }
    }
    return pids
  }

  /**
   * SIGKILL to everything in it at once, forks in flight included (cgroup.kill, Linux 5.14). Gone is fine; where the
   * kernel refuses (a container may have made its cgroup threaded), the processes are killed one by one.
   */
  kill(): void {
    try {
      writeFileSync(`${this.path}/cgroup.kill`, '1')
    } catch (error) {
      if (!isMissing(error)) for (const pid of this.pids()) killIgnored(pid)
    }
  }

  /** How many processes and threads it and those below it have, of how many they may have. Undefined without a limit, and when it is gone. */
  processes(): { readonly count: number; readonly max: number } | undefined {
    try {
      const [count, max] = ['current', 'max'].map((name) => Number(readFileSync(`${this.path}/pids.${name}`, 'latin1')))
      // "max" is no number.
      return count === undefined || max === undefined || Number.isNaN(max) ? undefined : { count, max }
    } catch {
      return undefined
    }
  }

  /** How often the kernel's OOM killer struck in it or below; 0 without a memory controller. */
  oomKills(): number {
    try {
      return Number(parseKeyed(readFileSync(`${this.path}/memory.events`, 'latin1')).get('oom_kill') ?? 0)
    } catch {
      return 0
    }
  }

  /** Calls back whenever the memory events may have changed. */
  watchMemoryEvents(changed: () => void): Disposable {
    try {
      const watcher = watch(`${this.path}/memory.events`, { persistent: false }, changed)
      watcher.on('error', () => watcher.close())
      return { [Symbol.dispose]: () => watcher.close() }
    } catch {
      return { [Symbol.dispose]: () => {} }
    }
  }

  /** The contents of the files that exist, by name. Throws NOT_FOUND when the cgroup is gone. */
  async read(names: readonly string[]): Promise<ReadonlyMap<string, string>> {
    const read = async (name: string) => [name, await readFile(`${this.path}/${name}`, 'latin1').catch(() => undefined)] as const
    const files = new Map<string, string>()
    for (const [name, text] of await Promise.all(names.map(read))) if (text !== undefined) files.set(name, text)
    if (files.size === 0) throw new RuntimeError('NOT_FOUND', `the cgroup ${this.path} is gone`)
    return files
  }

  /** Names of the files in it. */
  names(): string[] {
    try {
      return readdirSync(this.path)
    } catch {
      return []
    }
  }
}

function killIgnored(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It ended meanwhile.
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENODEV')
}
