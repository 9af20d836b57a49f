/**
 * One sandboxer per state directory. The lock is an abstract unix socket named after the directory's identity: the
 * kernel grants it to one process and takes it back at that process's death, however it dies. It holds within a network
 * namespace, which sandboxers of one directory share.
 */
import { stat } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { RuntimeError } from '#shared/errors.ts'
import { isErrno } from '#shared/os/error.ts'

const ASK_TIMEOUT_MS = 1_000

/** Held until the process ends. Errors: FAILED_PRECONDITION naming the process that holds it. */
export async function lockStateDir(dir: string): Promise<void> {
  const { dev, ino } = await stat(dir)
  const name = `\0kuasar/${dev}:${ino}`
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.end(`${process.pid}\n`)
  })
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(name, resolve))
  } catch (error) {
    if (!isErrno(error, 'EADDRINUSE')) throw error
    throw new RuntimeError('FAILED_PRECONDITION', `another sandboxer${await holder(name)} works in ${dir}: end it first, or set sandboxer.state_dir`)
  }
  server.unref()
}

function holder(name: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(name)
    socket.setTimeout(ASK_TIMEOUT_MS, () => socket.destroy())
    socket.once('data', (pid) => resolve(` (process ${pid.toString().trim()})`))
    socket.once('error', () => {})
    socket.once('close', () => resolve(''))
  })
}
