/** The stdio strings of Create and Exec: stream addresses, or nothing. A plan: nothing is opened. */
import { RuntimeError } from '#shared/errors.ts'
import { STREAM_ID_LENGTH_MAX } from '../streams/registry.ts'

/** What containerd asked for, kept to be echoed by State. */
export interface Stdio {
  readonly stdin: string
  readonly stdout: string
  readonly stderr: string
  readonly terminal: boolean
}

/** The ids of the streams a process is connected to; undefined for /dev/null. */
export interface StdioPlan {
  readonly stdin: string | undefined
  readonly stdout: string | undefined
  readonly stderr: string | undefined
  readonly terminal: boolean
}

export function planStdio(stdio: Stdio, about: string): StdioPlan {
  return {
    stdin: streamId(stdio.stdin, 'stdin', about),
    stdout: streamId(stdio.stdout, 'stdout', about),
    stderr: stdio.terminal ? undefined : streamId(stdio.stderr, 'stderr', about),
    terminal: stdio.terminal,
  }
}

function streamId(address: string, name: string, about: string): string | undefined {
  if (address === '') return undefined
  const url = URL.canParse(address) ? new URL(address) : undefined
  if (url === undefined || !url.protocol.startsWith('ttrpc+')) {
    throw new RuntimeError(
      'INVALID_ARGUMENT',
      `${about}: ${name} is ${JSON.stringify(address.slice(0, 200))}, a path on the host that a VM cannot open; ` +
        'set io_type = "streaming" for this runtime in containerd\'s configuration',
    )
  }
  const id = url.searchParams.get('streaming_id')
  if (id === null || id === '' || id.length > STREAM_ID_LENGTH_MAX) {
    throw new RuntimeError('INVALID_ARGUMENT', `${about}: ${name} is ${JSON.stringify(address.slice(0, 200))}, without a usable streaming_id`)
  }
  return id
}
