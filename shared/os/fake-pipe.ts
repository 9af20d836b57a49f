/** Real pipes without native code: a named pipe opened from both ends and unlinked. */
import { execFileSync } from 'node:child_process'
import { constants, mkdtempSync, openSync, rmSync } from 'node:fs'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Pipe } from './contract.ts'
import type { StreamMode } from './stream.ts'

export function fakePipe(): Pipe {
  const directory = mkdtempSync(join(tmpdir(), 'kuasar-pipe-'))
  try {
    const path = join(directory, 'pipe')
    execFileSync('mkfifo', ['-m', '600', path])
    // The read end does not wait for a writer, and then the write end finds a reader: neither open blocks.
    const readFd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    return { readFd, writeFd: openSync(path, constants.O_WRONLY | constants.O_NONBLOCK) }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

export function fakeStream(fd: number, mode: StreamMode): Socket {
  return new Socket({ fd, readable: mode !== 'write', writable: mode !== 'read' })
}
