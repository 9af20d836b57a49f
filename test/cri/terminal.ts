/** A terminal joined to a stream: raw keys in, output out, the window's size along. */

import type { ExecStreamOptions } from './container.ts'
import type { Stream } from './stream.ts'

/** Opens the stream with this process's terminal and answers the exit code. */
export async function runTerminal(open: (options: ExecStreamOptions) => Promise<Stream>): Promise<number> {
  const { stdin, stdout } = process
  const stream = await open({ stdin: true, tty: true, onOutput: (_, data) => void stdout.write(data) })
  const resize = () => stream.resize({ columns: stdout.columns, rows: stdout.rows })
  const forward = (data: Buffer) => stream.write(data)
  if (stdout.isTTY) {
    resize()
    stdout.on('resize', resize)
  }
  if (stdin.isTTY) stdin.setRawMode(true)
  stdin.on('data', forward)
  try {
    return (await stream.done).exitCode
  } finally {
    stdout.off('resize', resize)
    stdin.off('data', forward)
    if (stdin.isTTY) stdin.setRawMode(false)
    stdin.pause()
  }
}
