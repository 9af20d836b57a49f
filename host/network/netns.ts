/** Network namespaces, and iproute2 inside one: one process for `nsenter` and a shell, and one for each program's whole batch. */
import { execFile } from 'node:child_process'
import { statfs, writeFile } from 'node:fs/promises'
import { RuntimeError } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'

/** Longer than any batch takes on a busy machine, in ms. */
const IPROUTE_MS_MAX = 30_000
/** The longest answer: some hundred bytes for each of the routes and neighbours of a pod. */
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024
/** Magic number of the file system that namespaces lie on, statfs(2). */
const NSFS_MAGIC = 0x6e736673

export interface Said {
  /** Undefined when it could not be run or was killed. */
  readonly exitCode: number | undefined
  readonly stdout: string
  readonly stderr: string
}

/** Runs a shell script in the namespace. A failure is a result; only that it could not be run at all is an error. */
export const inNetns = (netns: string, script: string): Promise<Said> => runInNetns(netns, ['sh', '-c', script])

/** Runs one program there, with its arguments as they are. */
export function runInNetns(netns: string, command: readonly string[], timeoutMs = IPROUTE_MS_MAX): Promise<Said> {
  return run(['nsenter', `--net=${netns}`, ...command], netns, timeoutMs)
}

/** A new one, empty but for its loopback, that lasts while the file `path` has it mounted. Errors: INTERNAL. */
export async function makeNetns(path: string): Promise<void> {
  await writeFile(path, '', { flag: 'wx', mode: 0o600 })
  const { exitCode, stderr } = await run(['unshare', `--net=${path}`, '--', 'true'], path)
  if (exitCode !== 0) throw new RuntimeError('INTERNAL', `the network namespace ${path} cannot be made: ${stderr.trim()}`)
}

function run([file = '', ...args]: readonly string[], netns: string, timeoutMs = IPROUTE_MS_MAX): Promise<Said> {
  const options = { timeout: timeoutMs, killSignal: 'SIGKILL', maxBuffer: OUTPUT_BYTES_MAX } as const
  return new Promise((resolve, reject) => {
    execFile(file, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve({ exitCode: 0, stdout, stderr })
      if (typeof error.code === 'number') return resolve({ exitCode: error.code, stdout, stderr })
      const why = error.killed === true ? `not done within ${timeoutMs} ms` : error.message
      return reject(new RuntimeError('INTERNAL', `iproute2 in ${netns}: ${stderr.trim() || why}`, { cause: error }))
    })
  })
}

/** A command whose standard input is a here-document, in which the shell expands nothing; `then` follows the command. */
export const feed = (command: string, lines: readonly string[], then = ''): string =>
  `${command} <<'END-OF-BATCH' ${then}\n${lines.join('\n')}\nEND-OF-BATCH\n`

/** False once nothing is mounted on its name: CNI's namespaces are bind mounts. */
export async function netnsExists(netns: string): Promise<boolean> {
  try {
    return (await statfs(netns)).type === NSFS_MAGIC
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false
    throw error
  }
}
